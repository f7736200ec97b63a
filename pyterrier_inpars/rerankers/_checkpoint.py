"""Checkpoints of rerankers: reading their configuration, and replacing them in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyterrier_inpars._hub import adapter_remedy

CHECKPOINT_FILES = (
    r"(model|pytorch_model|adapter_model)\b.*\.(safetensors|bin|index\.json)"
    r"|((generation|tokenizer|adapter|(pre)?processor|sentence_[a-z]+)_)?config\.json"
    r"|config_sentence_transformers\.json"
    r"|(modules|special_tokens_map|added_tokens|tokenizer|vocab|inpars(_training)?|pt_meta)\.json"
    r"|(vocab|merges)\.txt|(spiece|tokenizer|sentencepiece\.bpe)\.model|chat_template\..*|README\.md"
)
"""Names of the files of checkpoints, as a regular expression."""
CHECKPOINT_FOLDERS = r"\d+_[A-Z]\w*"
"""Names of the folders of sentence-transformers modules, such as ``1_Pooling``."""


def check_source(revision: Any, trust_remote_code: Any) -> None:
    """Checks the types of the options that decide what is loaded from the hub.

    Raises:
        TypeError: A type is wrong; ``"no"``, for example, would count as true.
    """
    if not isinstance(revision, str | None):
        raise TypeError(f"revision must be a string or None, not {revision!r:.200}")
    if not isinstance(trust_remote_code, bool):
        raise TypeError(f"trust_remote_code must be True or False, not {trust_remote_code!r:.200}")


def cannot_load(who: str, model: str | os.PathLike[str], error: Exception) -> OSError:
    """Returns the error for a model that is missing, or that ``who`` cannot load."""
    if remedy := adapter_remedy(model):
        return OSError(f"{who} cannot load the model {str(model)!r}: {remedy}")
    return OSError(
        f"{who} cannot load the model {str(model)!r}: give the name of a model on the Hugging Face "
        f"hub, or the path of a folder that holds config.json, the weights and the tokenizer. "
        f"{error}"
    )


def read_json(model: str, file: str, revision: str | None = None) -> Any:
    """Returns the content of a model's JSON file; ``None`` without the file.

    Args:
        model: Name on the hub, or path of a folder.
        file: Name of the file.
        revision: Branch, tag or commit on the hub.
    """
    from transformers.utils import cached_file

    path = cached_file(
        model,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


@contextmanager
def replaced_checkpoint(path: Path) -> Iterator[Path]:
    """Replaces the checkpoint in a folder by what the block writes, if the block succeeds.

    Args:
        path: Folder, created if missing. Files that belong to no checkpoint stay in it.

    Yields:
        A temporary folder to write to.
    """
    created = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    # A folder inside is on the same file system, so that its files can be renamed.
    folder = Path(tempfile.mkdtemp(prefix=".save-", dir=path))
    try:
        yield folder
        for old in path.iterdir():
            if old.is_dir() and re.fullmatch(CHECKPOINT_FOLDERS, old.name):
                shutil.rmtree(old)
            elif old.is_file() and re.fullmatch(CHECKPOINT_FILES, old.name):
                old.unlink()
        for new in folder.iterdir():
            new.replace(path / new.name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if created:
            with suppress(OSError):
                path.rmdir()
        raise
    folder.rmdir()
