"""Fingerprints of document streams, and differences between settings."""

import os
from hashlib import sha256
from typing import Any, NamedTuple


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
