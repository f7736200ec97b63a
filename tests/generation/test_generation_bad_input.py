"""Bad input of the generator: documents, options, models."""

import re

import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_llm
from bad_input import (
    BROKEN,
    HALF,
    MISSING,
    NAN,
    NO_FRACTION,
    NO_STRING,
    NOT_ONE_OR_MORE,
    NOT_ZERO_OR_MORE,
    PLAIN,
    PROMPT,
    TWO,
    Error,
    broken_models,
    frame,
    gives,
    rows,
)

from pyterrier_inpars import QueryGenerator, SyntheticQueries
from pyterrier_inpars.backends.base import Completion

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture(scope="module")
def generator(llm):
    return QueryGenerator(
        llm,
        prompt=PROMPT,
        max_doc_tokens=40,
        max_new_tokens=9,
        dtype="float32",
        device="cpu",
        keep_prompt=True,
    )


TEXTS = rows(
    # a text, and its part in the prompt: None if there is no query
    (None, Error(f"text {NO_STRING}.*docno 'd2': convert it with str")),
    (NAN, Error(f"text {NO_STRING} nan .float.")),
    (pd.NA, Error(f"text {NO_STRING}.*docno 'd2'")),
    (pd.NaT, Error(f"text {NO_STRING}.*docno 'd2'")),
    (7, Error(f"text {NO_STRING} 7 .int. at docno 'd2'")),
    (1.5, Error(f"text {NO_STRING} 1.5 .float.")),
    (True, Error(f"text {NO_STRING} True .bool.")),
    (b"noise", Error(f"text {NO_STRING} b'noise' .bytes.")),
    (["noise"], Error(rf"text {NO_STRING} \['noise'\] .list.")),
    ({"en": "noise"}, Error(f"text {NO_STRING} {{'en': 'noise'}} .dict.")),
    (HALF, Error(r"text contains the lone surrogate '\\ud800' at docno 'd2': repair it")),
    ("\udfff", Error(r"text contains the lone surrogate '\\udfff'")),
    ("", None),
    (" \t\r\n", None),
    ("\u2028\x85\u3000\x1c", None),
    ("the\x00noise\x07 \x1b[31m", "the\x00noise\x07 \x1b[31m"),
    ("😀 👩‍👩‍👧 e\u0301", "😀 👩‍👩‍👧 e\u0301"),
    ("the\nnoise\r\nof\u2028the\x0bgain", "the noise of the gain"),
    ("{document} {query} {} {0} {x!r} of the gain",) * 2,
    ("a\nQuery: b\nDocument: c", "a Query: b Document: c"),
    ("<eos> <bos> <pad>", "<eos> <bos> <pad>"),
    ("\u202eעברית \u202dعربي", "\u202eעברית \u202dعربي"),
    (np.str_("the gain"), "the gain"),
    ("a" * 40, "a" * 40),
    pytest.param(("a" + " " * 9) * 1_000_000, " ".join("a" * 40), id="10 MB"),
    pytest.param("a" * 1_000_000, "a" * 40, id="a word of 1 MB"),
    pytest.param(b"a" * 10_000_000, Error(r"b'aaa[^']{,200} .bytes. at"), id="10 MB of bytes"),
)


@pytest.mark.parametrize("text, shown", TEXTS)
def test_text_of_a_document(generator, text, shown):
    documents = frame(PLAIN, {"docno": "d2", "text": text})
    both = [PLAIN["text"]] + [shown] * (shown is not None)
    expected = shown if isinstance(shown, Error) else list(map(PROMPT.build, both))
    gives(lambda: list(generator(documents)["prompt_text"]), expected)


@pytest.mark.parametrize("text, shown", TEXTS[:-3])
def test_text_of_a_document_in_a_stream(generator, tmp_path, text, shown):
    """Texts are stored unchanged, and queries stored before an error are kept."""
    queries = SyntheticQueries(tmp_path / "queries", shard_size=1)
    documents = [{**PLAIN, "docno": f"p{i}"} for i in range(100)] + [{"docno": "d2", "text": text}]
    if isinstance(shown, Error):
        gives(lambda: (generator >> queries).index(iter(documents)), shown)
        (generator >> queries).index(iter(documents[:100]))
        assert len(queries) == 100
    else:
        stored = (generator >> queries).index(iter(documents)).get_results()
        assert list(stored["text"][100:]) == [text] * (shown is not None)


@pytest.mark.parametrize(
    "docno, qid",
    rows(
        # a docno, and the qid of its query
        (None, Error(f"docno {NO_STRING}.*at row 1: convert it")),
        (NAN, Error(f"docno {NO_STRING} nan")),
        (7, Error(f"docno {NO_STRING} 7 .int.")),
        (7.0, Error(f"docno {NO_STRING} 7.0 .float.")),
        (True, Error(f"docno {NO_STRING} True")),
        (b"d", Error(f"docno {NO_STRING} b'd'")),
        (("d", 2), Error(rf"docno {NO_STRING} \('d', 2\) .tuple.")),
        ("\udc80", Error(r"docno contains the lone surrogate '\\udc80' at row 1")),
        ("007", "007-1"),
        ("7.0", "7.0-1"),
        ("1e5", "1e5-1"),
        ("-0", "-0-1"),
        ("nan", "nan-1"),
        ("None", "None-1"),
        ("", "-1"),
        (" a b ", " a b -1"),
        ("a\tb\n", "a\tb\n-1"),
        ("{document}", "{document}-1"),
        ("doc/1?x=y&z#é😀", "doc/1?x=y&z#é😀-1"),
        ("d1-1", "d1-1-1"),
    ),
)
def test_docno_of_a_document(generator, docno, qid):
    documents = frame(PLAIN, {"docno": docno, "text": "the gain"})
    gives(
        lambda: generator(documents)["qid"].to_list(),
        qid if isinstance(qid, Error) else ["d1-1", qid],
    )


COLUMNS = ["qid", "query", "docno", "text", "score", "log_probs", "finish_reason", "prompt_text"]


@pytest.mark.parametrize(
    "documents, columns",
    [
        pytest.param(
            pd.DataFrame(), Error("missing_columns=.'docno', 'text'.", MISSING), id="empty"
        ),
        pytest.param(TWO[["text"]], Error("missing_columns=.'docno'.", MISSING), id="no docno"),
        pytest.param(TWO[["docno"]], Error("missing_columns=.'text'.", MISSING), id="no text"),
        pytest.param(
            TWO.rename(columns=str.upper), Error("missing_columns=.'docno'", MISSING), id="upper"
        ),
        pytest.param(
            TWO.set_axis([("docno", 1), ("text", 2)], axis=1),
            Error("missing_columns=.'docno'", MISSING),
            id="columns that are tuples",
        ),
        pytest.param(
            pd.concat([TWO, TWO[["text"]]], axis=1),
            Error("two columns are called 'text': rename or drop one"),
            id="text twice",
        ),
        pytest.param(
            TWO.assign(a=1, b=2).set_axis(["docno", "text", "a", "a"], axis=1),
            Error("two columns are called 'a'"),
            id="another column twice",
        ),
        pytest.param(TWO.assign(docno="d1"), Error("duplicate docno 'd1'"), id="docno twice"),
        pytest.param(TWO.iloc[:0], COLUMNS, id="no rows"),
        pytest.param(TWO.set_axis([3, 3]), COLUMNS, id="index doubled"),
        pytest.param(TWO.set_index(["docno", "text"], drop=False), COLUMNS, id="index of columns"),
        pytest.param(TWO.astype("category"), COLUMNS, id="categories"),
        pytest.param(TWO.astype("string"), COLUMNS, id="string dtype"),
        pytest.param(TWO.astype(object), COLUMNS, id="object dtype"),
        pytest.param(TWO.assign(**{"": 0}), [*COLUMNS[:4], "", *COLUMNS[4:]], id="nameless"),
        pytest.param(
            TWO.set_axis(["docno", "text"], axis=1).assign(x=0).rename(columns={"x": 7}),
            [*COLUMNS[:4], 7, *COLUMNS[4:]],
            id="a number for a column",
        ),
        pytest.param(
            TWO.assign(qid="old", query="old", score=9, log_probs=8), COLUMNS, id="results' columns"
        ),
    ],
)
def test_frames_of_documents(generator, documents, columns):
    gives(lambda: list(generator(documents).columns), columns)
    if not isinstance(columns, Error) and len(documents):
        written = generator(documents)
        assert written[["qid", "query"]].equals(generator(TWO)[["qid", "query"]])


SAME = "duplicate docno 'd1': the documents contain it more than once"


@pytest.mark.parametrize(
    "corpus, stored",
    [
        pytest.param([], [], id="empty"),
        pytest.param([PLAIN], ["d1-1"], id="one"),
        pytest.param([{"text": "a"}], Error("missing_columns=.'docno'", MISSING), id="no docno"),
        pytest.param([{"docno": "a"}], Error("missing_columns=.'text'", MISSING), id="no text"),
        pytest.param([{}], Error("missing_columns", MISSING), id="empty documents"),
        pytest.param(
            [PLAIN, {"docno": "d2"}], Error(f"text {NO_STRING} nan.*'d2'"), id="one without text"
        ),
        pytest.param(
            [PLAIN, {"text": "a"}], Error(f"docno {NO_STRING} nan.*row 1"), id="one without docno"
        ),
        pytest.param(["a", "b"], Error("missing_columns", MISSING), id="texts alone"),
        pytest.param([PLAIN, PLAIN], Error(SAME), id="same docno and text"),
        pytest.param([PLAIN, {**PLAIN, "text": "the gain"}], Error(SAME), id="same docno"),
        pytest.param([PLAIN, {**PLAIN, "docno": "d2"}], ["d1-1", "d2-1"], id="same text"),
        pytest.param([{**PLAIN, "text": " "}] * 2, [], id="same docno, no text"),
    ],
)
def test_corpora(generator, tmp_path, corpus, stored):
    queries = SyntheticQueries(tmp_path / "queries")
    gives(lambda: list((generator >> queries).index(iter(corpus)).get_topics()["qid"]), stored)
    if isinstance(stored, list):
        assert list(queries.get_results().columns[:4]) == ["qid", "query", "docno", "text"]


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda k: QueryGenerator("m", num_queries=k, sampling={"temperature": 1.0}),
        lambda k: QueryGenerator("m", max_doc_tokens=k),
        lambda k: QueryGenerator("m", max_new_tokens=k),
    ],
)
def test_numbers_below_one_are_refused(make, value):
    gives(
        lambda: make(value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", NAN, []])
@pytest.mark.parametrize("name", ["context", "batch_size"])
def test_limits_below_one_are_refused(name, value):
    error = Error(f"{name} must be a whole number of at least 1, not")
    gives(lambda: QueryGenerator("m", **{name: value}), error)
    assert QueryGenerator("m", **{name: None})


@pytest.mark.parametrize("value", NOT_ZERO_OR_MORE)
def test_negative_seeds_are_refused(value):
    for make in (lambda: QueryGenerator("m", sampling={"seed": value}),):
        gives(make, Error("must be a whole number of at least 0, not"))


@pytest.mark.parametrize("value", NO_FRACTION)
def test_values_that_are_not_numbers_are_refused(value):
    gives(
        lambda: QueryGenerator("m", sampling={"temperature": value}),
        Error("temperature must be a number, not"),
    )
    gives(
        lambda: QueryGenerator("m", sampling={"top_p": value}), Error("top_p must be a number, not")
    )


@pytest.mark.parametrize(
    "call, error",
    [
        (
            lambda: QueryGenerator("m", prompt="{document}"),
            Error("there is no prompt '{document}'"),
        ),
        (
            lambda: QueryGenerator("m", prompt=None),
            Error("or the name of a prompt, not None", TypeError),
        ),
        (lambda: QueryGenerator("m", prompt=7), Error("or the name of a prompt, not 7", TypeError)),
        (
            lambda: QueryGenerator("m", prompt=b"x"),
            Error("or the name of a prompt, not b'x'", TypeError),
        ),
        (lambda: QueryGenerator(None), Error("a path, or a backend .*not None", TypeError)),
    ],
)
def test_other_objects_than_prompts_and_models_are_refused(call, error):
    gives(call, error)


@pytest.fixture(scope="module")
def models(tmp_path_factory, llm):
    return broken_models(tmp_path_factory.mktemp("models"), llm)


@pytest.mark.parametrize("name", [*BROKEN, "no tokenizer", "garbage.gguf", "nowhere.gguf", "T5"])
def test_models_that_cannot_be_loaded_are_refused(models, name):
    error = Error("cannot load a causal language model from .*give a name on the Hugging Face hub")
    if name == "T5":
        error = Error("cannot load a causal .*, which is a t5, an encoder-decoder: give another")
    gives(lambda: QueryGenerator(models[name], prompt="zero-shot")(TWO), error)


def test_a_tokenizer_without_newline_or_chat_template(tmp_path, generator):
    """Such a tokenizer has words only: each query ends at the token limit."""
    from transformers import AutoModelForCausalLM, GPT2Config

    words = tiny.bert_tokenizer()
    words.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=2, n_positions=64,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert words.chat_template is None
    written = QueryGenerator(
        str(tmp_path), prompt=PROMPT, max_new_tokens=4, dtype="float32", device="cpu"
    )(TWO)
    assert list(written["finish_reason"]) == ["length"] * len(written)
    assert all(len(log_probs) == 4 for log_probs in written["log_probs"])


class Answers:
    """A backend with given completions."""

    tokenizer = context = None
    chat = True

    def __init__(self, *completions):
        self.completions = completions

    def complete(self, prompts, **options):
        return list(self.completions)

    def describe(self):
        return {"model": "answers"}


def test_a_wrong_number_of_completions():
    for number in (0, 1, 3):
        backend = Answers(*[Completion("what is noise", None, "stop")] * number)
        with pytest.raises(ValueError, match=f"returned {number} completions for 2 prompts"):
            QueryGenerator(backend)(TWO)


def test_scores_of_results_are_not_those_of_queries():
    backend = Answers(*[Completion(f"what is {word}", None, "stop") for word in ("noise", "gain")])
    results = TWO.assign(score=[9.0, 8.0], log_probs=[[-1.0], [-2.0]], rank=[0, 1])
    assert not {"score", "log_probs"} & set(QueryGenerator(backend)(results))


def test_lone_surrogates_in_an_answer(tmp_path):
    backend = Answers(Completion('\ud83d {"query": "a \\ud83d noise"}', None, "stop"))
    generator = QueryGenerator(backend, extract={"json": "query"}, keep_answer=True)
    queries = (generator >> SyntheticQueries(tmp_path / "queries")).index([PLAIN])
    row = queries.get_results().iloc[0]
    assert row["query"] == "a   noise" and row["answer"] == '? {"query": "a \\ud83d noise"}'


@pytest.mark.parametrize("prices", [1.0, (1.0,), (1, 2, 3), (1, -1), (1, NAN), "12", {}])
def test_prices(prices):
    generator = QueryGenerator(Answers(), prompt=PROMPT)
    gives(lambda: generator.estimate([PLAIN], prices), Error("prices"))


def test_an_estimate_of_a_frame():
    generator = QueryGenerator(Answers(), prompt=PROMPT)
    assert generator.estimate(TWO) == generator.estimate(TWO.to_dict("records"))
