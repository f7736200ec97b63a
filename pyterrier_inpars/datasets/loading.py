"""Collections by path or name."""

from __future__ import annotations

from pathlib import Path

from pyterrier_inpars.datasets import beir
from pyterrier_inpars.datasets.collections import BeirFolder, Collection, Files, IrDatasets
from pyterrier_inpars.datasets.lucene import PyseriniProvider


def collection(
    name: str | Path, source: str = "ir_datasets", *, fix_text: bool = False
) -> Collection:
    """Returns a collection by its path or its name.

    Args:
        name: A corpus file (see :func:`read_corpus`), a folder in BEIR's layout or with a Lucene
            index, the name of a BEIR collection (``"nfcorpus"``), or another name that the source
            knows.
        source: Where to look a name up: ``"ir_datasets"``, or ``"pyserini"`` for its prebuilt
            indexes.
        fix_text: Whether to repair texts and queries with ftfy.

    Raises:
        ValueError: The source does not know the name, or there is no such source.
        FileNotFoundError: A folder lacks a file.
    """
    if source not in ("ir_datasets", "pyserini"):
        raise ValueError(f"source must be 'ir_datasets' or 'pyserini', not {source!r}")
    path, name = Path(name).expanduser(), str(name)
    if path.is_file():
        return Files(path, fix_text=fix_text)
    if path.is_dir() and not any(path.glob("segments_*")):
        return BeirFolder(path, fix_text=fix_text)
    lucene = path.is_dir() or source == "pyserini"
    if name in beir.COLLECTIONS and not path.is_dir():
        name = beir.names(name, "pyserini" if lucene else "irds")
    try:
        if lucene:
            found: Collection = PyseriniProvider().get_dataset(str(path) if path.is_dir() else name)
        else:
            found = IrDatasets(name.removeprefix("irds:"))
    except KeyError:
        raise ValueError(
            f"{name!r} is not a file or folder, not known to {source}, and not a BEIR collection "
            f"({', '.join(beir.COLLECTIONS)})"
        ) from None
    found.fix_text = fix_text
    return found
