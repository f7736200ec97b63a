"""Downloads must not harm, and errors show no secret of a URL."""

import gzip

import pytest
import web as web_server

from pyterrier_inpars.datasets._download import DownloadError, cache_path, download

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        yield web


@pytest.mark.parametrize(
    "content", [web_server.Gzip(gzip.compress(b"0" * 10_000_000)), b"0" * 1001]
)
def test_a_download_is_stopped_at_its_limit(web, tmp_path, content):
    """Also one that is packed on the way and small until it is unpacked."""
    url = web.serve("/f", content)
    with pytest.raises(DownloadError, match="more than 1,000 bytes"):
        download(url, max_bytes=1000)
    assert not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]


def test_a_redirect_leads_to_no_file_of_this_machine(web, tmp_path):
    (tmp_path / "secret").write_text("secret")
    url = web.serve("/f", f"file://{tmp_path}/secret")
    with pytest.raises(DownloadError, match="No connection adapters"):
        download(url)
    assert not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    "status", [404, "http://127.0.0.1:9/next?token=s3cret", "bad://s3cret@x/?a"]
)
def test_secrets_in_urls_are_not_told(web, tmp_path, status):
    """Neither in the error, nor in what it comes from, nor in the names of files."""
    web.serve("/f?token=s3cret&x=1", status)
    url = web.home.replace("//", "//user:s3cret@") + "/f?token=s3cret&x=1"
    with pytest.raises(DownloadError) as caught:
        download(url)
    assert "127.0.0.1" in str(caught.value) and "/f" in str(caught.value)
    assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "s3cret" not in str(cache_path(url)) and "user" not in str(cache_path(url))
    with pytest.raises(ValueError) as caught:
        download("ftp://user:s3cret@host/f?token=s3cret")
    assert "s3cret" not in str(caught.value) and "host" in str(caught.value)


def test_a_url_with_a_password_is_fetched(web, tmp_path):
    web.serve("/f?token=s3cret", b"content")
    path = download(web.home.replace("//", "//user:s3cret@") + "/f?token=s3cret")
    assert path.read_bytes() == b"content"
    assert not [file for file in (tmp_path / "home").rglob("*") if "s3cret" in str(file)]
