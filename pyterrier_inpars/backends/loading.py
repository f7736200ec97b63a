"""The ``model`` argument of a stage: a name, a path, the address of a server, or a backend."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from pyterrier_inpars.backends.huggingface import BackendOptions, HuggingFaceBackend
from pyterrier_inpars.backends.openai import OpenAIBackend, ServerOptions


class ModelOptions(BackendOptions, ServerOptions, total=False):
    """Keyword parameters of a stage that are those of its model's backend."""


def as_backend(model: Any, options: dict[str, Any], stage: type) -> Any:
    """Returns the backend for the ``model`` argument of a stage.

    Args:
        model: Name on the hub, folder, ``.gguf`` file, address of an OpenAI-compatible server
            (``http://`` or ``https://``), or a backend object.
        options: Keyword arguments of the stage that are not its own parameters.
        stage: Class of the stage, for error messages.

    Raises:
        TypeError: An option is not a parameter of the model's backend, or ``model`` is a backend
            object, which takes no options.
        ValueError: An option is out of range.
    """
    is_server = isinstance(model, str) and model.startswith(("http://", "https://"))
    known = list((ServerOptions if is_server else BackendOptions).__annotations__)
    for name in options:
        if name not in known:
            parameters = [*inspect.signature(stage).parameters, *known]
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the model takes {', '.join(known)}"
            raise TypeError(f"{stage.__name__} has no parameter {name!r}: {hint}")
    if is_server:
        served_model = options.get("served_model")
        others = {name: value for name, value in options.items() if name != "served_model"}
        return OpenAIBackend(model, served_model, **others)
    if isinstance(model, str | Path):
        return HuggingFaceBackend(model, **options)
    if options:
        raise TypeError(
            f"{', '.join(options)} cannot be given with a backend object: set it on {model!r:.200}"
        )
    return model
