"""Which line of the user's code a warning names."""

import sys
from types import FrameType

_INSIDE = ("pyterrier", "pyterrier_inpars")


def user_level() -> int:
    """Returns the ``stacklevel`` of a warning in the calling function that names the user's code.

    It is that of the first frame outside this package and PyTerrier, whose pipelines call a stage
    through several functions of their own. Without such a frame, it is the calling function.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _INSIDE:
            return level
        frame, level = frame.f_back, level + 1
    return 1
