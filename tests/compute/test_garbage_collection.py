"""The garbage collector is paused while models load, and only then."""

import gc

import pytest

from pyterrier_inpars._compute.garbage_collection import paused_garbage_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled):
    """Also after an error, and where somebody else had paused it."""
    try:
        (gc.enable if enabled else gc.disable)()
        with paused_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(OSError), paused_garbage_collection():
            raise OSError
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
