"""Filters of synthetic queries: each against a plain oracle, and their common behaviour."""

import re
import unicodedata
import warnings

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars import _similarity as similarity
from pyterrier_inpars import distributed
from pyterrier_inpars._words import UNSPACED
from pyterrier_inpars.filtering import (
    CopyFilter,
    DuplicateFilter,
    FalseNegativeFilter,
    LengthFilter,
    OverlapFilter,
    RoundTripFilter,
    ScoreFilter,
    SemanticDuplicateFilter,
)
from pyterrier_inpars.mining import NegativeMiner

quick = settings(max_examples=40, deadline=None)
TEXTS = st.text(alphabet="aAbBsSß1 \t\n-'.é\u0301ि日", max_size=9) | st.text(max_size=20)
ROWS = st.lists(
    st.tuples(TEXTS, TEXTS, st.sampled_from([-2.0, -0.5, 0.0, float("-inf")])), max_size=9
)
SPACED = TEXTS.map(lambda text: re.sub(f"[{UNSPACED}]", "x", text))
SPACED_ROWS = st.lists(st.tuples(SPACED, SPACED, st.just(0.0)), max_size=9)
"""Rows in scripts with spaces between words."""
RANKINGS = pt.Transformer.from_df(
    pd.DataFrame(
        [(f"q{q}", f"d{d}", float(-((d - q) % 5))) for q in range(9) for d in range(5)],
        columns=["qid", "docno", "score"],
    )
)
RANKINGS.schematic = {"label": "Rankings", "help_url": None}  # otherwise looked up on the web


class Letters:
    """An encoder whose vectors are counts of letters."""

    def encode(self, texts):
        counts = [[text.lower().count(letter) for letter in "abcdefghij"] for text in texts]
        return np.array(counts, dtype=float).reshape(len(texts), 10)


MAKERS = [
    lambda: ScoreFilter(3),
    lambda: LengthFilter(1, 2),
    lambda: CopyFilter(),
    lambda: DuplicateFilter(),
    lambda: RoundTripFilter(RANKINGS, 2),
    lambda: OverlapFilter(0.5),
    lambda: SemanticDuplicateFilter(Letters()),
]
NAMES = [
    "ScoreFilter",
    "LengthFilter",
    "CopyFilter",
    "DuplicateFilter",
    "RoundTripFilter",
    "OverlapFilter",
    "SemanticDuplicateFilter",
]
each_filter = pytest.mark.parametrize("make", MAKERS, ids=NAMES)
COLUMNS = ["qid", "query", "docno", "text", "score", "log_probs"]


def frame(rows):
    """Synthetic queries, with an additional column and a constant index."""
    data = [
        (f"q{i}", query, f"d{i % 4}", text, score, [float(i)])
        for i, (query, text, score) in enumerate(rows)
    ]
    return pd.DataFrame(data, columns=COLUMNS, index=[7] * len(rows))


def kept(stage, queries):
    return list(stage(queries)["qid"])


def words(text):
    kinds = ((c, unicodedata.category(c)) for c in text.casefold())
    visible = ((c, kind) for c, kind in kinds if kind != "Cf" or c in "\u200b\u200c")
    return "".join(c if kind[0] in "LMN" else " " for c, kind in visible).split()


@each_filter
@quick
@given(rows=ROWS)
def test_kept_rows_are_unchanged_and_in_order(make, rows):
    queries = frame(rows)
    before = queries.copy()
    stage = make()
    out = stage(queries)
    pd.testing.assert_frame_equal(queries, before)
    qids = list(out["qid"])
    assert qids == [qid for qid in queries["qid"] if qid in set(qids)]
    expected = queries[queries["qid"].isin(qids)].reset_index(drop=True)
    pd.testing.assert_frame_equal(out, expected, check_dtype=len(rows) > 0)
    assert list(out.index) == list(range(len(out)))
    assert (stage.seen, stage.dropped) == (len(rows), len(rows) - len(out))
    pd.testing.assert_frame_equal(stage(out), out, check_dtype=len(out) > 0)
    assert (stage.seen, stage.dropped) == (len(rows) + len(out), len(rows) - len(out))


@quick
@given(ROWS, st.integers(1, 6), st.randoms())
def test_score_filter(rows, k, rng):
    queries = frame(rows)
    best = sorted(((-score, f"q{i}") for i, (_, _, score) in enumerate(rows)))[:k]
    assert sorted(kept(ScoreFilter(k), queries)) == sorted(qid for _, qid in best)
    order = list(range(len(rows)))
    rng.shuffle(order)
    shuffled = queries.iloc[order]
    assert sorted(kept(ScoreFilter(k), shuffled)) == sorted(qid for _, qid in best)


def test_queries_without_a_score_are_dropped_if_others_have_one():
    nan = float("nan")
    queries = frame([("a", "b", 1.0), ("a", "b", nan), ("a", "b", -float("inf"))])
    for frames in (queries, queries.astype({"score": object}).replace(nan, None)):
        stage = ScoreFilter(3)
        message = "1 of 3 queries have no score, and are dropped; QueryGenerator gives none"
        with pytest.warns(UserWarning, match=message) as caught:
            assert list(stage(frames)["qid"]) == ["q0", "q2"]
        assert caught[0].filename == __file__
        assert (stage.seen, stage.dropped) == (3, 1)
    with pytest.warns(UserWarning, match="have no score"):
        named = ScoreFilter(min_score=-2, explain=True)(queries)
    assert named["dropped_by"].tolist() == [None, "ScoreFilter", "ScoreFilter"]
    for stage in (ScoreFilter(1), ScoreFilter(min_score=0)):
        with pytest.raises(ValueError, match="score is not a number at qid 'q0'"):
            stage(queries.assign(score=nan))


def test_queries_without_log_probs_are_dropped_if_others_have_some():
    queries = frame([("a", "b", 1.0)] * 3).assign(log_probs=[[-1.0], None, [-1.0]])
    stage = LengthFilter(0, min_tokens=1)
    message = "1 of 3 queries have no log_probs, and are dropped"
    with pytest.warns(UserWarning, match=message) as caught:
        assert list(stage(queries)["qid"]) == ["q0", "q2"]
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="log_probs must be a list, but is None"):
        stage(queries.assign(log_probs=None))


def test_a_minimum_score_and_its_ties_with_k():
    queries = frame([("a", "", s) for s in (1.0, 3.0, 2.0, 2.0)])
    assert kept(ScoreFilter(min_score=2), queries) == ["q1", "q2", "q3"]
    assert kept(ScoreFilter(2, min_score=2), queries) == ["q1", "q2"]
    assert kept(ScoreFilter(3, min_score=2.5), queries) == ["q1"]
    streamed = ScoreFilter(min_score=2).transform_iter(queries.to_dict("records"))
    assert [row["qid"] for row in streamed] == ["q1", "q2", "q3"]
    part = distributed._transform(ScoreFilter(min_score=2), queries)  # as a worker of Ray does
    assert part["qid"].tolist() == ["q1", "q2", "q3"]
    with pytest.raises(ValueError, match="k must be"):
        ScoreFilter()
    with pytest.raises(ValueError, match="compares all queries"):
        ScoreFilter(1, min_score=2).transform_iter(queries.to_dict("records"))


def test_queries_without_scores_need_a_reranker_or_a_judge():
    with pytest.raises(
        pt.validate.InputValidationError, match=r"RelevanceJudge\(model\) >> ScoreFilter"
    ):
        ScoreFilter(1)(frame([("a", "", 0.0)]).drop(columns="score"))


VECTORS = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), max_size=12)


@quick
@given(VECTORS, st.sampled_from([0.5, 0.9, 1.0]), st.integers(1, 5))
def test_semantic_duplicates_are_found_in_blocks_as_one_by_one(vectors, threshold, block):
    words = ["a" * a + "b" * b for a, b in vectors]
    unit = [np.array(v) / max(np.linalg.norm(v), 1e-9) for v in vectors]
    expected = []
    for i, vector in enumerate(unit):
        if all(vector @ unit[j] < threshold - 1e-6 for j in expected):
            expected.append(i)
    queries = frame([(word, word, 0.0) for word in words])
    before, similarity.BLOCK = similarity.BLOCK, block
    try:
        found = kept(SemanticDuplicateFilter(Letters(), threshold), queries)
    finally:
        similarity.BLOCK = before
    assert found == [f"q{i}" for i in expected]


def test_queries_of_near_duplicate_documents():
    rows = [("q0", "x", "d0", "ab"), ("q1", "y", "d1", "ba"), ("q2", "x", "d0", "ab")]
    rows += [("q3", "z", "d2", "cd")]
    queries = pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])
    assert kept(SemanticDuplicateFilter(Letters(), field="text"), queries) == ["q0", "q2", "q3"]


def test_an_encoder_and_a_cosine_are_needed():
    with pytest.raises(TypeError, match="must be a BiEncoder"):
        SemanticDuplicateFilter("all-MiniLM-L6-v2")
    for wrong in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold must be"):
            SemanticDuplicateFilter(Letters(), wrong)
    with pytest.raises(ValueError, match="field must be"):
        SemanticDuplicateFilter(Letters(), field="title")


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 2, 1), ()])
def test_an_encoder_returns_one_vector_for_each_text(shape):
    class Wrong:
        def encode(self, texts):
            return np.zeros(shape)

    queries = frame([("a", "x", 0.0), ("b", "y", 0.0), ("c", "z", 0.0)])
    with pytest.raises(ValueError, match=re.escape(f"of shape {shape} for 3 texts: encode()")):
        SemanticDuplicateFilter(Wrong())(queries)


def length(query):
    """Words, and letters of scripts without spaces; signs beside such letters count nothing."""
    if not re.search(f"[{UNSPACED}]", query):
        return len(re.findall(r"\S+", query))
    pieces = re.sub(f"([{UNSPACED}])", r" \1 ", query).split()
    return sum(any(char.isalnum() for char in piece) for piece in pieces)


@quick
@given(ROWS, st.integers(0, 3), st.none() | st.integers(0, 3))
def test_length_filter(rows, least, more):
    most = None if more is None else least + more
    lengths = [length(query) for query, _, _ in rows]
    expected = [
        f"q{i}" for i, n in enumerate(lengths) if n >= least and (most is None or n <= most)
    ]
    assert kept(LengthFilter(least, most), frame(rows)) == expected


@quick
@given(st.lists(st.integers(0, 6)), st.none() | st.integers(0, 3), st.none() | st.integers(3, 5))
def test_length_filter_in_tokens(lengths, least, most):
    queries = frame([("one word", "", 0.0)] * len(lengths))
    queries["log_probs"] = [[-1.0] * n for n in lengths]
    fits = [(least is None or n >= least) and (most is None or n <= most) for n in lengths]
    stage = LengthFilter(0, min_tokens=least, max_tokens=most)
    assert kept(stage, queries) == [f"q{i}" for i, fit in enumerate(fits) if fit]
    assert ("log_probs" in stage._required_columns()) == (least is not None or most is not None)
    assert kept(LengthFilter(3, min_tokens=least, max_tokens=most), queries) == []


def test_length_filter_needs_lists_of_log_probs():
    queries = frame([("one", "", 0.0), ("two", "", 0.0)])
    queries["log_probs"] = [[-1.0], -1.0]
    with pytest.raises(ValueError, match="must be a list, but is -1.0 .* 'two': set min_words"):
        LengthFilter(0, min_tokens=1)(queries)


@pytest.mark.parametrize("bounds", [(-1, None), (1.5, None), (3, 2), (None, True)])
def test_invalid_limits_in_tokens(bounds):
    with pytest.raises(ValueError, match="_tokens must be a whole number"):
        LengthFilter(min_tokens=bounds[0], max_tokens=bounds[1])


@quick
@given(SPACED_ROWS)
def test_copy_filter(rows):
    expected = []
    for i, (query, text, _) in enumerate(rows):
        q, t = words(query), words(text)
        runs = [t[start : start + len(q)] for start in range(len(t))]
        if not q or q not in runs:
            expected.append(f"q{i}")
    assert kept(CopyFilter(), frame(rows)) == expected


@quick
@given(ROWS)
def test_copy_filter_joins_several_text_fields(rows):
    queries = frame(rows).rename(columns={"text": "body"})
    titles = [query.upper() or None for query, _, _ in rows]
    queries["title"] = pd.Series(titles, dtype=object).values
    joined = [f"{title or ''} {row[1]}" for title, row in zip(titles, rows, strict=True)]
    several = CopyFilter(text_field=["title", "body"])
    assert kept(several, queries) == kept(CopyFilter(), queries.assign(text=joined))
    assert pt.inspect.transformer_inputs(several)[-1] == ["query", "title", "body"]


@quick
@given(SPACED_ROWS, st.sampled_from([0, 0.25, 0.5, 1]))
def test_overlap_filter(rows, share):
    expected = []
    for i, (query, text, _) in enumerate(rows):
        distinct = set(words(query))
        common = [word for word in distinct if word in words(text)]
        if len(common) <= share * len(distinct):
            expected.append(f"q{i}")
    assert kept(OverlapFilter(share), frame(rows)) == expected
    several = frame(rows).assign(title="").rename(columns={"text": "body"})
    assert kept(OverlapFilter(share, text_field=["title", "body"]), several) == expected


@pytest.mark.parametrize("share", [-0.1, 1.5, 50, None, float("nan"), "half"])
def test_overlap_filter_with_a_bad_share(share):
    with pytest.raises(ValueError, match="max_share must be"):
        OverlapFilter(share)


@pytest.mark.parametrize(
    "query, text, copied",
    [
        ("What is RADAR?", "know what is radar.", True),
        ("radar", "A radar.", True),
        ("radar", "two radars", False),
        ("the sea-ice", "The sea\nice", True),
        ("ice sea", "sea ice", False),
        ("co\u00adral REEFS", "\ufeffcoral reefs", True),
        ("die STRASSE", "die Straße", True),
        ("珊瑚白化的原因？", "本文讨论珊瑚白化的原因和后果。", True),
        ("珊瑚的原因", "本文讨论珊瑚白化的原因。", False),
        ("ท", "ที่", False),
        ("???", "what???", False),
        ("", "", False),
    ],
)
def test_copies(query, text, copied):
    body = pd.DataFrame({"query": [query], "body": [text]})
    assert len(CopyFilter(text_field="body")(body)) == (not copied)


@quick
@given(ROWS)
def test_duplicate_filter(rows):
    seen, expected = set(), []
    for i, (query, _, _) in enumerate(rows):
        folded = tuple(query.casefold().split())
        if folded not in seen:
            expected.append(f"q{i}")
        seen.add(folded)
    assert kept(DuplicateFilter(), frame(rows)) == expected


def test_duplicates_differ_only_in_case_and_white_space():
    queries = frame([(q, "", 0.0) for q in ("A b", "a  B ", "a b?", "ab", "a\tb")])
    assert kept(DuplicateFilter(), queries) == ["q0", "q2", "q3"]


@quick
@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 6))
def test_round_trip_filter(plain, k):
    """Query q finds d(q), d(q+1), ... mod 5; its source document is d(q mod 4)."""
    queries = frame([(f"word{i}" if p else "?!", "", 0.0) for i, p in enumerate(plain)])
    expected = [
        f"q{i}"
        for i, p in enumerate(plain)
        if p and i % 4 in [(i + step) % 5 for step in range(min(k, 5))]
    ]
    assert kept(RoundTripFilter(RANKINGS, k), queries) == expected
    stage = RoundTripFilter(RANKINGS, k)
    records = queries.to_dict("records")
    streamed = stage(records[:2]) + stage([]) + stage(records[2:])
    assert [record["qid"] for record in streamed] == expected
    assert (stage.seen, stage.dropped) == (len(plain), len(plain) - len(expected))


def test_round_trip_through_pisa(tmp_path):
    pisa = pytest.importorskip("pyterrier_pisa")
    docs = [{"docno": f"d{i}", "text": f"common words and unique{i}"} for i in range(30)]
    docs.append({"docno": "twin", "text": docs[3]["text"] + " unique3"})
    index = pisa.PisaIndex(str(tmp_path / "index"), text_field="text")
    index.index(docs)
    queries = frame(
        [('"unique0"?', "", 0.0), ("nothing#known", "", 0.0), ("what's unique2^9", "", 0.0)]
    )
    assert kept(RoundTripFilter(index.bm25(), 1), queries) == ["q0", "q2"]
    twin = queries[:1].assign(query="unique3", docno="d3")  # the other document scores higher
    assert kept(RoundTripFilter(index.bm25(), 1), twin) == []
    assert kept(RoundTripFilter(index.bm25(), 2), twin) == ["q0"]


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "3"])
def test_k_is_a_whole_number(k):
    with pytest.raises(
        ValueError, match=re.escape(f"k must be a whole number of at least 1, not {k!r}")
    ):
        ScoreFilter(k)
    with pytest.raises(ValueError, match="k must be"):
        RoundTripFilter(RANKINGS, k)


@pytest.mark.parametrize("bounds", [(-1,), (1.5,), (3, 2), (0, -1), (1, True), (2, "4")])
def test_invalid_limits_in_words(bounds):
    with pytest.raises(ValueError, match="_words must be a whole number"):
        LengthFilter(*bounds)


def test_a_retriever_that_returns_fewer_than_k_documents_gives_one_warning(recwarn):
    queries = frame([("a", "", 0.0), ("b", "", 0.0)])
    stage = RoundTripFilter(RANKINGS, 9)
    with pytest.warns(UserWarning, match="at most 5 documents for a query, fewer than k=9"):
        stage(queries)
    recwarn.clear()
    stage(queries)
    RoundTripFilter(RANKINGS, 5)(queries)
    assert not [w for w in recwarn if "documents for a query" in str(w.message)]


@quick
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 3))
def test_a_retriever_that_finds_no_source_document_gives_one_warning(found, batch):
    """Queries are counted over batches, until one source document is found."""
    rows = [(f"q{i}", f"query {i}", f"d{i}") for i in range(len(found))]
    queries = pd.DataFrame(rows, columns=["qid", "query", "docno"])
    docnos = [
        docno if there == 0 else f"other{i}"
        for i, ((_, _, docno), there) in enumerate(zip(rows, found, strict=True))
    ]
    results = queries[["qid"]].assign(docno=docnos, score=1.0)
    stage = RoundTripFilter(pt.Transformer.from_df(results), 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = queries.to_dict("records")
        for start in range(0, len(records), batch):
            stage(records[start : start + batch])
    first = found.index(0) if 0 in found else len(found)
    before = first // batch * batch if first < len(found) else len(found)
    shown = [str(w.message) for w in caught]
    assert len(shown) == (before >= 5)
    assert all(
        "found the source document of none of" in text and "'other" in text for text in shown
    )


def test_retriever_is_a_transformer():
    with pytest.raises(TypeError, match="retriever must be a PyTerrier transformer"):
        RoundTripFilter("bm25")


@each_filter
def test_missing_columns_are_named(make):
    stage = make()
    for column in stage._required_columns():
        queries = frame([("a b c", "d", 1.0)]).drop(columns=column)
        with pytest.raises(pt.validate.InputValidationError, match=f"'{column}'"):
            stage(queries)


@each_filter
def test_values_that_are_not_strings_are_named(make):
    stage = make()
    for column in set(stage._required_columns()) - {"score"}:
        queries = frame([("a b", "d", 1.0), ("c d", "d", 1.0)])
        queries[column] = pd.Series([queries[column].iloc[0], None], dtype=object).values
        with pytest.raises(ValueError, match=f"{column} must be a string"):
            stage(queries)


@each_filter
def test_empty_frame(make):
    stage = make()
    out = stage(frame([]))
    assert list(out.columns) == COLUMNS and len(out) == 0
    assert list(stage([])) == []
    assert (stage.seen, stage.dropped) == (0, 0)


class Collect(pt.Indexer):
    """An indexer that returns the records."""

    def index(self, records):
        return list(records)


@each_filter
def test_streams(make):
    """Filters of single rows give the same result as for a frame; the others raise an error."""
    stage = make()
    queries = frame([(f"w{i}" + " more" * (i % 4), f"w{i % 2}", float(i)) for i in range(9)])
    records = queries.to_dict("records")
    if isinstance(stage, ScoreFilter | DuplicateFilter | SemanticDuplicateFilter):
        with pytest.raises(ValueError, match=re.escape(f"write {stage!r}(queries.get_results())")):
            (stage >> Collect()).index(iter(records))
        assert (stage.seen, stage.dropped) == (0, 0)
        assert (LengthFilter(9) >> stage >> Collect()).index(iter(records)) == []
    else:
        streamed = (stage >> Collect()).index(iter(records), batch_size=2)
        assert streamed == make()(queries).to_dict("records")
        assert 0 < len(streamed) < 9


@each_filter
def test_repr_is_not_changed_by_counting(make):
    stage = make()
    before = repr(stage)
    stage(frame([("a b", "a b", 1.0)]))
    assert repr(stage) == before
    assert repr(pt.inspect.transformer_apply_attributes(stage)) == before


def test_reprs():
    assert repr(ScoreFilter(3)) == "ScoreFilter(3)"
    assert repr(LengthFilter()) == "LengthFilter()"
    assert repr(CopyFilter(text_field="body")) == "CopyFilter(text_field='body')"
    assert repr(DuplicateFilter()) == "DuplicateFilter()"


def test_the_first_mode_is_the_whole_frame_of_synthetic_queries():
    """PyTerrier takes it as the input of a pipeline; later stages need what one filter ignores."""
    text = ["qid", "query", "docno", "text"]
    for make in MAKERS:
        first, *others, least = pt.inspect.transformer_inputs(make())
        assert first == [*text, "score", "log_probs"]
        assert sorted(least) == sorted(make()._required_columns())
        assert all(set(least) < set(mode) < set(first) for mode in others)
    body = pt.inspect.transformer_inputs(CopyFilter(text_field="body"))
    assert body[-1] == ["query", "body"] and body[-2] == ["qid", "query", "docno", "body"]
    labelled = pt.inspect.transformer_inputs(FalseNegativeFilter())
    assert labelled == [[*text, "label", "score"], ["qid", "label", "score"]]


TEACHER = pt.apply.doc_score(lambda row: 1.0)
TEACHER.schematic = {"label": "Teacher", "help_url": None}
MINER = NegativeMiner(RANKINGS, texts=lambda: iter([]))


@pytest.mark.parametrize("make", [*MAKERS, lambda: LengthFilter(min_tokens=2)])
@pytest.mark.parametrize(
    "rest",
    [
        LengthFilter() >> CopyFilter() >> ScoreFilter(3) >> RoundTripFilter(RANKINGS),
        LengthFilter(min_tokens=1) >> DuplicateFilter(),
        MINER >> TEACHER >> FalseNegativeFilter(),
        TEACHER >> ScoreFilter(3) >> MINER,
    ],
    ids=["filters", "tokens", "training", "teacher"],
)
def test_no_stage_of_a_pipeline_is_drawn_as_broken(make, rest):
    def drawn(schematic):
        for stage in schematic["transformers"]:
            assert stage["input_columns"] and stage["output_columns"], stage["label"]
            assert "input_validation_error" not in stage

    pipeline = make() >> rest
    drawn(pt.schematic.transformer_schematic(pipeline))
    drawn(pt.schematic.transformer_schematic(FalseNegativeFilter() >> TEACHER >> MINER))
    assert "pts-input-validation-error" not in pt.schematic.draw(pipeline).split("</style>")[1]


def test_inspection():
    assert pt.inspect.transformer_outputs(CopyFilter(), COLUMNS) == COLUMNS
    attributes = pt.inspect.transformer_attributes(RoundTripFilter(RANKINGS, 2))
    found = [(a.name, a.value) for a in attributes]
    assert found == [("retriever", RANKINGS), ("k", 2), ("explain", False)]
    assert pt.inspect.subtransformers(RoundTripFilter(RANKINGS)) == {"retriever": RANKINGS}


(
    TestScoreFilter,
    TestLengthFilter,
    TestCopyFilter,
    TestDuplicateFilter,
    TestRoundTripFilter,
    TestOverlapFilter,
    TestSemanticDuplicateFilter,
) = (pt.testing.transformer_test_class(make) for make in MAKERS)
