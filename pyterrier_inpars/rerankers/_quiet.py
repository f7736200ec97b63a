"""Silences the notices and progress bars of transformers and sentence-transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Hides the libraries' notices and progress bars, unless ``verbose``."""
    if verbose:
        yield
        return
    from transformers.utils import logging as transformers_logging

    sentence_transformers = logging.getLogger("sentence_transformers")
    before = sentence_transformers.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    sentence_transformers.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        sentence_transformers.setLevel(before[0])
        transformers_logging.set_verbosity(before[1])
        if bars:
            transformers_logging.enable_progress_bar()
