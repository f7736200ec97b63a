"""Fingerprints of streams of documents, and differences of settings."""

import os
from hashlib import sha256
from typing import Any, NamedTuple


class StreamFingerprint(NamedTuple):
    """A place in a stream of documents: how many have passed, and a fingerprint of them.

    The fingerprint is a chain: that of n documents is the SHA-256 of that of the first n - 1
    followed by the fields of the n-th, each after its length, so it goes on from where it was kept.
    """

    documents: int = 0
    fingerprint: str = "0" * 64

    def extended(self, *fields: str) -> "StreamFingerprint":
        """The place one document later; ``fields`` are what tells the document from others."""
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


def settings_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """One line for each setting that is not the same in both, with both values."""
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
    """The values as text, long ones (a prompt) cut to the part where they part."""
    texts = [repr(value) for value in values]
    if max(map(len, texts)) <= width:
        return texts
    start = max(0, len(os.path.commonprefix(texts)) - width // 4)
    end = start + width
    return ["…" * (start > 0) + text[start:end] + "…" * (end < len(text)) for text in texts]
