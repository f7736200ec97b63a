"""Tests of looking into an artifact, unfinished or damaged ones too."""

import json

import pandas as pd
import pytest
import yaml
from writer import Writer, corpus, damage, index

from pyterrier_inpars import LengthFilter, SyntheticQueries
from pyterrier_inpars.queries import artifact


@pytest.fixture
def complete(tmp_path):
    return index(tmp_path / "q", corpus(12), Writer((1, 0, 2)))


@pytest.fixture
def unfinished(tmp_path):
    """Nine documents are stored: six in a shard, three in a partial one."""
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "q", corpus(20), Writer((1, 0, 2), fail_at="11"))
    return SyntheticQueries(tmp_path / "q")


def test_status_of_a_complete_artifact(complete):
    status = complete.status
    assert (status.state, status.documents, status.queries) == ("complete", 12, 12)
    assert (status.shards, status.failed, status.model) == (2, 0, "none")
    assert status.size == sum(file.stat().st_size for file in complete.path.iterdir())
    assert status.started <= status.written
    assert "state          complete\ndocuments      12\n" in repr(status)


def test_status_of_an_unfinished_artifact(unfinished):
    status = unfinished.status
    assert (status.state, status.documents, status.queries, status.shards) == (
        ("unfinished", 9, 9, 2)
    )
    assert len(unfinished) == 9
    with pytest.raises(RuntimeError, match=r"not complete.*status, head\(\) and sample\(\)"):
        unfinished.get_results()


def test_status_of_an_empty_artifact(tmp_path):
    queries = SyntheticQueries(tmp_path / "q")
    assert queries.status.state == "empty"
    for look in (queries.head, queries.sample, lambda: list(queries)):
        with pytest.raises(FileNotFoundError, match="holds nothing"):
            look()
    assert "to fill it" in queries._repr_html_() and not queries.path.exists()


def test_rows_of_an_unfinished_artifact_are_the_first_of_the_complete_one(unfinished):
    stored = list(unfinished)
    head = unfinished.head(4)
    assert head["qid"].tolist() == ["0-0", "2-0", "2-1", "3-0"]
    index(unfinished.path, corpus(20), Writer((1, 0, 2)))
    whole = unfinished.get_results()
    assert [row["qid"] for row in stored] == whole["qid"][:9].tolist()
    pd.testing.assert_frame_equal(head, whole[:4])
    pd.testing.assert_frame_equal(unfinished.head(99), whole)
    assert list(unfinished) == list(unfinished.iter_results())


def test_sample(complete):
    whole = complete.get_results()
    drawn = complete.sample(5, seed=1)
    assert len(drawn) == drawn["qid"].nunique() == 5
    assert drawn["qid"].tolist() == [qid for qid in whole["qid"] if qid in set(drawn["qid"])]
    pd.testing.assert_frame_equal(drawn, complete.sample(5, seed=1))
    assert len({tuple(complete.sample(5, seed=seed)["qid"]) for seed in range(9)}) > 1
    pd.testing.assert_frame_equal(complete.sample(99), whole)
    seen = {qid for seed in range(99) for qid in complete.sample(2, seed=seed)["qid"]}
    assert seen == set(whole["qid"])


@pytest.mark.parametrize("n", [0, -1, 1.5, "3"])
def test_bad_numbers(complete, n):
    for look in (complete.head, complete.sample):
        with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
            look(n)
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        complete.sample(seed=-1)


def test_html(complete):
    html = complete._repr_html_()
    for shown in ("SyntheticQueries(", "complete", "what of document 0", "<svg", "2-1"):
        assert shown in html
    assert repr(complete) == f"SyntheticQueries({str(complete.path)!r})"


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "flipped"])
def test_html_of_a_damaged_shard_says_so(complete, how):
    damage(complete.path / "queries-00000.jsonl.gz", how)
    html = complete._repr_html_()
    assert ("is missing" if how == "gone" else "is damaged") in html and "complete" in html
    with pytest.raises(ValueError, match="queries-00000"):
        complete.head()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": "x"}', "\0", "{}" * 9])
def test_html_of_a_damaged_manifest_says_so(complete, text):
    (complete.path / "pt_meta.json").write_text(text)
    assert "<script" not in complete._repr_html_() and "SyntheticQueries(" in complete._repr_html_()


def test_html_of_manifests_without_a_field(complete):
    manifest = json.loads((complete.path / "pt_meta.json").read_text())
    for name in manifest:
        rest = {key: value for key, value in manifest.items() if key != name}
        (complete.path / "pt_meta.json").write_text(json.dumps(rest))
        assert "SyntheticQueries(" in complete._repr_html_()


def test_html_escapes_what_a_model_wrote(tmp_path):
    row = {"qid": "<b>", "query": "<script>alert(1)</script>", "docno": "d", "text": "t"}
    queries = SyntheticQueries(tmp_path / "q").index([row])
    assert "<script" not in queries._repr_html_() and "&lt;script&gt;" in queries._repr_html_()


def test_files_that_a_writer_replaces_meanwhile(unfinished, monkeypatch):
    """The partial shard disappears between the reading of the manifest and of its rows."""
    read, path = artifact.read_rows, unfinished.path

    def read_later(folder, entry):
        if entry["file"].endswith(".open"):
            monkeypatch.setattr(artifact, "read_rows", read)
            index(path, corpus(20), Writer((1, 0, 2)))
        return read(folder, entry)

    monkeypatch.setattr(artifact, "read_rows", read_later)
    assert len(unfinished.head(99)) == 9  # what was stored at the start
    assert unfinished.status.state == "complete"


def test_iteration_goes_on_when_a_writer_completes_the_artifact(unfinished):
    rows = iter(unfinished)
    read = [next(rows) for _ in range(4)]  # in the first shard
    index(unfinished.path, corpus(20), Writer((1, 0, 2)))
    read += rows
    assert read == list(unfinished)[:9]


def test_no_queries_at_all(tmp_path):
    queries = index(tmp_path / "q", corpus(4), Writer((0,)))
    assert len(queries) == 0 and list(queries) == [] and queries.status.documents == 4
    for frame in (queries.head(), queries.sample()):
        assert frame.empty and "query" in frame
    assert "First queries" not in queries._repr_html_()


def test_a_large_artifact_is_looked_into_without_reading_it(tmp_path, monkeypatch):
    """Of 2,000 shards with a million queries, only those of the shown rows are read."""
    queries = index(tmp_path / "q", corpus(12), Writer((1, 0, 2)))
    manifest = queries._manifest()
    entry, read = manifest["shards"][0] | {"queries": 500}, []
    shards = [entry | {"file": str(number)} for number in range(2_000)]
    monkeypatch.setattr(artifact, "read_manifest", lambda *_: manifest | {"shards": shards})

    def rows_of(folder, entry):
        read.append(entry["file"])
        return ({"qid": f"{entry['file']}-{n}"} for n in range(500))

    monkeypatch.setattr(artifact, "read_rows", rows_of)
    monkeypatch.setattr(artifact, "_COLUMNS", ["qid"])
    assert len(queries) == 1_000_000 and len(queries.head(3)) == 3 and read == ["0"]
    drawn = queries.sample(4, seed=7)["qid"]
    assert len(set(drawn)) == 4 and len(read) == 5
    assert set(drawn) == set(queries.sample(4, seed=7)["qid"])


def test_page_on_the_hub(complete):
    page = complete._hf_readme(repo="me/queries")
    header = yaml.safe_load(page.split("---\n")[1])
    assert header["tags"][2:] == [
        "pyterrier-artifact.synthetic_queries",
        "pyterrier-artifact.synthetic_queries.inpars",
    ]
    for part in (
        "# me/queries\n",
        "pt.Artifact.from_hf('me/queries')",
        "| documents | 12 |",
        "| queries | 12 |",
        "| language model | <code>none</code> |",
        "## License",
        '"max_new_tokens": 64',
    ):
        assert part in page
    assert "TODO" not in page
    assert "from_hf('me/queries@v2')" in complete._hf_readme(repo="me/queries", branch="v2")
    assert "# Mine\n" in complete._hf_readme(repo="me/queries", pretty_name="Mine")


def test_page_on_the_hub_shows_any_prompt(tmp_path):
    settings = {"model": "m", "prompt": "```\n{document}", "num_queries": 1}
    queries = SyntheticQueries(tmp_path / "q")
    (Writer(settings=settings) >> LengthFilter(1) >> queries).index(corpus(3))
    page = queries._hf_readme(repo="me/queries")
    assert "## Prompt\n\n````\n```\n{document}\n````\n" in page
    assert "<code>LengthFilter(" in page and '"prompt"' not in page
    plain = SyntheticQueries(tmp_path / "p").index([])
    assert "language model |" not in plain._hf_readme(repo="me/queries")


def test_one_shard_is_read(complete, monkeypatch):
    (complete.path / "queries-00001.jsonl.gz").write_bytes(b"")
    assert "damaged" not in complete._repr_html_()
    assert len(complete.head(3)) == 3
