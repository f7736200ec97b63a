"""What an artifact says about rows of other artifacts: their documents, settings and stages."""

import warnings
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import SETTINGS, Writer, corpus, files, index, rows

from pyterrier_inpars import LengthFilter
from pyterrier_inpars.evaluation import exclude_fewshot_topics
from pyterrier_inpars.queries._resume import active_state
from pyterrier_inpars.queries.artifact import SyntheticQueries

TOPICS = pd.DataFrame({"qid": ["1", "2", "3"], "query": ["heat flow", "wing lift", "jet noise"]})
KNOWN = {"fewshot_topics": [{"qid": "2", "query": "other words"}, {"query": "Jet Noise"}]}


class Refused(Writer):
    """A writer whose prompt for document 1 is refused."""

    def _transform(self, inp):
        if "1" in set(inp["docno"]):
            active_state().add_failure("1", "refused")
        return super()._transform(inp[inp["docno"] != "1"])


def test_parts_keep_their_settings_stages_documents_failures_and_versions(tmp_path):
    one = index(tmp_path / "1", corpus(4), Refused([2]) >> LengthFilter(1))
    two = index(tmp_path / "2", corpus(6), Writer(settings=SETTINGS | KNOWN))
    both = SyntheticQueries(tmp_path / "both").concat({"a": one, "b": two})
    parts = both.metadata["settings"]["parts"]
    for name, part in (("a", one), ("b", two)):
        for field in ("settings", "stages", "documents", "versions"):
            assert parts[name][field] == part.metadata[field]
    assert parts["a"]["failed"] == {"1": "refused"} and "failed" not in parts["b"]
    assert both.failed.to_dict("records") == [{"docno": "1", "error": "refused"}]
    assert both.metadata["documents"] == len(both) == 12
    assert (both.status.documents, both.status.failed) == (6, 1)  # each once
    again = SyntheticQueries(tmp_path / "again").concat({"c": both, "d": one})
    assert again.failed["docno"].tolist() == ["1", "1"] and again.status.documents == 6
    card = both._hf_readme(repo="me/both")
    assert "| documents | 6 |" in card and "| part b | 6 documents, by <code>none</code> |" in card
    assert "| part a | 4 documents, by <code>none</code>, 1 failed <code>LengthFilter(1)" in card


def test_parts_are_compared_by_their_settings_and_rows(tmp_path):
    """Versions of a part may change, such as the address of a server, and 0.1 stored none."""
    one = index(tmp_path / "1", corpus(4), Refused([2]) >> LengthFilter(1))
    stored = [row | {"qid": f"a-{row['qid']}", "source": "a"} for row in one]
    flat = {"a": one.metadata["settings"]}
    both = SyntheticQueries(tmp_path / "both").index(stored, settings={"parts": flat})
    two = SyntheticQueries(tmp_path / "nested").index(
        [row | {"qid": f"b-{row['qid']}", "source": "b"} for row in stored],
        settings={"parts": {"b": {"parts": flat}}},
    )
    manifest = one.path / "pt_meta.json"
    manifest.write_text(manifest.read_text().replace('"torch": "1"', '"torch": "2"'))
    assert one.metadata["versions"][0]["packages"] == {"torch": "2"}
    for joined in (both, SyntheticQueries(tmp_path / "new").concat({"a": one})):
        assert len(joined.concat({"a": one})) == 6
        assert len(two.concat({"b": joined})) == 6
    other = index(tmp_path / "2", corpus(4), Writer([2], settings={"model": "other"}))
    for joined in (both, SyntheticQueries(tmp_path / "new")):
        with pytest.raises(ValueError, match="parts.a.model: was 'none', is 'other'"):
            joined.concat({"a": other})


@pytest.mark.parametrize(
    "parts", [{"a": {"prompt": "A"}}, {"a": {"versions": 1}}, ["a"], {"a": "b"}, None]
)
def test_settings_of_ones_own_may_have_parts(tmp_path, parts):
    queries = SyntheticQueries(tmp_path / "rows").index(rows(2), settings={"parts": parts})
    assert queries.failed.empty and queries.status.failed == 0
    assert queries._hf_readme(repo="me/rows").count("| part") == 0


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), st.integers(1, 4))
def test_documents_of_stored_rows_count_once(docnos, shard_size):
    stored = [
        {"qid": f"{docno}-{i}", "query": "q", "docno": docno, "text": "t"}
        for i, docno in enumerate(docnos)
    ]
    with TemporaryDirectory() as folder:
        queries = SyntheticQueries(folder, shard_size=shard_size).index(stored, settings={})
        assert queries.status.documents == len(set(docnos))
        assert queries.metadata["documents"] == queries.status.queries == len(docnos)
        assert queries.verify() == {} and len(queries.index(stored, settings={})) == len(docnos)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [({}, ValueError, "empty dict"), ([], TypeError, "a dict, such as"), (None, TypeError, "dict")],
)
def test_parts_are_a_dict_of_artifacts(tmp_path, parts, error, message):
    joined = SyntheticQueries(tmp_path / "both")
    with pytest.raises(error, match=message):
        joined.concat(parts)
    with pytest.raises(TypeError, match="a dict, such as"):
        joined.concat([index(tmp_path / "one", corpus(2))])
    assert not joined.path.exists()


def test_a_source_that_the_names_of_parts_replace_is_warned_about_once(tmp_path):
    documents = [document | {"source": "pubmed"} for document in corpus(3)]
    one = index(tmp_path / "1", documents)
    with pytest.warns(UserWarning, match="part 'a' have a column source.*'pubmed'") as caught:
        both = SyntheticQueries(tmp_path / "both").concat({"a": one, "b": one})
    assert len(caught) == 1 and set(both.get_results()["source"]) == {"a", "b"}


def test_rows_without_settings_are_warned_about(tmp_path):
    """Their few-shot topics are unknown, so an evaluation cannot leave them out."""
    queries = index(tmp_path / "all", corpus(4), Writer(settings=SETTINGS | KNOWN))
    kept = queries.get_results()[:2]
    with pytest.warns(UserWarning, match="does not say how its rows were made") as caught:
        lost = SyntheticQueries(tmp_path / "lost").index(kept)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="few-shot topics of .* are unknown"):
        assert len(exclude_fewshot_topics(TOPICS, lost)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = SyntheticQueries(tmp_path / "kept").index(
            kept, settings=queries.metadata["settings"]
        )
        assert exclude_fewshot_topics(TOPICS, known)["qid"].tolist() == ["1"]
        SyntheticQueries(tmp_path / "none").index(rows(2), settings={})
        SyntheticQueries(tmp_path / "empty").index([])


@pytest.mark.parametrize("described", [{}, {"model": "m"}])
def test_settings_may_be_given_later(tmp_path, described):
    """As the warning says, and then the few-shot topics are known."""
    queries = SyntheticQueries(tmp_path / "rows", shard_size=1)
    with pytest.warns(UserWarning, match="does not say how its rows were made"):
        queries.index(rows(3))
    before = files(queries.path)
    with pytest.warns(UserWarning, match="few-shot topics of .* are unknown"):
        exclude_fewshot_topics(TOPICS, queries)
    joined = SyntheticQueries(tmp_path / "joined").concat({"a": queries})
    with pytest.warns(UserWarning, match="few-shot topics of .* are unknown"):
        exclude_fewshot_topics(TOPICS, joined)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        queries.index(rows(3), settings=described)
        assert queries.metadata["settings"] == described
        assert len(exclude_fewshot_topics(TOPICS, queries)) == 3
        if not described:
            queries.index(rows(3))
    after = files(queries.path)
    assert {name for name in after if after[name] != before[name]} == {"pt_meta.json"}
    with pytest.raises(ValueError, match="model: was .*, is 'x'"):
        queries.index(rows(3), settings={"model": "x"})


def test_a_run_that_ends_without_a_query_is_warned_about(tmp_path):
    stages = Writer([2]) >> LengthFilter(9)
    message = r"holds no query for any of 4 documents: LengthFilter dropped 8 of 8"
    with pytest.warns(UserWarning, match=message):
        queries = index(tmp_path / "queries", corpus(4), stages)
    assert queries.built() and len(queries) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index(tmp_path / "no_documents", corpus(0), Writer())


# Few-shot topics of which only some have a qid

TOPIC = st.sampled_from([{"qid": "1"}, {"qid": "9"}, {}]).flatmap(
    lambda qid: st.sampled_from(["heat flow", "WING lift", "what"]).map(
        lambda query: {**qid, "query": query}
    )
)


@settings(deadline=None, max_examples=40)
@given(st.lists(TOPIC, max_size=3), st.booleans())
def test_topics_are_excluded_by_the_ids_and_queries_that_are_known(shown, as_frame):
    left = [
        qid
        for qid, query in TOPICS.itertuples(index=False)
        if not any(t.get("qid") == qid or t["query"].lower() == query for t in shown)
    ]
    with TemporaryDirectory() as folder:
        writer = Writer(settings=SETTINGS | ({"fewshot_topics": shown} if shown else {}))
        queries = index(folder, corpus(2), writer)
        found = queries.fewshot_topics
        assert found["query"].tolist() == [t["query"] for t in shown]
        source = found if as_frame else queries
        assert exclude_fewshot_topics(TOPICS, source)["qid"].tolist() == left


def test_a_topic_with_neither_id_nor_query_is_refused():
    shown = pd.DataFrame({"qid": ["1", None], "query": [None, None]}, dtype=object)
    with pytest.raises(ValueError, match="qid must be a string, but is None"):
        exclude_fewshot_topics(TOPICS, shown)


def test_synthetic_queries_are_not_taken_for_fewshot_topics(tmp_path):
    queries = index(tmp_path / "queries", corpus(2))
    frame = queries.get_results()
    both = SyntheticQueries(tmp_path / "both").concat({"a": queries}).get_results()
    for synthetic in (frame, frame[["qid", "query", "docno"]], both[["qid", "docno"]]):
        with pytest.raises(TypeError, match="the frame holds synthetic queries, such as qid"):
            exclude_fewshot_topics(TOPICS, synthetic)
    pairs = pd.DataFrame({"qid": ["1"], "query": ["heat flow"], "docno": ["1"], "text": ["x"]})
    assert exclude_fewshot_topics(TOPICS, pairs)["qid"].tolist() == ["2", "3"]
    read = frame.assign(fewshot_examples=[["2", "3"]] * len(frame))  # as the commands write it
    assert exclude_fewshot_topics(TOPICS, read)["qid"].tolist() == ["1"]


# Rows as they are read


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([None, "LengthFilter"]), min_size=1, max_size=6))
def test_dropped_rows_are_no_topics(marks):
    stored = [row | {"dropped_by": mark} for row, mark in zip(rows(len(marks)), marks, strict=True)]
    kept = [row["qid"] for row in stored if row["dropped_by"] is None]
    with TemporaryDirectory() as folder:
        queries = SyntheticQueries(folder).index(stored, settings={})
        assert queries.get_topics()["qid"].tolist() == queries.get_qrels()["qid"].tolist() == kept
        assert len(queries.get_results()) == len(marks)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.none() | st.integers(-(2**62), 2**62) | st.just("x") | st.booleans() | st.just(0.5),
        min_size=1,
        max_size=5,
    )
)
def test_values_are_read_as_they_were_stored(values):
    """A whole number stays one, also if other documents lack the field."""
    stored = [
        row | ({} if value is None else {"pmid": value})
        for row, value in zip(rows(len(values)), values, strict=True)
    ]
    with TemporaryDirectory() as folder:
        queries = SyntheticQueries(folder).index(stored, settings={})
        for frame in (queries.get_results(), queries.head(len(values)), queries.sample(9)):
            found = frame["pmid"].tolist() if "pmid" in frame else [None] * len(values)
            found = [None if pd.isna(value) else value for value in found]
            assert found == values
            assert [type(value) for value in found] == [type(value) for value in values]
