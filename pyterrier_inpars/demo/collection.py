"""A test collection that every Python carries: the docstrings of its standard library."""

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

# Left out: what acts when imported, what newer Pythons have dropped (so that most documents are the
# same on all of them), tests, what many machines lack, and the other names of os.path and re.
_SKIPPED = """
    antigravity this idlelib pydoc_data readline rlcompleter test tests tkinter turtle turtledemo
    aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap
    msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
    genericpath nt ntpath posix posixpath sre_compile sre_constants sre_parse
""".split()

# What dataclasses and named tuples write by themselves.
_BOILERPLATE = re.compile(r"[\w.]+\([^)]*\)( -> \w+)?|Alias for field number \d+")


class StdlibDocs(Collection):
    """The Python standard library as a test collection.

    A document is the docstring of a public module, class, function, method or property of the
    running Python; its ``docno`` is the dotted name, without ``builtins.`` (``str.split``,
    ``os.path.join``). What has several names, or shares its docstring with something else, is one
    document under its most natural name. The topics are needs as a programmer would put them,
    written and judged by hand: 2 for what answers the need, 1 for a relevant alternative.

    Documents differ a little from one Python to the next. The judgements were made on 3.11.
    """

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yields the docno and text of each document, sorted by docno."""
        yield from _documents().items()

    def find(self, docnos: set[str]) -> dict[str, str]:
        """Returns the texts of those documents that exist."""
        return {docno: _documents()[docno] for docno in docnos & _documents().keys()}

    def get_corpus_lang(self) -> str:
        """Return the language of the documents."""
        return "en"

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Return the topics.

        Args:
            variant: Must be None, for there is one set only.

        Returns:
            A frame of ``qid, query``.
        """
        return _read("topics.tsv", "\t", ["qid", "query"], variant)

    def get_topics_lang(self) -> str:
        """Return the language of the topics."""
        return "en"

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Return the judgements, also those on documents that this Python lacks.

        Args:
            variant: Must be None, for there is one set only.

        Returns:
            A frame of ``qid, docno, label``.
        """
        qrels = _read("qrels.txt", " ", ["qid", "iteration", "docno", "label"], variant)
        return qrels.drop(columns="iteration").astype({"label": int})

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _read(name: str, separator: str, columns: list[str], variant: str | None) -> pd.DataFrame:
    """Read one of this folder's tables, all its columns as text."""
    if variant is not None:
        raise ValueError(f"StdlibDocs has no variants, so none is called {variant!r}")
    with (resources.files(__package__) / name).open(encoding="utf-8") as file:
        return pd.read_csv(
            file, sep=separator, names=columns, dtype=str, quoting=3, keep_default_na=False
        )


class _Name(NamedTuple):
    """One of the names of a documented thing; the smallest is the most natural."""

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
        """Work out the rest from the dotted name."""
        return cls(inherited, dotted.count("."), alias, ancestors, len(dotted), dotted)


@functools.cache
def _documents() -> dict[str, str]:
    """Map every docno to its text, sorted by docno."""
    names: dict[str, _Name] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, thing in _walk():
            body = _body(thing)
            if body:
                names[body] = min(name, names.get(body, name))
    bodies = sorted((name.dotted, body) for body, name in names.items())
    return {docno: f"{docno}: {body}" for docno, body in bodies}


def _body(thing: Any) -> str | None:
    """Return the docstring on one line, or None if it has none of its own or a useless one."""
    if isinstance(thing, (classmethod, staticmethod)):
        thing = thing.__func__
    doc = getattr(thing, "__doc__", None)
    home = getattr(thing, "__module__", None) or "builtins"
    if home.partition(".")[0] not in sys.stdlib_module_names:  # another package put it there
        return None
    if not isinstance(doc, str) or doc == type(thing).__doc__ or _BOILERPLATE.fullmatch(doc):
        return None
    words = doc.split()
    return " ".join(words) if len(words) >= 4 else None


def _walk() -> Iterator[tuple[_Name, Any]]:
    """Yield everything public in the standard library, under each of its names."""
    yield _Name.of("open"), open  # a builtin that says it is from io
    for module in _modules(sorted(sys.stdlib_module_names | {"os.path"})):
        path = "os.path" if module is sys.modules["os.path"] else module.__name__
        yield _Name.of(path), module
        prefix = "" if path == "builtins" else f"{path}."
        for key, thing in _contents(module):
            dotted = prefix + key
            yield _Name.of(dotted, _alias(key, thing)), thing
            if inspect.isclass(thing):
                yield from _members(key, thing, dotted)


def _modules(names: list[str]) -> Iterator[ModuleType]:
    """Import the public modules among the names, and those inside them."""
    for name in names:
        last = name.rpartition(".")[2]
        if last.startswith("_") or last in _SKIPPED:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # not on this machine
            continue
        yield module
        if name != "encodings":  # a package of a hundred code tables
            inside = pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}.")
            yield from _modules(sorted(info.name for info in inside))


def _contents(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a module offers: what it lists, or else what it (or its C half) defines."""
    for key in getattr(module, "__all__", None) or list(vars(module)):
        thing = getattr(module, key, None)
        home = (getattr(thing, "__module__", None) or "").lstrip("_")
        listed = hasattr(module, "__all__") or home == module.__name__
        if listed and not key.startswith("_") and not inspect.ismodule(thing):
            yield key, thing


def _members(name: str, cls: type, dotted: str) -> Iterator[tuple[_Name, Any]]:
    """Yield the public methods and properties of a class, inherited ones too."""
    for base in cls.__mro__:
        for key, thing in vars(base).items():
            if not key.startswith("_") and not inspect.isclass(thing):
                path = f"{dotted}.{key}"
                alias = _alias(name, cls) or _alias(key, thing)
                yield _Name.of(path, alias, base is not cls, len(cls.__mro__)), thing


def _alias(key: str, thing: Any) -> bool:
    """Tell whether something calls itself by another name."""
    return getattr(thing, "__name__", key) != key
