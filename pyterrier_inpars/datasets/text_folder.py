"""Collection of the text files in a folder."""

from __future__ import annotations

import codecs
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from pyterrier_inpars._arguments import one_of
from pyterrier_inpars.datasets.collections import Collection

SUFFIXES = (".txt", ".md")
TITLE_LENGTH = 100
"""Largest number of characters of a first line that is a title."""

_MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|$)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"#{1,6}[ \t]+(.*)")


class TextFolder(Collection):
    """A collection of the text files in a folder and its subfolders, one document per file.

    The ``docno`` is the path in the folder, such as ``notes/monday.txt``, so files of one name in
    two subfolders are two documents. White space and ``%`` in it become percent escapes
    (``my%20notes.txt``), since PISA cuts ids at white space; ``urllib.parse.unquote`` undoes this.

    The text begins with the title: the first line that is not blank, without the ``#`` of a
    Markdown heading, if it has at most 100 characters; or the ``title`` of a Markdown file's front
    matter, which is removed. A file without such a line has its name, without suffix, as the title.

    Files are in UTF-8, or begin with the byte order mark of UTF-8, UTF-16 or UTF-32. Hidden files
    and folders, whose name begins with a dot, and files without text are left out, and links to
    folders are not followed. The order is that of the docnos.

    Args:
        path: Folder.
        suffixes: Suffixes of the files to read, in lower or upper case.
        encoding: Encoding of files that are not in UTF-8 and have no byte order mark, such as
            ``"cp1252"``. By default they cannot be read.
        unreadable: ``"error"`` for a file that cannot be read as text; ``"skip"`` leaves such
            files out, and each pass over the documents ends with a warning that counts them.
        fix_text: Whether to repair texts with ftfy.

    Raises:
        FileNotFoundError: The folder does not exist, or has no file with these suffixes.
        LookupError: There is no such encoding.
        ValueError: ``unreadable`` is invalid; or, when the documents are read, a file is not text
            in one of these encodings, and the error names it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        suffixes: Sequence[str] = SUFFIXES,
        encoding: str | None = None,
        unreadable: str = "error",
        fix_text: bool = False,
    ):
        super().__init__(fix_text=fix_text)
        if encoding is not None:
            codecs.lookup(encoding)
        self.path = Path(path).expanduser()
        self.suffixes = tuple(suffix.lower() for suffix in suffixes)
        self.encoding = encoding
        self.unreadable = one_of("unreadable", unreadable, ("error", "skip"))
        if not self.path.is_dir():
            problem = "is a file, not a folder" if self.path.exists() else "is not a folder"
            raise FileNotFoundError(f"{self.path} {problem}: give a folder of text files")
        if not self.files():
            raise FileNotFoundError(
                f"{self.path} has no file whose name ends in {' or '.join(self.suffixes)}"
            )

    def files(self) -> dict[str, Path]:
        """Returns the files by docno, in the order of the docnos; those without text, too.

        So are subfolders that cannot be listed, since their documents cannot be read either.
        """
        found = []

        def unlisted(error: OSError) -> None:
            found.append(Path(error.filename))

        for folder, folders, names in os.walk(self.path, onerror=unlisted):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                file = Path(folder, name)
                if name.startswith(".") or not name.lower().endswith(self.suffixes):
                    continue
                if file.is_file() or not file.exists():  # a broken link, but no pipe: it blocks
                    found.append(file)
        return dict(sorted((_docno(f.relative_to(self.path).as_posix()), f) for f in found))

    def documents(self) -> Iterator[tuple[str, str]]:
        yield from self._read(self.files())

    def find(self, docnos: set[str]) -> dict[str, str]:
        """Returns the texts of documents by docno; missing documents are left out."""
        files = self.files()
        return dict(self._read({docno: files[docno] for docno in sorted(docnos & files.keys())}))

    def _read(self, files: dict[str, Path]) -> Iterator[tuple[str, str]]:
        skipped = []
        for docno, file in files.items():
            try:
                text = _titled(self._decoded(file), file)
            except (ValueError, OSError) as error:
                if self.unreadable == "error":
                    raise
                skipped.append(str(error))
                continue
            if text:
                yield docno, text
        if skipped:
            warnings.warn(
                f"{len(skipped):,} of {len(files):,} files were skipped, such as {skipped[0]}",
                stacklevel=3,
            )

    def _decoded(self, file: Path) -> str:
        data = file.read_bytes()
        marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
        encodings = [marked] if marked else ["utf-8", *filter(None, [self.encoding])]
        for encoding in encodings:
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError as error:
                where, reason = error.start, error.reason
                continue
            if "\0" not in text:
                return text.replace("\r\n", "\n").replace("\r", "\n")
            where, reason = text.index("\0"), "it has null characters, as binary files do"
        remedy = "remove it" if marked or self.encoding else "give encoding='cp1252' or the like"
        raise ValueError(
            f"{file}: is not text in {' or '.join(encodings)}, from position {where:,}: {reason}; "
            f"{remedy}, or leave such files out with unreadable='skip'"
        )

    def _name(self) -> str:
        return str(self.path)


def _docno(path: str) -> str:
    """Returns a path with white space, ``%`` and undecodable bytes as percent escapes."""
    return re.sub(
        r"[\s%\ud800-\udfff]", lambda char: quote(char[0], errors="surrogateescape"), path
    )


def _titled(text: str, file: Path) -> str:
    """Returns the text with its title first; an empty string if it has no text."""
    title = ""
    if file.suffix.lower() == ".md" and (front := _FRONT_MATTER.match(text)):
        if found := _FRONT_TITLE.search(front[1] or ""):
            title = found[2]
        text = text[front.end() :]
    text = text.strip()
    if not text:
        return ""
    first, _, body = text.partition("\n")
    first = first.strip()
    if file.suffix.lower() == ".md" and (heading := _HEADING.fullmatch(first)):
        first = heading[1]
        unclosed = first.rstrip("#")
        if unclosed[-1:] in ("", " ", "\t"):  # "# Title #", but not "# C#"
            first = unclosed.rstrip()
        text = f"{first}\n{body}".strip()
    if title == first or (not title and len(first) <= TITLE_LENGTH):
        return text
    return f"{title or _words(file.stem)}\n{text}"


def _words(name: str) -> str:
    """Returns a file name as words."""
    name = name.encode(errors="surrogateescape").decode(errors="replace")
    return " ".join(re.sub(r"[_-]+", " ", name).split())
