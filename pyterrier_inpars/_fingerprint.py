"""Fingerprints of document streams, values and functions, and differences between settings."""

import functools
import json
import operator
import os
import re
import weakref
from collections.abc import Callable
from hashlib import sha256
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_known: dict[int, dict[str, str]] = {}  # by id, while the function exists: its state may change


class StreamFingerprint(NamedTuple):
    """Position in a stream of documents, with a fingerprint of all documents before it.

    The fingerprint is a hash chain: the SHA-256 of the previous fingerprint followed by the fields
    of the document, each preceded by its length. It can therefore be extended from a stored value
    without reading the earlier documents again.

    Attributes:
        documents: Number of documents before this position.
        fingerprint: Fingerprint of these documents, 64 hexadecimal digits.
    """

    documents: int = 0
    fingerprint: str = "0" * 64

    def extended(self, *fields: str) -> "StreamFingerprint":
        """Returns the position one document later.

        Args:
            *fields: Strings that identify the document; the first one is named in errors.

        Raises:
            ValueError: A field is not valid Unicode.
        """
        hashed = sha256(self.fingerprint.encode())
        for text in fields:
            try:
                data = text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{fields[0]!r} holds text that is not Unicode: {error}"
                ) from error
            hashed.update(len(data).to_bytes(8, "big"))
            hashed.update(data)
        return StreamFingerprint(self.documents + 1, hashed.hexdigest())


def digest(value: Any) -> str:
    """Returns 32 hexadecimal digits for a value of JSON, which may hold objects with fields."""
    return sha256(json.dumps(value, sort_keys=True, default=vars).encode()).hexdigest()[:32]


def without_addresses(text: str) -> str:
    """Returns a ``repr`` without the addresses in memory, which differ from run to run."""
    return _ADDRESS.sub("", text)


def describe_function(function: Callable[..., Any]) -> dict[str, str]:
    """Returns the name of a function and a hash of what it is made of, the same in every process.

    The hash is of the code, which depends on the version of Python, of the arguments of a partial
    function, of the values that a closure refers to, and of the attributes of an object, as they
    were at the first call of this function. Other things that the code refers to do not count.
    """
    key = id(function)
    if key not in _known:
        found = _described(function)
        try:
            weakref.finalize(function, _known.pop, key, None).atexit = False
        except TypeError:  # of some types written in C, whose objects have no state that changes
            return found
        _known[key] = found
    return dict(_known[key])


def _described(function: Any) -> dict[str, str]:
    parts = [function]
    if isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", None)  # of a method
    if not isinstance(owner, ModuleType):
        parts += [owner, getattr(owner, "__dict__", None)]
    if not isinstance(function, FunctionType | MethodType):
        state = getattr(function, "__dict__", without_addresses(repr(function)))
        parts += [state, type(function).__call__]
    text = json.dumps(_plain(parts))
    return {"function": _name(function), "hash": sha256(text.encode()).hexdigest()[:16]}


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


def _plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Returns a value as JSON can hold it; other objects by their class.

    Args:
        value: Any value.
        above: Identities of the values that contain this one.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if id(value) in above:
        return "contains itself"
    plain = functools.partial(_plain, above=(*above, id(value)))
    if isinstance(value, dict):
        pairs = ([json.dumps(plain(name)), plain(part)] for name, part in value.items())
        return sorted(pairs, key=operator.itemgetter(0))
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(map(without_addresses, map(repr, value)))
    if isinstance(value, functools.partial):
        return plain([value.func, value.args, value.keywords])
    if isinstance(value, MethodType):
        return plain([value.__func__])
    if isinstance(value, FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return [
            _name(value),
            *plain([value.__code__, value.__defaults__, value.__kwdefaults__, cells]),
        ]
    if isinstance(value, CodeType):
        return [value.co_code.hex(), *plain([value.co_names, value.co_consts])]
    if isinstance(value, re.Pattern):
        return plain([value.pattern, value.flags])
    return repr(value) if isinstance(value, bytes | complex) else _name(value)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # its variable has no value yet
        return None


def settings_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns one line per setting that differs, with both values; empty if none does.

    Nested settings are named by their path, for example ``generation.seed``. A missing key equals
    None.
    """
    old, new = _flat(old), _flat(new)
    return "\n".join(
        "  {}: was {}, is {}".format(key, *_contrast(old.get(key), new.get(key)))
        for key in old | new
        if old.get(key) != new.get(key)
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix + key
        flat |= _flat(value, name + ".") if isinstance(value, dict) else {name: value}
    return flat


def _contrast(*values: object, width: int = 120) -> list[str]:
    """Returns the values as text; long texts, such as prompts, are cut to where they differ."""
    texts = [repr(value) for value in values]
    if max(map(len, texts)) <= width:
        return texts
    start = max(0, len(os.path.commonprefix(texts)) - width // 4)
    end = start + width
    return ["…" * (start > 0) + text[start:end] + "…" * (end < len(text)) for text in texts]
