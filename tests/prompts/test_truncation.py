"""Truncation of documents to a number of tokens."""

import base64

import pytest
import tiny_llm
from hypothesis import example, given
from hypothesis import strategies as st

from pyterrier_inpars.backends._tokens import _WIDE_CHARACTER, count_tokens, count_units, units
from pyterrier_inpars.prompts import _truncation
from pyterrier_inpars.prompts._truncation import truncate, truncate_to_fit

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


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("汉字检索模型" * 5000, 256),
        ("検索モデルは、文書を順位付けします。" * 900, 256),
        ("การค้นคืนสารสนเทศ" * 900, 256),
        ("정보검색모델" * 900, 256),
        (base64.b64encode(bytes(30_000)).decode(), 6 * 256),
    ],
)
def test_scripts_without_spaces_and_long_strings_are_truncated(text, longest):
    assert truncate([text], None, 256) == [text[:longest]]
    (cut,) = truncate_to_fit([text], lambda _, part: f"Passage: {part} Query:", None, 202, "200")
    assert text.startswith(cut)
    assert 200 <= len(cut) <= 6 * 200


@given(st.text(st.characters(codec="latin-1"), max_size=200), st.integers(1, 20))
def test_words_of_usual_length_are_counted_as_before(text, limit):
    words = [word for word in text.split() if len(word) <= 40]
    assert truncate([" ".join(words)], None, limit) == [" ".join(words[:limit])]


def test_tokens_are_estimated_by_script():
    assert count_tokens(None, "a b c d e") == 3
    assert count_tokens(None, "汉字 abcd efgh") == 2 + 3
    assert count_tokens(None, "") == 0


@given(
    st.text(
        st.one_of(
            st.sampled_from(["a", " ", "\n", "\x1c", "\x85", "\u3000", "é", "漢", "ก", "한", "。"]),
            st.characters(),
        ),
        max_size=120,
    ),
    st.integers(0, 90),
    st.integers(1, 20),
)
@example("a b", 40, 3)
@example("a b", 41, 3)
def test_the_fast_counts_are_those_of_the_units(text, length, limit):
    text = f"{text[:60]}{'x' * length}{text[60:]}"
    found = list(units(text))
    assert count_units(text) == len(found)
    document = " ".join(text.split())
    ends = [unit.end() for unit in units(document)]
    cut = ends[limit - 1] if len(ends) > limit else len(document)
    assert truncate([text], None, limit) == [document[:cut]]
    wide = len(_WIDE_CHARACTER.findall(text))
    assert count_tokens(None, text) == wide + -(-(len(text) - wide) // 4)


def test_a_long_document_is_cut_without_counting_all_of_it(monkeypatch):
    """A server's answers wait while its prompts are built."""
    counted = []
    monkeypatch.setattr(
        _truncation, "count_units", lambda text: counted.append(text) or count_units(text)
    )
    long, short = " ".join(["word"] * 300_000), " ".join(["word"] * 7)
    assert truncate([long, short], None, 8) == [" ".join(["word"] * 8), short]
    assert counted == [short]
