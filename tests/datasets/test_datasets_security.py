"""Downloads read no local file, and errors show no secret of a URL."""

import pytest
import web as web_server

from pyterrier_inpars.datasets._download import DownloadError, from_hub, from_url


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        yield web


def stored(folder):
    return [file for file in folder.rglob("*") if file.is_file() and ".cache" not in file.parts]


def test_a_redirect_leads_to_no_file_of_this_machine(web, tmp_path):
    (tmp_path / "secret").write_text("secret")
    url = web.serve("/f", f"file://{tmp_path}/secret")
    with pytest.raises(DownloadError, match="not allowed"):
        from_url(url)
    assert not stored(tmp_path / "home")


@pytest.mark.parametrize(
    "status", [404, "http://127.0.0.1:9/next?token=s3cret", "bad://s3cret@x/?a"]
)
@pytest.mark.parametrize("hub", [False, True])
def test_errors_show_no_secret_of_a_url(web, tmp_path, monkeypatch, status, hub):
    """Neither in the error, nor in its cause, nor in the names of files."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again
    web.serve("/datasets/a/b/resolve/main/f" if hub else "/f?token=s3cret&x=1", status)
    with pytest.raises(DownloadError) as caught:
        if hub:
            from_hub("a/b", "f", revision="main")
        else:
            from_url(web.home + "/f?token=s3cret&x=1")
    assert "127.0.0.1" in str(caught.value) and "/f" in str(caught.value)
    assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not [file for file in (tmp_path / "home").rglob("*") if "s3cret" in str(file)]


def test_a_password_in_a_url_is_not_shown(web):
    with pytest.raises(DownloadError) as caught:
        from_url(web.home.replace("//", "//user:s3cret@") + "/f?token=s3cret")
    assert "127.0.0.1" in str(caught.value) and "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://user:s3cret@127.0.0.1:9/f", "file:///etc/hosts", "/x"])
def test_other_urls_download_nothing(web, tmp_path, url):
    with pytest.raises(DownloadError) as caught:
        from_url(url)
    assert "s3cret" not in str(caught.value) and not stored(tmp_path / "home")
