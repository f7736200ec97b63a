"""`SyntheticQueries` as a dataset: rows in, frames out, files to share."""

import functools
import gzip
import http.server
import threading
import warnings
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import SETTINGS, Writer, corpus, files, index, rows

from pyterrier_inpars import CopyFilter
from pyterrier_inpars._fingerprint import StreamFingerprint
from pyterrier_inpars._stage import Stage
from pyterrier_inpars.evaluation import exclude_fewshot_topics
from pyterrier_inpars.queries.artifact import SyntheticQueries


def test_frames_of_a_stored_run(tmp_path):
    queries = index(tmp_path / "new" / "queries", corpus(12), Writer([1, 2, 0]))
    results = queries.get_results()
    pt.validate.result_frame(results, extra_columns=["query", "text", "score", "log_probs"])
    assert list(results.columns[:4]) == ["qid", "query", "docno", "text"]
    assert list(results.qid) == [f"{i}-{n}" for i in range(12) for n in range([1, 2, 0][i % 3])]
    assert results.log_probs[3] == [-1 / 6, 0.0]
    assert all(type(p) is float for log_probs in results.log_probs for p in log_probs)
    assert set(results.finish_reason) == {"stop"}
    assert len(queries) == len(results) == 12
    topics, qrels = queries.get_topics(), queries.get_qrels()
    pd.testing.assert_frame_equal(topics, results[["qid", "query"]])
    pd.testing.assert_frame_equal(qrels, results[["qid", "docno"]].assign(label=1))
    assert list(queries.iter_results()) == results.to_dict("records")


def test_metadata_of_a_stored_run(tmp_path):
    queries = index(tmp_path / "queries", corpus(12))
    known = queries.metadata
    assert (known["type"], known["format"]) == pt.inspect.artifact_type_format(queries)
    assert known["package_hint"] == "pyterrier_inpars"
    assert (known["documents"], known["queries"]) == (12, 12)
    assert known["settings"] == {k: v for k, v in SETTINGS.items() if k != "versions"}
    assert known["versions"] == [{"from_shard": 0, "packages": {"torch": "1"}}]
    assert [s["documents"] for s in known["shards"]] == [6, 6]
    mark = StreamFingerprint()
    for document in corpus(12):
        mark = mark.extended(document["docno"], document["text"])
    assert known["fingerprint"] == mark.fingerprint == known["shards"][-1]["fingerprint"]


@pytest.mark.parametrize("documents", [0, 4])
def test_an_artifact_without_queries(tmp_path, documents):
    queries = index(tmp_path / "queries", corpus(documents), Writer([0]))
    assert len(queries) == 0 and queries.metadata["documents"] == documents
    for frame in (queries.get_results(), queries.get_topics(), queries.get_qrels()):
        assert frame.empty and "qid" in frame


def test_inspection(tmp_path):
    queries = SyntheticQueries(tmp_path / "queries")
    assert pt.inspect.indexer_inputs(queries) == [["qid", "query", "docno", "text"]]
    assert repr(queries) == f"SyntheticQueries({str(tmp_path / 'queries')!r})"
    schematic = pt.schematic.transformer_schematic(Writer() >> queries)
    assert schematic["transformers"][-1]["label"] == "Synthetic Queries"
    assert pt.schematic.draw(Writer() >> queries)
    with pytest.raises(ValueError, match="shard_size"):
        SyntheticQueries(tmp_path, shard_size=0)


def test_an_artifact_is_a_source_for_another(tmp_path):
    first = index(tmp_path / "first", corpus(12))
    second = (
        pt.apply.generic(lambda f: f[f.qid != "3-0"]) >> SyntheticQueries(tmp_path / "b")
    ).index(first.iter_results())
    expected = first.get_results().query("qid != '3-0'").reset_index(drop=True)
    pd.testing.assert_frame_equal(second.get_results(), expected)


def test_fewshot_topics_are_stored_with_the_queries(tmp_path):
    topics = [{"qid": "1", "query": "a b"}, {"qid": "2", "query": "c"}]
    writer = Writer(settings=SETTINGS | {"fewshot_topics": topics})
    queries = index(tmp_path / "shown", corpus(3), writer)
    assert queries.fewshot_topics.to_dict("records") == topics
    left = exclude_fewshot_topics(pd.DataFrame({"qid": ["1", "3"], "query": ["x", "y"]}), queries)
    assert left["qid"].tolist() == ["3"]
    for none in (index(tmp_path / "none", corpus(3)), SyntheticQueries(tmp_path / "rows")):
        none.built() or none.index(rows(2))
        assert list(none.fewshot_topics.columns) == ["qid", "query"] and none.fewshot_topics.empty


# Rows


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "query": st.text(),
                "docno": st.text(),
                "text": st.text(),
                "score": st.floats(allow_nan=False),
                "log_probs": st.lists(st.floats(max_value=0), max_size=3),
            }
        ),
        max_size=8,
    )
)
def test_rows_are_read_as_they_were_stored(records):
    records = [{"qid": str(i)} | record for i, record in enumerate(records)]
    with TemporaryDirectory() as folder:
        queries = SyntheticQueries(folder, shard_size=3).index(records)
        assert repr(list(queries.iter_results())) == repr(records)
        frame = queries.get_results()
        assert [*frame["text"]] == [record["text"] for record in records]


def test_unusual_documents_are_stored(tmp_path):
    texts = [
        "",
        " \n\t",
        "{text} {0} {{",
        "a\u2028b\u2029c\x85d\r\ne\x00f",
        "word " * 100_000,
        "😀é",
    ]
    documents = [{"docno": str(i), "text": text} for i, text in enumerate(texts)]
    with pytest.raises(OSError, match="gone"):
        index(tmp_path / "queries", with_error(documents), batch=1, shard_size=1)
    results = index(tmp_path / "queries", documents, batch=1, shard_size=1).get_results()
    assert list(results.text) == texts


def with_error(documents):
    yield from documents
    raise OSError("gone")


def test_arrays_are_stored_as_lists(tmp_path):
    row = rows(1)[0] | {"log_probs": np.array([-0.5, -1], np.float32), "score": np.float32(0.1)}
    (stored,) = SyntheticQueries(tmp_path / "queries").index([row]).iter_results()
    assert stored["log_probs"] == [-0.5, -1.0] and stored["score"] == float(np.float32(0.1))


# Refusals


def test_a_duplicate_document_is_refused(tmp_path):
    documents = [*corpus(20)]
    path = tmp_path / "queries"
    for number, error in [
        (13, "duplicate qid '13-0': .* document '13' more than once"),
        (2, "duplicate qid '2-0': .* '2' more than once"),
    ]:
        with pytest.raises(ValueError, match=error):
            index(path, [*documents[:15], documents[number], *documents[15:]])
    with pytest.raises(
        RuntimeError, match="holds 15 of the corpus's documents; run the same index"
    ):
        SyntheticQueries(path).get_results()
    assert len(index(path, documents)) == 20


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"text": None}, "text must be a string, but is None at qid 'q1'"),
        ({"docno": 1}, "docno must be a string, but is 1 at qid 'q1'"),
        ({"query": float("nan")}, "query must be a string, but is nan"),
        (
            {"more": {1}},
            r"cannot store qid 'q1': \{1\} \(set\) cannot be written as JSON",
        ),
        ({"text": "half \ud800"}, "'q1' holds text that is not Unicode"),
        ({"more": "half \ud800"}, "cannot store qid 'q1'.*surrogates"),
    ],
)
def test_rows_that_cannot_be_stored_are_refused(tmp_path, row, error):
    first, second = rows(2)
    queries = SyntheticQueries(tmp_path / "queries", shard_size=1)
    with pytest.raises(ValueError, match=error):
        queries.index([first, second | row])
    assert len(queries.index([first, second])) == 2


@pytest.mark.parametrize("column", ["qid", "query", "docno", "text"])
def test_a_missing_column_is_refused(tmp_path, column):
    row = {name: value for name, value in rows(1)[0].items() if name != column}
    with pytest.raises(ValueError, match=f"lacks the column '{column}'"):
        SyntheticQueries(tmp_path / "queries").index([row])
    assert not (tmp_path / "queries").exists()


def test_empty_and_unfinished_artifacts_cannot_be_read(tmp_path):
    queries = SyntheticQueries(tmp_path / "queries")
    reads = [len, SyntheticQueries.get_results, SyntheticQueries.build_package]
    for read in reads:
        with pytest.raises(FileNotFoundError, match="holds nothing: run"):
            read(queries)
    with pytest.raises(OSError, match="disk"):
        index(queries.path, corpus(20, stop=14))
    for read in reads[1:]:
        with pytest.raises(RuntimeError, match="holds 9 of the corpus's documents; run the same"):
            read(queries)


def test_a_path_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="empty folder or a new path"):
        index(tmp_path / "file", corpus(3))
    with pytest.raises(FileExistsError, match="empty folder or a new path"):
        index(tmp_path, corpus(3))
    (tmp_path / "pt_meta.json").write_text('{"type": "sparse_index", "format": "pisa"}')
    with pytest.raises(FileExistsError, match="another artifact, .*'sparse_index', 'pisa'"):
        index(tmp_path, corpus(3))
    assert (tmp_path / "file").read_text() == "mine"


# Sharing


@pytest.fixture
def served(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_packages_are_shared_by_url(tmp_path, served, monkeypatch):
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    queries = index(tmp_path / "queries", corpus(12))
    queries.build_package(verbose=False)
    for kind in (pt.Artifact, SyntheticQueries):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tarfile's, in PyTerrier
            shared = kind.from_url(f"{served}/queries.tar.lz4")
        assert isinstance(shared, SyntheticQueries) and shared.path != queries.path
        assert files(shared.path) == files(queries.path)
        pd.testing.assert_frame_equal(shared.get_results(), queries.get_results())


def test_artifact_load(tmp_path):
    index(tmp_path / "queries", corpus(3))
    loaded = pt.Artifact.load(str(tmp_path / "queries"))
    assert isinstance(loaded, SyntheticQueries) and len(loaded) == 3


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_optional_fields_do_not_depend_on_the_batch(tmp_path, batch):
    """A missing field stays missing, and an integer stays an integer."""
    fields = [{"year": 1999}, {}, {"year": 2001, "title": "x"}, {"title": None}, {"year": 1.5}]
    documents = [{"docno": str(i), "text": f"text {i}"} | more for i, more in enumerate(fields)]
    path = tmp_path / "queries"
    stages = Writer() >> CopyFilter() >> Keeps()
    queries = index(path, documents, stages, batch=batch)
    found = [{k: row[k] for k in ("year", "title") if k in row} for row in queries.iter_results()]
    assert found == fields and [type(row.get("year")) for row in found] == [
        type(row.get("year")) for row in fields
    ]
    text = b"".join(gzip.decompress(f.read_bytes()) for f in path.glob("*.jsonl.gz"))
    assert b"NaN" not in text
    for i, missing in enumerate((float("nan"), np.float32("nan"), pd.NaT)):  # in frames
        plain = index(tmp_path / str(i), [documents[0], documents[1] | {"year": missing}])
        assert ["year" in row for row in plain.iter_results()] == [True, False]


class Keeps(Stage):
    def _required_columns(self):
        return ["docno"]

    def _transform(self, inp):
        return inp


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SyntheticQueries("~/queries").path == tmp_path / "queries"


class TestConcat:
    @staticmethod
    def part(folder, query, settings=None):
        rows = [{"qid": f"d{i}-1", "query": query, "docno": f"d{i}", "text": "x"} for i in range(3)]
        return SyntheticQueries(folder).index(rows, settings=settings)

    def test_parts_have_their_names_in_qids_and_source(self, tmp_path):
        topic = {"qid": "7", "query": "a topic"}
        one = self.part(tmp_path / "1", "one", {"prompt": "A", "fewshot_topics": [topic]})
        two = self.part(tmp_path / "2", "two", {"prompt": "B", "fewshot_topics": [topic]})
        joined = SyntheticQueries(tmp_path / "both").concat({"a": one, "b_2": two})
        found = joined.get_results()
        assert found["qid"].tolist() == [
            f"{name}-d{i}-1" for name in ("a", "b_2") for i in range(3)
        ]
        assert found["source"].tolist() == ["a"] * 3 + ["b_2"] * 3
        assert found["query"].tolist() == ["one"] * 3 + ["two"] * 3
        assert joined.fewshot_topics.to_dict("records") == [topic]
        assert joined.metadata["settings"]["parts"]["b_2"]["settings"]["prompt"] == "B"
        assert joined.concat({"a": one, "b_2": two}).metadata == joined.metadata

    def test_other_parts_are_refused(self, tmp_path):
        one, two = self.part(tmp_path / "1", "one"), self.part(tmp_path / "2", "two")
        joined = SyntheticQueries(tmp_path / "both").concat({"a": one})
        with pytest.raises(ValueError, match="parts"):
            joined.concat({"b": two})
        with pytest.raises(ValueError, match="letters, digits and underscores, .* not 'a-b'"):
            SyntheticQueries(tmp_path / "other").concat({"a-b": one})
        with pytest.raises(FileNotFoundError, match="holds nothing"):
            joined.concat({"a": SyntheticQueries(tmp_path / "empty")})
        with pytest.raises(TypeError, match="part 'a' must be SyntheticQueries, not .*qid"):
            joined.concat({"a": one.get_results()})


class TestFrames:
    def test_rows_of_a_frame(self, tmp_path):
        rows = [
            {
                "qid": f"d{i}-1",
                "query": "a",
                "docno": f"d{i}",
                "text": "x",
                **({"n": 1} if i else {}),
            }
            for i in range(3)
        ]
        stored = SyntheticQueries(tmp_path / "rows").index(rows)
        of_frame = SyntheticQueries(tmp_path / "frame").index(pd.DataFrame(rows, dtype=object))
        assert list(of_frame) == list(stored) == rows

    def test_a_frame_as_corpus(self, tmp_path):
        corpus = pd.DataFrame({"docno": ["d1", "d2"], "text": ["the noise", "the gain"]})
        pipeline = pt.apply.generic(
            lambda docs: docs.assign(qid=docs["docno"], query=docs["text"])
        ) >> SyntheticQueries(tmp_path / "queries")
        assert pipeline.index(corpus).get_results()["query"].tolist() == ["the noise", "the gain"]

    def test_rows_that_are_no_dicts(self, tmp_path):
        with pytest.raises(TypeError, match="a row must be a dict with qid, .*, not 'd1'"):
            SyntheticQueries(tmp_path / "queries").index(["d1"])
