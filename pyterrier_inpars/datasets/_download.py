"""Files from the web, each fetched once, checked and kept."""

import io
import re
from hashlib import sha256 as new_sha256
from pathlib import Path
from urllib.parse import urlsplit

import pyterrier as pt
import requests

_SECONDS = (10, 60)  # to connect; between two pieces of the file


class DownloadError(OSError):
    """A file could not be had from the web, or is not what it should be."""


def download(
    url: str,
    *,
    sha256: str | None = None,
    max_bytes: int = 4 * 1024**3,
    instead: str = "",
) -> Path:
    """Gives a file from the cache, or fetches it once.

    The file is there as a whole or not at all, and an earlier one is replaced by a good one only.
    Processes may do this at the same time. A file in the cache needs no network. The password and
    the query of a URL, which may hold a token, are neither shown nor written.

    Args:
        url: where the file is, beginning with ``http://`` or ``https://``.
        sha256: what the file must have, in hexadecimal; that of a file in the cache is checked too,
            and if it differs the file is fetched anew.
        max_bytes: longest file to take.
        instead: a sentence for the error, on what else the user can do.

    Returns:
        The path in the cache, see `cache_path`.

    Raises:
        DownloadError: no network, a bad status, fewer bytes than announced or more than
            ``max_bytes``, another SHA-256. The error names the URL, and nothing is left behind.
        ValueError: the URL is of another kind.
    """
    path = cache_path(url)
    sha256 = sha256 and sha256.lower()
    if path.is_file() and sha256 in (None, file_sha256(path)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with pt.io.finalized_open(str(path), "b") as out:
            _fetch(url, out, sha256, max_bytes)
    except (requests.RequestException, _Bad) as error:
        raise DownloadError(
            f"could not download {public(url)}: {public(str(error))}. "
            f"{instead}{' ' if instead else ''}"
            f"A file downloaded by other means may be put at {path}"
        ) from None  # the error of requests shows the whole URL
    return path


def cache_path(url: str) -> Path:
    """Where the cache keeps the file of a URL.

    That is a folder ``inpars/downloads`` under PyTerrier's home, in it the host and path of the
    URL, and, so that each URL has its own, a folder named by its hash.

    Raises:
        ValueError: the URL is not one of ``http://`` or ``https://``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"only http:// and https:// can be downloaded, not {public(url)!r}")
    host = parts.netloc.rpartition("@")[2]
    *folders, name = (_file_name(part) for part in [host, *parts.path[1:].split("/")])
    key = new_sha256(url.encode()).hexdigest()[:12]
    return Path(pt.io.pyterrier_home(), "inpars", "downloads", *folders, key, name)


def public(text: str) -> str:
    """A text without what the URLs in it may hold of secrets: user, password and query."""
    return re.sub(r"\?[^\s'\")]+", "?...", re.sub(r"//[^/\s]*@", "//", text))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = new_sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


class _Bad(Exception):
    """What came is not what was asked for."""


def _fetch(url: str, out: io.BufferedIOBase, sha256: str | None, max_bytes: int) -> None:
    # urllib3 raises when fewer bytes come than were announced.
    with requests.get(url, stream=True, timeout=_SECONDS) as response:
        if response.status_code != 200:
            raise _Bad(f"the server answered {response.status_code} {response.reason}")
        size, digest = 0, new_sha256()
        for piece in response.iter_content(2**16):
            size += len(piece)
            if size > max_bytes:
                raise _Bad(f"the file has more than {max_bytes:,} bytes")
            digest.update(piece)
            out.write(piece)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise _Bad(f"its SHA-256 is {digest.hexdigest()}, but must be {sha256}")


def _file_name(part: str) -> str:
    """A part of a URL as the name of a file or folder, which is never ``..``."""
    return re.sub(r"[^A-Za-z0-9._-]|^\.+$", "_", part)[:100]
