"""Truncation of documents to a number of tokens."""

import tiny_llm
from hypothesis import example, given
from hypothesis import strategies as st

from pyterrier_inpars.prompts._truncation import truncate

TOKENIZER = tiny_llm.tokenizer()


@given(
    st.lists(st.sampled_from([*tiny_llm.WORDS, "<eos>", "漢字", "{x}", "\n"]), max_size=40),
    st.integers(1, 20),
)
@example(["the", "<eos>", "漢字"], 12)  # a cut within the last character
def test_truncation_keeps_a_beginning_of_the_text(words, limit):
    document = " ".join(" ".join(words).split())
    tokenizer = TOKENIZER
    (cut,) = truncate([document], tokenizer, limit)
    spans = tokenizer(
        document, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )["offset_mapping"]
    if len(spans) <= limit:
        assert cut == document
    else:  # all characters before the first one of a dropped token
        assert cut.rstrip() == document[: min(start for start, _ in spans[limit:])].rstrip()
        assert cut != document


def test_words_are_counted_without_a_tokenizer():
    assert truncate(["a b  c\nd", "e"], None, 3) == ["a b c", "e"]
