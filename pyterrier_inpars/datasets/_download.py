"""Downloads of published files, which are stored under PyTerrier's home folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pyterrier as pt

from pyterrier_inpars._files import atomic_file, file_sha256


class DownloadError(OSError):
    """A file cannot be downloaded, or its SHA-256 is wrong."""


def from_url(url: str, *, sha256: str | None = None, remedy: str = "") -> Path:
    """Returns a file of a web server, downloaded on the first call.

    A failed or interrupted download leaves no file. Concurrent processes may download the same
    file.

    Args:
        url: URL with ``http://`` or ``https://``.
        sha256: Expected SHA-256 in hexadecimal. A stored file with another one is downloaded again.
        remedy: Sentence for the error message: what else the user can do.

    Returns:
        The path of the file; see `url_path`.

    Raises:
        DownloadError: The download fails, ends early, or has another SHA-256.
    """
    path = url_path(url)
    if path.is_file() and (sha256 is None or file_sha256(path) == sha256.lower()):
        return path
    try:
        with (
            atomic_file(path, compress=False) as out,
            pt.io.download_stream(url, expected_sha256=sha256, verbose=False) as response,
        ):
            shutil.copyfileobj(response, out)
            # urllib accepts a body that ends early; a stream with a checksum has no headers.
            size = getattr(response, "headers", {}).get("Content-Length")
            if size is not None and out.tell() != int(size):
                raise OSError(f"only {out.tell():,} of {int(size):,} bytes arrived")
    except Exception as error:  # urllib raises OSError, ValueError and HTTPException
        raise _failed(url, error, remedy, path) from None  # the cause would show the whole URL
    return path


def from_hub(repo: str, filename: str, *, revision: str, remedy: str = "") -> Path:
    """Returns a file of a dataset on the Hugging Face hub, downloaded on the first call.

    ``huggingface_hub`` downloads it, so its environment variables apply (``HF_ENDPOINT``,
    ``HF_TOKEN``, ``HF_HUB_OFFLINE``).

    Args:
        repo: Dataset on the hub, such as ``"inpars/generated-data"``.
        filename: Path of the file in the dataset.
        revision: Commit, tag or branch of the dataset.
        remedy: Sentence for the error message: what else the user can do.

    Returns:
        The path of the file; see `hub_path`.

    Raises:
        DownloadError: The download fails.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    path = hub_path(repo, filename, revision)
    if path.is_file():  # hf_hub_download would ask the hub whether there is a newer one
        return path
    try:
        hf_hub_download(
            repo,
            filename,
            repo_type="dataset",
            revision=revision,
            local_dir=path.parents[filename.count("/")],
        )
    except Exception as error:  # OSError, and those of the hub's HTTP client
        url = hf_hub_url(repo, filename, repo_type="dataset", revision=revision)
        raise _failed(url, error, remedy, path) from None  # a redirect's URL may hold a signature
    return path


def url_path(url: str) -> Path:
    """Returns where the file of a URL is stored: by host and path, in ``inpars/downloads``."""
    parts = urlsplit(url)
    return _folder() / (parts.hostname or "") / parts.path.lstrip("/")


def hub_path(repo: str, filename: str, revision: str) -> Path:
    """Returns where a file of the hub is stored: by dataset, revision and name."""
    return _folder() / "huggingface.co" / "datasets" / repo / revision / filename


def _folder() -> Path:
    return Path(pt.io.pyterrier_home(), "inpars", "downloads")


def _failed(url: str, error: Exception, remedy: str, path: Path) -> DownloadError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return DownloadError(
        f"cannot download {_public(url)}: {_public(reason)}. {remedy}{' ' if remedy else ''}"
        f"Or download it by other means and store it as {path}"
    )


def _public(text: str) -> str:
    """Removes passwords and query strings, which may hold tokens, from the URLs in a text."""
    return re.sub(r"\?[^\s'\")]+", "?...", re.sub(r"//[^/\s]*@", "//", text))
