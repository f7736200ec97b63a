"""QueryGenerator counts the documents that its model does not see to the end."""

import re
import warnings

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import ChatPrompt, QueryGenerator, StaticPrompt, SyntheticQueries
from pyterrier_inpars.backends.base import Completion

MESSAGE = r"are longer than max_doc_tokens=256, so .* split them into passages"


class Words:
    """A backend without a tokenizer, whose tokens are words."""

    tokenizer = None

    def __init__(self, context=None, chat=False):
        self.context, self.chat = context, chat

    def describe(self):
        return {"model": "words"}

    def complete(self, prompts, num_samples=1, **options):
        completion = Completion("a query of its own", [-1.0], "stop")
        return [completion for _ in prompts for _ in range(num_samples)]


def documents(lengths):
    texts = [" ".join(f"w{i}" for i in range(length)) for length in lengths]
    return pd.DataFrame({"docno": [f"d{i}" for i in range(len(texts))], "text": texts})


PROMPTS = {
    "text": StaticPrompt("Text: {document}\nQuery: {query}"),
    "types": {name: StaticPrompt(name + ": {document}\nQuery: {query}") for name in ("a", "b")},
}


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=20),
    st.integers(1, 10),
    st.sampled_from(["text", "types"]),
    st.sampled_from(["all", "one"]),
)
def test_counts(lengths, limit, prompt, types):
    """Each document once, whatever the number of its prompts."""
    stage = QueryGenerator(Words(), prompt=PROMPTS[prompt], types=types, max_doc_tokens=limit)
    stage(documents(lengths))
    assert stage.truncated == sum(length > limit for length in lengths)


def test_white_space_is_not_cut():
    stage = QueryGenerator(Words(), prompt=PROMPTS["text"], max_doc_tokens=3)
    stage(pd.DataFrame({"docno": ["d"], "text": [" one \n two\tthree "]}))
    assert stage.truncated == 0


def test_the_context_cuts_too():
    stage = QueryGenerator(
        Words(context=20), prompt=PROMPTS["text"], max_doc_tokens=100, max_new_tokens=8
    )
    stage(documents([5, 40, 41]))
    assert stage.truncated == 2


@pytest.mark.parametrize(
    ("lengths", "limit", "warned"),
    [
        ([30] * 5 + [3] * 5, 256, ["5 of 10 documents (50%) were cut further, so that prompt"]),
        (
            [300] * 5 + [3] * 5,
            256,
            [r"5 of 10 .* longer than max_doc_tokens=256", "5 of 10 .* cut"],
        ),
        ([30] * 5 + [3] * 5, 9, []),
        ([30] * 4, 256, []),
    ],
    ids=["context", "both", "limit", "few"],
)
def test_what_cuts_is_named(lengths, limit, warned):
    """The default limit is not blamed for what the context does."""
    backend = Words(context=24)
    stage = QueryGenerator(backend, prompt=PROMPTS["text"], max_doc_tokens=limit, max_new_tokens=8)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        stage(documents(lengths))
    assert len(found) == len(warned)
    for warning, start in zip(found, warned, strict=True):
        assert re.match(start.replace("(50%)", r"\(50%\)"), str(warning.message))
    if warned:
        end = "fit context=24, of which max_new_tokens=8 are reserved for the query: raise the"
        assert end in str(found[-1].message)
    assert stage.truncated == sum(length > 8 for length in lengths)


def test_a_prompt_that_does_not_fit_names_both_numbers():
    stage = QueryGenerator(Words(context=20), prompt=PROMPTS["text"], max_new_tokens=19)
    message = r"1 tokens too many for context=20, of which max_new_tokens=19 .*\(raise the former"
    with pytest.raises(ValueError, match=message):
        stage(documents([3]))


def test_chat_prompts():
    stage = QueryGenerator(
        Words(chat=True), prompt=ChatPrompt("Text: {document}"), max_doc_tokens=5
    )
    stage(documents([5, 6, 7]))
    assert stage.truncated == 2


def test_one_warning_about_the_default(tmp_path):
    corpus = documents([300] * 30 + [10] * 70)
    stage = QueryGenerator(Words(), prompt=PROMPTS["text"])
    with pytest.warns(UserWarning, match=r"\d+ of \d+ documents \(30%\) " + MESSAGE) as found:
        pipeline = stage >> SyntheticQueries(tmp_path / "queries")
        pipeline.index(
            corpus.to_dict("records")
            + corpus.assign(docno=corpus["docno"] + "b").to_dict("records")
        )
    assert len(found) == 1 and stage.truncated == 60


@pytest.mark.parametrize(
    ("lengths", "options"),
    [([300] * 10, {"max_doc_tokens": 255}), ([300] * 4, {}), ([300] * 5 + [3] * 30, {})],
    ids=["a limit of one's own", "few", "a small share"],
)
def test_no_warning(lengths, options):
    stage = QueryGenerator(Words(), prompt=PROMPTS["text"], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage(documents(lengths))
    assert stage.truncated == lengths.count(300)


def test_what_is_stored_is_the_same(tmp_path):
    """The count is no part of the manifest or of the queries."""
    corpus = documents([300, 3]).to_dict("records")
    stage = QueryGenerator(Words(), prompt=PROMPTS["text"])
    queries = SyntheticQueries(tmp_path / "queries")
    (stage >> queries).index(corpus)
    stored = [path.read_text(errors="replace") for path in (tmp_path / "queries").iterdir()]
    assert not any("truncated" in text for text in stored)
    assert "truncated" not in stage.settings()
