"""Test collection of the docstrings of the Python standard library."""

import functools
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import resources
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd

from pyterrier_inpars.datasets import Collection

# Excluded modules: those with side effects on import, those removed from newer Pythons (so that
# most documents exist in every version), tests, optional modules, other names of os.path and re.
_SKIPPED = """
    antigravity this idlelib pydoc_data readline rlcompleter test tests tkinter turtle turtledemo
    aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap
    msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
    genericpath nt ntpath posix posixpath sre_compile sre_constants sre_parse
""".split()

# Docstrings that dataclasses and named tuples generate.
_BOILERPLATE = re.compile(r"[\w.]+\([^)]*\)( -> \w+)?|Alias for field number \d+")


class StdlibDocs(Collection):
    """The Python standard library as a test collection.

    A document is the docstring of a public module, class, function, method or property of the
    running Python. Its ``docno`` is the dotted name, without ``builtins.`` (``str.split``,
    ``os.path.join``). An object with several names, or objects with the same docstring, form one
    document under the most natural name. The 100 topics describe a programmer's information
    needs. Topics and relevance judgements were written by hand: 2 for a document that answers the
    need, 1 for a relevant alternative.

    The documents differ slightly between Python versions. The judgements were made on 3.11.
    """

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yields the docno and text of each document, sorted by docno."""
        yield from _documents().items()

    def find(self, docnos: set[str]) -> dict[str, str]:
        """Returns the texts of those documents that exist."""
        return {docno: _documents()[docno] for docno in docnos & _documents().keys()}

    def get_corpus_lang(self) -> str:
        """Returns the language of the documents."""
        return "en"

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Returns the topics.

        Args:
            variant: Must be None: there is only one set.

        Returns:
            Frame of ``qid, query``, one row per topic.

        Raises:
            ValueError: ``variant`` is not None.
        """
        return _read("topics.tsv", "\t", ["qid", "query"], variant)

    def get_topics_lang(self) -> str:
        """Returns the language of the topics."""
        return "en"

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Returns the relevance judgements, including those of documents that this Python lacks.

        Args:
            variant: Must be None: there is only one set.

        Returns:
            Frame of ``qid, docno, label``, with labels (int) from 0 to 2.

        Raises:
            ValueError: ``variant`` is not None.
        """
        qrels = _read("qrels.txt", " ", ["qid", "iteration", "docno", "label"], variant)
        return qrels.drop(columns="iteration").astype({"label": int})

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _read(name: str, separator: str, columns: list[str], variant: str | None) -> pd.DataFrame:
    """Reads a table of this folder, with all columns as strings."""
    if variant is not None:
        raise ValueError(f"StdlibDocs has no variants, so variant must be None, not {variant!r}")
    with (resources.files(__package__) / name).open(encoding="utf-8") as file:
        return pd.read_csv(
            file, sep=separator, names=columns, dtype=str, quoting=3, keep_default_na=False
        )


class _Name(NamedTuple):
    """Name of a documented object. The smallest of its names is the most natural one."""

    inherited: bool
    dots: int
    alias: bool
    ancestors: int
    length: int
    dotted: str

    @classmethod
    def of(
        cls, dotted: str, alias: bool = False, inherited: bool = False, ancestors: int = 0
    ) -> "_Name":
        """Returns the name, with the fields that follow from the dotted form."""
        return cls(inherited, dotted.count("."), alias, ancestors, len(dotted), dotted)


@functools.cache
def _documents() -> dict[str, str]:
    """Maps every docno to its text, sorted by docno."""
    names: dict[str, _Name] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, obj in _walk():
            body = _body(obj)
            if body:
                names[body] = min(name, names.get(body, name))
    bodies = sorted((name.dotted, body) for body, name in names.items())
    return {docno: f"{docno}: {body}" for docno, body in bodies}


def _body(obj: Any) -> str | None:
    """Returns the docstring on one line, or None if it is missing, inherited or generated."""
    if isinstance(obj, (classmethod, staticmethod)):
        obj = obj.__func__
    doc = getattr(obj, "__doc__", None)
    home = getattr(obj, "__module__", None) or "builtins"
    if home.partition(".")[0] not in sys.stdlib_module_names:  # added by another package
        return None
    if not isinstance(doc, str) or doc == type(obj).__doc__ or _BOILERPLATE.fullmatch(doc):
        return None
    words = doc.split()
    return " ".join(words) if len(words) >= 4 else None


def _walk() -> Iterator[tuple[_Name, Any]]:
    """Yields every public object of the standard library, under each of its names."""
    yield _Name.of("open"), open  # a builtin whose __module__ is io
    for module in _modules(sorted(sys.stdlib_module_names | {"os.path"})):
        path = "os.path" if module is sys.modules["os.path"] else module.__name__
        yield _Name.of(path), module
        prefix = "" if path == "builtins" else f"{path}."
        for key, obj in _contents(module):
            dotted = prefix + key
            yield _Name.of(dotted, _alias(key, obj)), obj
            if inspect.isclass(obj):
                yield from _members(key, obj, dotted)


def _modules(names: list[str]) -> Iterator[ModuleType]:
    """Imports the public modules among ``names`` and their submodules, and yields them."""
    for name in names:
        last = name.rpartition(".")[2]
        if last.startswith("_") or last in _SKIPPED:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # not available on this platform
            continue
        yield module
        if name != "encodings":  # its submodules are code tables
            inside = pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}.")
            yield from _modules(sorted(info.name for info in inside))


def _contents(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yields the names in ``__all__``, or else those that the module or its C half defines."""
    for key in getattr(module, "__all__", None) or list(vars(module)):
        obj = getattr(module, key, None)
        home = (getattr(obj, "__module__", None) or "").lstrip("_")
        listed = hasattr(module, "__all__") or home == module.__name__
        if listed and not key.startswith("_") and not inspect.ismodule(obj):
            yield key, obj


def _members(name: str, cls: type, dotted: str) -> Iterator[tuple[_Name, Any]]:
    """Yields the public methods and properties of a class, including inherited ones."""
    for base in cls.__mro__:
        for key, obj in vars(base).items():
            if not key.startswith("_") and not inspect.isclass(obj):
                path = f"{dotted}.{key}"
                alias = _alias(name, cls) or _alias(key, obj)
                yield _Name.of(path, alias, base is not cls, len(cls.__mro__)), obj


def _alias(key: str, obj: Any) -> bool:
    """Returns whether the object's ``__name__`` is another one."""
    return getattr(obj, "__name__", key) != key
