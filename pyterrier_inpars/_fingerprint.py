"""Fingerprints of document streams and functions, and differences between settings."""

import functools
import json
import os
import re
from collections.abc import Callable
from hashlib import sha256
from types import CodeType, ModuleType
from typing import Any, NamedTuple

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


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
        digest = sha256(self.fingerprint.encode())
        for text in fields:
            try:
                data = text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{fields[0]!r} holds text that is not Unicode: {error}"
                ) from error
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return StreamFingerprint(self.documents + 1, digest.hexdigest())


def without_addresses(text: str) -> str:
    """Returns a ``repr`` without the addresses in memory, which differ from run to run."""
    return _ADDRESS.sub("", text)


def describe_function(function: Callable[..., Any]) -> dict[str, str]:
    """Returns the name of a function and a hash of what it is made of, the same in every process.

    The hash is of the code, which depends on the version of Python, of the arguments of a partial
    function, of the values that a closure refers to, and of the attributes of an object, as they
    were at the first call of this function. Other things that the code refers to do not count.
    """
    try:
        return dict(_described(function))
    except TypeError:  # it is not hashable
        return {"function": _name(function)}


@functools.lru_cache(maxsize=32)  # its state may change with each call
def _described(function: Any) -> dict[str, str]:
    parts: list[Any] = []
    if isinstance(function, functools.partial):
        parts += [function.args, function.keywords]
        function = function.func
    owner = getattr(function, "__self__", None)  # of a method
    if not isinstance(owner, ModuleType):
        parts += [owner, getattr(owner, "__dict__", None)]
    if hasattr(function, "__code__"):
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        parts += [function.__code__, function.__defaults__, function.__kwdefaults__, cells]
    else:
        state = getattr(function, "__dict__", without_addresses(repr(function)))
        parts += [state, getattr(type(function).__call__, "__code__", None)]
    try:
        text = json.dumps(parts, default=_plain, skipkeys=True, sort_keys=True)
    except ValueError:  # it contains itself
        text = ""
    return {"function": _name(function), "hash": sha256(text.encode()).hexdigest()[:16]}


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', 'builtins')}.{named.__qualname__}"


def _plain(value: Any) -> Any:
    """Represents what JSON cannot hold; objects by their class, functions by their name."""
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, value.co_consts]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    return repr(value) if isinstance(value, bytes | complex) else _name(value)


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
