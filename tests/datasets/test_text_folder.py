"""A folder of text files as a collection."""

import codecs
import os
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars.datasets import BeirFolder, TextFolder, collection

PROSE = "It is a long first line, of more than a hundred characters, " * 3


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(folder, **options):
    return dict(TextFolder(folder, **options).documents())


def one(folder, name, content, **options):
    """The text of a single file."""
    (text,) = texts(written(folder / name, content).parent, **options).values()
    return text


def test_files_of_all_folders_are_documents(tmp_path):
    for name in ("b.txt", "a.md", "sub/b.txt", "sub/deep/c.TXT", "sub.txt/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        written(tmp_path / name, f"text of {name}")
    for name in (".hidden.txt", "picture.png", "b.txt.bak", "README"):
        written(tmp_path / name, "not a document")
    (tmp_path / ".git").mkdir()
    written(tmp_path / ".git" / "e.txt", "not a document")
    found = texts(tmp_path)
    assert list(found) == ["a.md", "b.txt", "sub.txt/d.md", "sub/b.txt", "sub/deep/c.TXT"]
    assert found == {name: f"text of {name}" for name in found}
    assert list(texts(tmp_path, suffixes=[".PNG"])) == ["picture.png"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (PROSE + "\nmore", f"my notes 2\n{PROSE.strip()} \nmore"),
        ("\n\n A title \nmore", "A title \nmore"),
        ("a" * 100, "a" * 100),
        ("a" * 101, f"my notes 2\n{'a' * 101}"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("# one", "# one"),
    ],
)
def test_title_of_a_text_file(tmp_path, content, text):
    assert one(tmp_path, "my-notes_2.txt", content) == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("# A title #\n\nmore", "A title\n\nmore"),
        ("### Deep\nmore", "Deep\nmore"),
        ("#hashtag\nmore", "#hashtag\nmore"),
        ("# Why C# ##\nmore", "Why C#\nmore"),
        ("# C#\nmore", "C#\nmore"),
        ("Title\n=====\nmore", "Title\n=====\nmore"),
        (f"# {PROSE.strip()}\nmore", f"notes\n{PROSE.strip()}\nmore"),
        (
            "---\nlayout: x\ntitle: 'On corals'\n---\n\nCorals are animals.",
            "On corals\nCorals are animals.",
        ),
        ("---\ntitle: On corals\n---\n# On corals\nmore", "On corals\nmore"),
        ("---\nlayout: x\n---\n# On corals\nmore", "On corals\nmore"),
        ("---\n---\nmore", "more"),
        ("---\nno end of it", "---\nno end of it"),
    ],
)
def test_title_of_a_markdown_file(tmp_path, content, text):
    assert one(tmp_path, "notes.md", content) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path, encoding):
    assert one(tmp_path, "a.txt", "Ülo: 東京\nmore".encode(encoding)) == "Ülo: 東京\nmore"


def test_byte_orders(tmp_path):
    data = codecs.BOM_UTF16_BE + "Ülo".encode("utf-16-be")
    assert one(tmp_path, "a.txt", data) == "Ülo"


def test_another_encoding(tmp_path):
    written(tmp_path / "new.txt", "Ülo")
    written(tmp_path / "old.txt", "Ülo".encode("cp1252"))
    assert texts(tmp_path, encoding="cp1252") == {"new.txt": "Ülo", "old.txt": "Ülo"}


def test_byte_order_without_a_mark(tmp_path):
    written(tmp_path / "a.txt", "plain".encode("utf-16-le"))  # also valid UTF-8, with null bytes
    assert texts(tmp_path, encoding="utf-16-le") == {"a.txt": "plain"}


BAD = {
    "latin.txt": ("Ülo".encode("cp1252"), "is not text in utf-8, from position 0.*cp1252"),
    "binary.txt": (b"text\0\1\2", "utf-8, from position 4: it has null characters"),
    "cut.txt": (codecs.BOM_UTF16_LE + b"a", "is not text in utf-16.*remove it"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_not_text(tmp_path, name):
    content, error = BAD[name]
    written(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"{name}: .*{error}"):
        texts(tmp_path)


def test_files_that_are_not_in_the_given_encoding(tmp_path):
    written(tmp_path / "latin.txt", BAD["latin.txt"][0])
    with pytest.raises(ValueError, match="is not text in utf-8 or ascii, .*; remove it"):
        texts(tmp_path, encoding="ascii")


def test_such_files_can_be_skipped(tmp_path):
    for name, (content, _) in BAD.items():
        written(tmp_path / name, content)
    written(tmp_path / "good.txt", "good")
    with pytest.warns(UserWarning, match=r"3 of 4 files were skipped, such as .*binary.txt"):
        assert texts(tmp_path, unreadable="skip") == {"good.txt": "good"}


@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff", "---\ntitle: x\n---\n"])
def test_files_without_text_are_left_out(tmp_path, content):
    written(tmp_path / "empty.md", content)
    written(tmp_path / "good.txt", "good")
    assert texts(tmp_path) == {"good.txt": "good"}


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        TextFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no file whose name ends in .txt or .md"):
        TextFolder(tmp_path)
    file = written(tmp_path / "a.txt", "a")
    with pytest.raises(FileNotFoundError, match="a.txt is a file, not a folder: give a folder of"):
        TextFolder(file)
    with pytest.raises(LookupError, match="klingon"):
        TextFolder(tmp_path, encoding="klingon")
    with pytest.raises(ValueError, match="unreadable must be 'error' or 'skip', not 'ignore'"):
        TextFolder(tmp_path, unreadable="ignore")


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@given(names=st.sets(NAMES.filter(lambda n: not n.startswith(".") and len(n.encode()) < 99)))
def test_docnos_are_unique_without_white_space_and_give_the_path(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    for name in names | {"%20"}:
        (folder / name).mkdir()
        written(folder / name / "a b.txt", name)
    files = TextFolder(folder).files()
    assert {unquote(docno) for docno in files} == {f"{name}/a b.txt" for name in names | {"%20"}}
    assert all(docno.split() == [docno] for docno in files)
    assert list(files) == sorted(files)
    assert len(files) == len(names | {"%20"})


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not Unicode")
def test_names_that_are_not_unicode(tmp_path):
    file = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(file)).write_text(PROSE)
    assert texts(tmp_path) == {"caf%E9.txt": f"caf\ufffd\n{PROSE.strip()}"}


def test_texts_of_some_documents(tmp_path):
    written(tmp_path / "a b.txt", "one")
    written(tmp_path / "c.txt", b"\0")
    dataset = TextFolder(tmp_path)
    assert dataset.find({"a%20b.txt", "../a.txt", "gone"}) == {"a%20b.txt": "one"}  # reads no other
    assert repr(dataset) == f"TextFolder({str(tmp_path)!r})"


def test_links_to_folders_are_not_followed(tmp_path):
    written(tmp_path / "a.txt", "one")
    try:
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    assert texts(tmp_path) == {"a.txt": "one"}


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
def test_what_is_not_a_file(tmp_path):
    written(tmp_path / "a.txt", "one")
    os.mkfifo(tmp_path / "pipe.txt")  # reading it would block
    assert texts(tmp_path) == {"a.txt": "one"}
    (tmp_path / "linked.txt").symlink_to(tmp_path / "a.txt")
    assert texts(tmp_path) == {"a.txt": "one", "linked.txt": "one"}
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(OSError, match=r"broken\.txt"):
        texts(tmp_path)
    with pytest.warns(UserWarning, match=r"2 of 4 files were skipped, such as .*broken\.txt"):
        assert list(texts(tmp_path, unreadable="skip")) == ["a.txt", "linked.txt"]


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind here"
)
def test_what_must_not_be_read(tmp_path):
    written(tmp_path / "a.txt", "one")
    for name, folder in (("b.txt", tmp_path), ("c.txt", tmp_path / "closed")):
        folder.mkdir(exist_ok=True)
        written(folder / name, "secret")
    (tmp_path / "b.txt").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(PermissionError, match=r"b\.txt"):
            texts(tmp_path)
        with pytest.warns(UserWarning, match=r"2 of 3 files were skipped, such as .*b\.txt"):
            assert texts(tmp_path, unreadable="skip") == {"a.txt": "one"}
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_folder_by_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="corpus.jsonl.gz exists, and .* has no file"):
        collection(tmp_path)
    written(tmp_path / "a.txt", "one")
    found = collection(tmp_path, fix_text=True)
    assert list(found.get_corpus_iter()) == [{"docno": "a.txt", "text": "one"}]
    assert isinstance(found, TextFolder) and found.fix_text
    written(tmp_path / "corpus.jsonl", '{"_id": "1", "text": "x"}')
    assert isinstance(collection(tmp_path), BeirFolder)
    with pytest.raises(ValueError, match="no columns to choose"):
        collection(tmp_path, docno="id")


def test_a_search_engine_keeps_the_docnos(tmp_path):
    pisa = pytest.importorskip("pyterrier_pisa")
    (tmp_path / "my files").mkdir()
    written(tmp_path / "my files" / "on corals.txt", "corals are animals")
    index = pisa.PisaIndex(str(tmp_path / "index"), text_field="text")
    bm25 = index.index(TextFolder(tmp_path).get_corpus_iter()).bm25()
    assert bm25.search("corals")["docno"].tolist() == ["my%20files/on%20corals.txt"]
