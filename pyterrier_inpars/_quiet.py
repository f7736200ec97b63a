"""Silences the notices and progress bars of the libraries that load and train models."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("sentence_transformers", "torchao", "torch.utils._pytree")
"""Loggers whose warnings are about these libraries themselves."""


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Hides the libraries' notices and progress bars, unless ``verbose``."""
    if verbose:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, in a notebook
        from transformers.utils import logging as transformers_logging

    loggers = {name: logging.getLogger(name) for name in _LOGGERS}
    before = {name: logger.level for name, logger in loggers.items()}
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
