"""retrieve() and clean(): against plain oracles, odd retrievers, and PISA."""

import random
import unicodedata

import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars import NegativeMiner, RoundTripFilter
from pyterrier_inpars._retrieval import (
    check_retriever,
    clean,
    fold,
    retrieve,
    shared_words,
    words_of,
)

quick = settings(max_examples=40, deadline=None)
WORDS = [
    a + b + c for a in ("bal", "cor", "dim") for b in ("da", "fu", "ki") for c in ("ne", "rop")
]


class Overlap(pt.Transformer):
    """A retriever that scores documents by words in common, and remembers what it was asked."""

    def __init__(self, docs, k=1000):
        self.docs = docs
        self.k = k
        self.asked = []
        self.cuts = []

    def fuse_rank_cutoff(self, k):
        self.cuts.append(k)
        fused = Overlap(self.docs, k)
        fused.asked = self.asked
        return fused

    def transform(self, inp):
        self.asked.append(inp.copy())
        rows = []
        for qid, query in zip(inp["qid"], inp["query"], strict=True):
            scores = {d: len(set(query.split()) & set(t.split())) for d, t in self.docs.items()}
            found = sorted((d for d in scores if scores[d]), key=lambda d: (-scores[d], d))
            rows += [(qid, query, d, float(scores[d])) for d in found[: self.k]]
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "score"])


def frame(*queries):
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(queries))], "query": list(queries)})


def found(retriever, queries, depth=1000, **kwargs):
    hits = {}
    for qid, result in retrieve(retriever, queries, depth, **kwargs):
        assert qid not in hits
        hits[qid] = list(result["docno"])
    return hits


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    pisa = pytest.importorskip("pyterrier_pisa")
    rng = random.Random(1)
    docs = [{"docno": f"d{i}", "text": " ".join(rng.choices(WORDS, k=6))} for i in range(200)]
    index = pisa.PisaIndex(str(tmp_path_factory.mktemp("index") / "pisa"), text_field="text")
    index.index(docs)
    return index.bm25()


def is_invisible(char):
    """Whether a character changes only how others look; a zero-width space ends a word."""
    is_format = unicodedata.category(char) == "Cf" and char not in "\u200b\u200c"
    return is_format or unicodedata.name(char, "").startswith("VARIATION SELECTOR-")


@quick
@given(st.text())
def test_clean_keeps_the_words_of_every_script(text):
    words, word = [], ""
    visible = "".join(char for char in text.lower() if not is_invisible(char))
    for char in unicodedata.normalize("NFC", visible) + " ":
        if unicodedata.category(char)[0] in ("L", "M", "N"):
            word += char
        elif word:
            words.append(word)
            word = ""
    assert clean(text) == " ".join(words)
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("What's a micro-wave?", "what s a micro wave"),
        (
            '#combine(text:field^2 "a phrase"~3 +must -not)',
            "combine text field 2 a phrase 3 must not",
        ),
        ("this AND that OR NOT x_y", "this and that or not x y"),
        ("हिन्दी में खोज", "हिन्दी में खोज"),
        ("cafe\u0301, naïve 日本語", "café naïve 日本語"),
        ("nul\x00 surrogate\ud800 \u200b\u00a0tab\t", "nul surrogate tab"),
        ("?!* \n…", ""),
        ("\ufeffmicro\u00adwave co\u200dral ree\u2060f", "microwave coral reef"),
        ("می\u200cخواهم zero\u200bwidth", "می خواهم zero width"),
        ("क\u094d\u200dष 葛\U000e0100城", "क\u094dष 葛城"),
        ("I ❤\ufe0f coral ☎\ufe0f", "i coral"),
        ("❤\ufe0f", ""),
    ],
)
def test_clean_examples(text, cleaned):
    assert clean(text) == cleaned


@quick
@given(st.text(st.characters(exclude_categories=["Cs"])))
@pytest.mark.parametrize("function", [clean, fold])
def test_unicode_forms_of_one_text_are_equal(function, text):
    text += "Ö \u1e9b\u0323 한"
    forms = {function(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
    assert forms == {function(text)}


def test_fold_keeps_punctuation():
    assert fold(" A\tB,  Straße ") == "a b, strasse"
    assert fold("\ufeffco\u00adral\u200breef ☎\ufe0f") == "coral reef ☎"


def test_words_are_compared_with_case_folded():
    assert (
        words_of("Die STRASSE, ΟΔΟΣ") == words_of("die straße οδος") == ["die", "strasse", "οδοσ"]
    )
    assert shared_words("STRASSE und Meer", "die Straße") == 1 / 3


def test_retriever_sees_each_query_once_and_clean():
    retriever = Overlap({"d1": "what s up", "d2": "up there"})
    queries = frame("What's up?", "???", "what's  UP", "there").assign(
        docno="d1", text="up", score=1.0
    )
    hits = found(retriever, queries)
    assert hits == {"q0": ["d1", "d2"], "q2": ["d1", "d2"], "q3": ["d2"]}
    (asked,) = retriever.asked
    assert asked.to_dict("list") == {"qid": ["q0", "q3"], "query": ["what s up", "there"]}


def test_batches_are_bounded_and_make_no_difference():
    rng = random.Random(2)
    docs = {f"d{i}": " ".join(rng.choices(WORDS, k=4)) for i in range(50)}
    queries = frame(*(" ".join(rng.choices(WORDS, k=2)) for _ in range(23)))
    small, large = Overlap(docs), Overlap(docs)
    assert found(small, queries, batch_size=4) == found(large, queries)
    assert len(large.asked) == 1
    assert max(map(len, small.asked)) == 4 and len(small.asked) > 4


def test_cutoff_is_fused_where_it_can_be():
    docs = {f"d{i}": "same words" for i in range(9)}
    retriever = Overlap(docs)
    assert found(retriever, frame("same"), 3) == {"q0": ["d0", "d1", "d2"]}
    rewritten = pt.apply.query(lambda row: row["query"] + " words") >> retriever
    assert found(rewritten, frame("same"), 2) == {"q0": ["d0", "d1"]}
    assert retriever.cuts == [3, 2]
    reversed_ = retriever >> pt.apply.doc_score(lambda row: -int(row["docno"][1:]))
    assert found(reversed_, frame("same"), 4) == {"q0": ["d0", "d1", "d2", "d3"]}
    assert retriever.cuts == [3, 2]


TABLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(-3, 3)),
    max_size=40,
    unique_by=lambda row: (row[0], row[2]),  # no ties, so that there is one right order
)


@quick
@given(TABLES, st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_odd_rows_in_any_order(rows, depth, batch_size, ranked):
    """Duplicated documents, rows in any order, queries without results, with and without rank."""
    table = pd.DataFrame(
        {
            "qid": [f"q{q}" for q, _, _ in rows],
            "docno": [f"d{d}" for _, d, _ in rows],
            "rank" if ranked else "score": [float(s) for _, _, s in rows],
        }
    )
    expected = {}
    for q, d, _ in sorted(rows, key=lambda row: row[2] if ranked else -row[2]):
        docnos = expected.setdefault(f"q{q}", [])
        if f"d{d}" not in docnos:
            docnos.append(f"d{d}")
    expected = {qid: docnos[:depth] for qid, docnos in expected.items()}
    queries = frame("a", "b", "c", "d", "e")
    assert found(pt.Transformer.from_df(table), queries, depth, batch_size=batch_size) == expected


def test_wanted_columns_follow_their_document():
    table = pd.DataFrame(
        {
            "qid": "q0",
            "docno": ["d1", "d2", "d1"],
            "score": [1.0, 2.0, 3.0],
            "text": ["x", "y", "z"],
        }
    )
    ((qid, hits),) = retrieve(
        pt.Transformer.from_df(table), frame("a"), 9, columns=["text", "title"]
    )
    assert qid == "q0" and list(hits) == ["docno", "text"]
    assert list(hits["docno"]) == ["d1", "d2"] and list(hits["text"]) == ["z", "y"]


def test_nothing_found():
    nothing = pt.Transformer.from_df(pd.DataFrame(columns=["qid", "docno", "score"]))
    assert found(nothing, frame("a", "b")) == {}
    assert found(pt.Transformer.from_df(pd.DataFrame(), uniform=True), frame("a")) == {}
    assert found(nothing, frame()) == {}


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"docno": ["d1"], "score": [1.0]}, "no qid, only docno, score"),
        ({"qid": ["q0"], "score": [1.0]}, "no docno, only qid, score"),
        ({"qid": ["q0"], "docno": ["d1"]}, "qid, docno and rank or score are required"),
        ({"qid": ["q9"], "docno": ["d1"], "score": [1.0]}, "unknown qid: 'q9'"),
        ({"qid": [0], "docno": ["d1"], "score": [1.0]}, "unknown qid: .*0"),
        (
            {"qid": ["q0"], "docno": [7], "score": [1.0]},
            "docnos of the retriever .* not integer",
        ),
        (
            {"qid": ["q0"], "docno": [None], "score": [1.0]},
            "docnos of the retriever must be",
        ),
    ],
)
def test_results_that_cannot_be_used(columns, message):
    retriever = pt.Transformer.from_df(pd.DataFrame(columns), uniform=True)
    with pytest.raises(ValueError, match=message):
        found(retriever, frame("a"))


def test_queries_that_cannot_be_sent():
    retriever = Overlap({})
    with pytest.raises(ValueError, match="duplicate qid 'q0'"):
        found(retriever, frame("a", "b").assign(qid="q0"))
    with pytest.raises(ValueError, match="query must be a string.*q1"):
        found(retriever, frame("a", None))
    with pytest.raises(TypeError, match="retriever must be a PyTerrier transformer, not 'bm25'"):
        check_retriever("bm25")


@pytest.mark.parametrize(
    "query",
    [
        '"{0} {1}"',
        "{0}* +{1}",
        "{0}^2 -{1}",
        "#combine({0} {1})",
        "{0}:{1}",
        "{0}\x00{1}",
        "{0}/{1}~2 AND",
        "\u201c{0}\u201d \u2013 {1}\u2026?",
    ],
)
def test_operators_mean_nothing_to_pisa(bm25, query):
    plain = frame(" ".join(WORDS[:2]))
    hits = found(bm25, frame(query.format(*WORDS)), 20)
    assert hits == found(bm25, plain, 20)
    assert hits["q0"] == list((bm25 % 20).compile()(plain)["docno"])
    assert len(hits["q0"]) == 20


def test_pisa_beyond_what_it_retrieves(bm25):
    queries = frame(WORDS[0], "unknownword", "")
    seven = (bm25 % 7).compile()
    assert found(seven, queries, 1000) == {"q0": list(seven(queries)["docno"])}
    assert found(bm25, queries, 5000)["q0"] == list(bm25(queries)["docno"])


class TestIdsWithWhiteSpace:
    """PISA keeps the first word of an id, so that no query would find its document."""

    @pytest.fixture
    def queries(self):
        rows = [(f"q{i}", WORDS[i], f"doc {i}", WORDS[i]) for i in range(5)]
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])

    @pytest.mark.parametrize("docno", ["doc {}", "doc\t{}", "doc{} "])
    def test_an_engine_that_cuts_them_is_an_error(self, queries, tmp_path, docno):
        pisa = pytest.importorskip("pyterrier_pisa")
        queries["docno"] = [docno.format(i) for i in range(5)]
        docno = queries["docno"][0]
        index = pisa.PisaIndex(str(tmp_path / "pisa"), text_field="text")
        index.index(queries[["docno", "text"]].to_dict("records"))
        message = f"returns the docno '{docno.split()[0]}', but the document is .* as PISA does"
        bm25, corpus = index.bm25(), queries[["docno", "text"]].to_dict("records")
        for stage in (RoundTripFilter(bm25), NegativeMiner(bm25, texts=lambda: iter(corpus))):
            with pytest.raises(ValueError, match=message):
                stage(queries)

    def test_an_engine_that_keeps_them_is_none(self, queries):
        docs = dict(zip(queries["docno"], queries["text"], strict=True)) | {"doc": WORDS[0]}
        assert len(RoundTripFilter(Overlap(docs), k=2)(queries)) == 5
