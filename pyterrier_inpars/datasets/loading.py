"""Collections by path or name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyterrier_inpars._arguments import one_of
from pyterrier_inpars._names import did_you_mean
from pyterrier_inpars.datasets import beir
from pyterrier_inpars.datasets.collections import BeirFolder, Collection, Files, IrDatasets
from pyterrier_inpars.datasets.lucene import PyseriniProvider
from pyterrier_inpars.datasets.text_folder import TextFolder


def collection(
    name: str | Path,
    source: str = "ir_datasets",
    *,
    docno: str | int | None = None,
    text: str | int | Sequence[str | int] | None = None,
    fix_text: bool = False,
) -> Collection:
    """Returns a collection by its path or its name.

    Args:
        name: A corpus file (see :func:`read_corpus`), a folder in BEIR's layout, with a Lucene
            index or with text files (see `TextFolder`), the name of a BEIR collection
            (``"nfcorpus"``), or another name that the source knows.
        source: Where to look a name up: ``"ir_datasets"``, or ``"pyserini"`` for its prebuilt
            indexes.
        docno: Column of the document id in a corpus file; see :func:`read_corpus`.
        text: Column of the text in a corpus file, field of the text in ir_datasets, or a list of
            these.
        fix_text: Whether to repair texts and queries with ftfy.

    Raises:
        ValueError: The source does not know the name, or it is empty, there is no such source, or
            the collection has no columns to choose.
        FileNotFoundError: A folder lacks a file.
    """
    one_of("source", source, ("ir_datasets", "pyserini"))
    if not str(name).strip():
        raise ValueError("name must not be empty: give a path, or the name of a collection")
    path, name = Path(name).expanduser(), str(name)
    if path.is_file():
        return Files(path, docno=docno, text=text, fix_text=fix_text)
    lucene = path.is_dir() or source == "pyserini"
    found: Collection
    if name in beir.COLLECTIONS and not path.is_dir():
        name = beir.names(name, "pyserini" if lucene else "irds")
    try:
        if path.is_dir() and not any(path.glob("segments_*")):
            found = _of_files(path)
        elif lucene:
            found = PyseriniProvider().get_dataset(str(path) if path.is_dir() else name)
        else:
            found = IrDatasets(name.removeprefix("irds:"), text=text)  # type: ignore[arg-type]
    except KeyError:
        raise ValueError(
            f"{name!r} is not a file or folder, not known to {source}, and not a BEIR collection: "
            f"{did_you_mean(name, beir.COLLECTIONS)}they are {', '.join(beir.COLLECTIONS)}"
        ) from None
    if docno is not None or (lucene and text is not None):
        raise ValueError(
            f"{found!r} has no columns to choose: docno is for a corpus file, and text for a "
            "corpus file or a collection of ir_datasets"
        )
    found.fix_text = fix_text
    return found


def _of_files(folder: Path) -> Collection:
    """Returns a folder in BEIR's layout, or one of text files."""
    try:
        return BeirFolder(folder)
    except FileNotFoundError as no_corpus:
        try:
            return TextFolder(folder)
        except FileNotFoundError as no_texts:
            raise FileNotFoundError(f"{no_corpus}, and {no_texts}") from None
