"""Base class of the stages that run a language model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars._stage import Stage
from pyterrier_inpars.backends.huggingface import BATCH_SIZE
from pyterrier_inpars.backends.loading import ModelOptions

FEED_BATCHES = 8
"""Batches of the model in one call: places in a batch stay free only at the end of a call."""


class ModelStage(Stage):
    """Base class of a stage with a ``model`` and the options of its backend.

    All parameters can be set after use, as ``set_parameter`` and ``pt.GridScan`` do, the options
    of the backend by their names. Values are checked as in the constructor. A new model or option
    makes a new backend.
    """

    _converters: ClassVar[dict[str, Callable[[Any], Any]]] = {}
    """Functions that check and convert the value of a parameter."""
    _model: Any
    _backend: Any
    _backend_options: dict[str, Any]
    _warned: set[str]

    def _make_backend(self, model: Any, options: dict[str, Any]) -> Any:
        """Returns the backend for a model and its options, or raises if they are invalid."""
        raise NotImplementedError

    def _connect(self, model: Any, options: dict[str, Any]) -> None:
        self._backend = self._make_backend(model, options)
        self._model, self._backend_options = model, options

    def _warn_once(self, kind: str, message: str) -> None:
        """Gives a warning at the user's line, unless ``_warned`` has one of its kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=user_level())

    def __setattr__(self, name: str, value: Any) -> None:
        convert = self._converters.get(name)
        super().__setattr__(name, value if convert is None else convert(value))

    @property
    def model(self) -> Any:
        """The model: a name, a path, or a backend object."""
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        self._connect(model, self._backend_options)

    @property
    def _is_chat(self) -> bool:
        """Whether the model follows instructions in messages."""
        return bool(getattr(self._backend, "chat", False))

    @property
    def batch_size(self) -> int:
        """Number of records that ``Compose.index`` passes at once: eight batches of the model."""
        size = getattr(self._backend, "batch_size", None)
        return FEED_BATCHES * (size if type(size) is int else BATCH_SIZE)

    def get_parameter(self, name: str) -> Any:
        """Returns the value of a parameter, also of an option of the backend."""
        if name in ModelOptions.__annotations__:
            return self._backend_options.get(name)
        return super().get_parameter(name)

    def set_parameter(self, name: str, value: Any) -> None:
        """Sets a parameter, also an option of the backend; see `ModelStage`."""
        if name in ModelOptions.__annotations__:
            options = {**self._backend_options, name: value}
            if value is None:  # the default, or one of no effect
                del options[name]
            self._connect(self._model, options)
        else:
            super().set_parameter(name, value)
