"""Downloads from a server on this machine: what comes is checked, and nothing bad is kept."""

import gzip
import hashlib
import os
import threading
from pathlib import Path

import pytest
import web as web_server
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars.datasets import _download as downloads
from pyterrier_inpars.datasets._download import DownloadError, cache_path, download

BODY = b"line\n" * 50_000
HASH = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path) as web:
        yield web


def kept(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def test_a_file_is_fetched_once(web, tmp_path):
    url = web.serve("/data/file.jsonl", BODY)
    path = download(url)
    assert path.read_bytes() == BODY and path.name == "file.jsonl"
    assert download(url) == download(url, sha256=HASH) == path == cache_path(url)
    assert web.asked == ["/data/file.jsonl"] and kept(tmp_path) == [path]
    web.files.clear()
    assert download(url, sha256=HASH.upper()) == path


def test_a_host_alone_has_a_file_too(web):
    assert download(web.serve("/", BODY)).read_bytes() == BODY


def test_redirects_are_followed(web):
    web.serve("/cdn/x", BODY)
    assert download(web.serve("/file", "/cdn/x"), sha256=HASH).read_bytes() == BODY


def test_a_body_packed_on_the_way_is_unpacked(web):
    url = web.serve("/file", web_server.Gzip(gzip.compress(BODY)))
    assert download(url, sha256=HASH).read_bytes() == BODY


@pytest.mark.parametrize(
    "content, options, message",
    [
        (404, {}, "the server answered 404"),
        (500, {}, "the server answered 500"),
        (204, {}, "the server answered 204"),
        (web_server.Cut(BODY), {}, "IncompleteRead"),
        (web_server.Cut(BODY), {"sha256": HASH}, "IncompleteRead"),
        (BODY + b"x", {"sha256": HASH}, f"its SHA-256 is .* must be {HASH}"),
        (BODY, {"max_bytes": len(BODY) - 1}, "more than 249,999 bytes"),
        ("/file", {}, "redirects"),
    ],
)
@pytest.mark.parametrize("earlier", [None, b"good"])
def test_what_is_not_right_is_an_error_and_not_kept(
    web, tmp_path, content, options, message, earlier
):
    """An earlier file whose hash is wrong now is fetched anew, and stays if that fails."""
    url = web.serve("/file", content)
    if earlier is not None:
        cache_path(url).parent.mkdir(parents=True)
        cache_path(url).write_bytes(earlier)
        options = {"sha256": HASH, **options}
    with pytest.raises(DownloadError, match=message) as caught:
        download(url, instead="Use the abacus.", **options)
    assert f"could not download {url}: " in str(caught.value)
    assert (
        f"Use the abacus. A file downloaded by other means may be put at {cache_path(url)}"
        in str(caught.value)
    )
    assert [file.read_bytes() for file in kept(tmp_path)] == ([earlier] if earlier else [])
    web.files["/file"] = BODY
    assert download(url, sha256=HASH).read_bytes() == BODY


def test_the_last_byte_allowed(web):
    url = web.serve("/file", BODY)
    assert download(url, max_bytes=len(BODY)).stat().st_size == len(BODY)


def test_no_network(web, tmp_path):
    url = "http://127.0.0.1:9/file"  # nobody listens there
    with pytest.raises(DownloadError, match=f"could not download {url}: .*refused"):
        download(url)
    assert kept(tmp_path) == []
    cache_path(url).write_bytes(BODY)
    assert download(url, sha256=HASH).read_bytes() == BODY


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://x/y", "no url", "https:///x", "/x"])
def test_other_kinds_of_urls(url):
    with pytest.raises(ValueError, match="only http"):
        download(url)


def test_a_stop_leaves_nothing(web, tmp_path, monkeypatch):
    def stopped(url, out, *rest):
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_fetch", stopped)
    with pytest.raises(KeyboardInterrupt):
        download(web.serve("/file", BODY))
    assert kept(tmp_path) == []


def test_several_at_once(web, tmp_path):
    url = web.serve("/file", BODY)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(download(url, sha256=HASH).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [BODY] * 8 and kept(tmp_path) == [cache_path(url)]


URL_TEXT = st.text(st.sampled_from(list("ab./\\%?#:@~é- ")), max_size=30)


@given(
    st.lists(st.builds("http://host{}".format, URL_TEXT.map(lambda text: "/" + text)), unique=True)
)
def test_each_url_has_its_own_place_inside_the_cache(tmp_path_factory, urls):
    home = Path(os.path.realpath(tmp_path_factory.getbasetemp()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTERRIER_HOME", str(home))
        paths = [cache_path(url) for url in urls]
    assert len(set(paths)) == len(urls)
    root = home / "inpars" / "downloads" / "host"
    assert all(Path(os.path.normpath(path)) == path and root in path.parents for path in paths)
    assert not any(one in other.parents for one in paths for other in paths)


def test_host_and_path_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path))
    path = cache_path("https://example.org:80/a/b/c.json.gz?download=true")
    *folders, key, name = path.relative_to(tmp_path).parts
    assert folders == ["inpars", "downloads", "example.org_80", "a", "b"]
    assert len(key) == 12 and name == "c.json.gz"
