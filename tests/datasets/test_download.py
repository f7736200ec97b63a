"""Downloads from a server on this machine: complete and verified, or an error and no file."""

import hashlib
import threading

import huggingface_hub.constants
import pytest
import web as web_server

from pyterrier_inpars.datasets import _download as downloads
from pyterrier_inpars.datasets._download import (
    DownloadError,
    from_hub,
    from_url,
    hub_path,
    url_path,
)

BODY = b"line\n" * 50_000
HASH = hashlib.sha256(BODY).hexdigest()
HUB = "/datasets/inpars/data/resolve/main/a/file.jsonl"


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path) as web:
        yield web


def kept(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if ".cache" not in file.parts]  # what huggingface_hub notes


def fetch_from_hub(remedy=""):
    return from_hub("inpars/data", "a/file.jsonl", revision="main", remedy=remedy)


def test_a_file_is_downloaded_once(web, tmp_path):
    url = web.serve("/data/file.jsonl", BODY)
    path = from_url(url)
    assert path.read_bytes() == BODY and path == url_path(url)
    assert path == tmp_path / "inpars" / "downloads" / "127.0.0.1" / "data" / "file.jsonl"
    assert from_url(url) == from_url(url, sha256=HASH) == path
    assert web.asked == ["/data/file.jsonl"] and kept(tmp_path) == [path]
    web.files.clear()
    assert from_url(url, sha256=HASH.upper()) == path


def test_a_file_of_the_hub_is_downloaded_once(web, tmp_path):
    web.serve(HUB, BODY)
    path = fetch_from_hub()
    assert path.read_bytes() == BODY
    assert path == hub_path("inpars/data", "a/file.jsonl", "main")
    folder = tmp_path / "inpars" / "downloads" / "huggingface.co" / "datasets" / "inpars" / "data"
    assert path == folder / "main" / "a" / "file.jsonl" and kept(tmp_path) == [path]
    web.files.clear()
    assert fetch_from_hub() == path
    assert web.asked == [f"HEAD {HUB}", HUB]


def test_another_revision_is_another_file(web):
    web.serve(HUB, b"new")
    web.serve(HUB.replace("main", "0123abc"), b"old")
    old = from_hub("inpars/data", "a/file.jsonl", revision="0123abc")
    assert fetch_from_hub().read_bytes() == b"new" and old.read_bytes() == b"old"


def test_redirects_are_followed(web):
    web.serve("/cdn/x", BODY)
    assert from_url(web.serve("/file", "/cdn/x"), sha256=HASH).read_bytes() == BODY


@pytest.mark.parametrize(
    "content, options, message",
    [
        (404, {}, "HTTP Error 404"),
        (500, {}, "HTTP Error 500"),
        (204, {}, "status code: 204"),
        (web_server.Cut(BODY), {}, "only 249,999 of 250,000 bytes arrived"),
        (web_server.Cut(BODY), {"sha256": HASH}, f"Expected sha256 '{HASH}'"),
        (BODY + b"x", {"sha256": HASH}, f"Expected sha256 '{HASH}' but found "),
        ("/file", {}, "infinite loop"),
    ],
)
@pytest.mark.parametrize("earlier", [None, b"good"])
def test_a_failed_download_is_an_error_and_stores_nothing(
    web, tmp_path, content, options, message, earlier
):
    """A stored file with a wrong checksum is downloaded again, and stays if that fails."""
    url = web.serve("/file", content)
    if earlier is not None:
        url_path(url).parent.mkdir(parents=True)
        url_path(url).write_bytes(earlier)
        options = {"sha256": HASH, **options}
        message = "HTTP Error|status code|Expected sha256|infinite loop"
    with pytest.raises(DownloadError, match=message) as caught:
        from_url(url, remedy="Use the abacus.", **options)
    assert f"cannot download {url}: " in str(caught.value)
    assert f"Use the abacus. Or download it by other means and store it as {url_path(url)}" in str(
        caught.value
    )
    assert [file.read_bytes() for file in kept(tmp_path)] == ([earlier] if earlier else [])
    web.files["/file"] = BODY
    assert from_url(url, sha256=HASH).read_bytes() == BODY


@pytest.mark.parametrize("content", [404, 403])
def test_a_failed_download_from_the_hub_is_an_error_and_stores_nothing(web, tmp_path, content):
    url = web.serve(HUB, content)
    with pytest.raises(DownloadError) as caught:
        fetch_from_hub("Use the abacus.")
    path = hub_path("inpars/data", "a/file.jsonl", "main")
    assert str(caught.value).startswith(f"cannot download {url}: ")
    assert str(caught.value).endswith(
        f" Use the abacus. Or download it by other means and store it as {path}"
    )
    assert kept(tmp_path) == []
    web.files[HUB] = BODY
    assert fetch_from_hub().read_bytes() == BODY


def test_a_truncated_body_from_the_hub_is_an_error(web, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again
    web.serve(HUB, web_server.Cut(BODY))
    with pytest.raises(DownloadError, match="cannot download"):
        fetch_from_hub()
    assert kept(tmp_path) == []


def test_a_file_put_in_place_by_hand_needs_no_network(web, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="cannot download"):
        fetch_from_hub()
    path = hub_path("inpars/data", "a/file.jsonl", "main")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BODY)
    assert fetch_from_hub() == path

    url = "http://127.0.0.1:9/file"  # nobody listens there
    with pytest.raises(DownloadError, match=f"cannot download {url}: .*refused"):
        from_url(url)
    assert kept(tmp_path) == [path]
    url_path(url).write_bytes(BODY)
    assert from_url(url, sha256=HASH).read_bytes() == BODY


def test_an_interrupted_download_stores_nothing(web, tmp_path, monkeypatch):
    def stopped(response, out):
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads.shutil, "copyfileobj", stopped)
    with pytest.raises(KeyboardInterrupt):
        from_url(web.serve("/file", BODY))
    assert kept(tmp_path) == []


def test_concurrent_downloads_of_one_file(web, tmp_path):
    url = web.serve("/file", BODY)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(from_url(url, sha256=HASH).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [BODY] * 8 and kept(tmp_path) == [url_path(url)]
