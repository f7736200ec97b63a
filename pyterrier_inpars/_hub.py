"""Names of models: on the Hugging Face hub, or in a local folder that stands in for one."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

LOCAL_MODELS = "INPARS_LOCAL_MODELS"
"""Environment variable: a JSON object, or the path of one, from hub names to local folders."""


def resolved(model: str | os.PathLike[str]) -> str:
    """Returns the model's name or path, replaced by its local folder where one is configured.

    On a machine without a network, set ``INPARS_LOCAL_MODELS`` to a JSON object, or to the path of
    a JSON file, that maps hub names to local folders. Every class that loads a model reads it when
    it loads one::

        INPARS_LOCAL_MODELS='{"castorini/monot5-base-msmarco-10k": "/models/monot5"}' python run.py

    Args:
        model: Name on the Hugging Face hub, or a path; a leading ``~`` is the user's home folder.

    Raises:
        ValueError: The variable holds neither a JSON object of strings nor the path of one.
    """
    name = os.path.expanduser(model)
    configured = os.environ.get(LOCAL_MODELS)
    if not configured:
        return name
    try:
        text = configured
        if not configured.lstrip().startswith("{"):
            text = Path(configured).expanduser().read_text(encoding="utf-8-sig")
        folders = json.loads(text)
        return os.path.expanduser(str(folders.get(name, name)))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{LOCAL_MODELS} must be a JSON object from hub names to folders, or the path of one, "
            f"not {configured!r:.200}: {error}"
        ) from error


def adapter_remedy(model: str | os.PathLike[str], revision: str | None = None) -> str:
    """Returns what to do about a LoRA adapter that was saved without its model; else nothing.

    Args:
        model: Name on the hub, or path of a folder.
        revision: Branch, tag or commit on the hub.
    """
    from transformers.utils import cached_file

    def has(file: str) -> bool:
        return bool(
            cached_file(
                resolved(model),
                file,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        )

    with suppress(OSError, ValueError):  # there is no such model
        if has("adapter_config.json") and not has("config.json"):
            return (
                "it holds a LoRA adapter without its model: merge the two first, such as by "
                "peft's AutoPeftModel classes and merge_and_unload(), and save the tokenizer too"
            )
    return ""
