"""Words of texts in scripts with and without spaces."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars._retrieval import shared_words, words_of
from pyterrier_inpars._words import (
    count_words,
    first_words,
    split_words,
    word_pairs,
    words_and_pairs,
)

HAN, KANA, THAI = "珊瑚白化原因海水变暖", "さんごのはっか", "ปะการังฟอกขาว"
UNSPACED = st.text(st.sampled_from(HAN + KANA + THAI + " 、。?"), max_size=30)
SPACED = st.text(st.sampled_from("abcéßñд의산호ا \t\n.,?-'’“—"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(SPACED, st.integers(1, 4))
def test_words_of_scripts_with_spaces_are_those_between_spaces(text, number):
    assert split_words(text) == word_pairs(text) == text.split()
    assert count_words(text) == len(text.split())
    assert first_words(text, number) == " ".join(text.split()[:number])


@settings(max_examples=200, deadline=None)
@given(UNSPACED, SPACED)
def test_each_letter_of_a_script_without_spaces_is_a_word(text, spaced):
    text = f"、{text}"
    letters = [char for char in text if char.isalnum()]
    assert count_words(text) == len(letters)
    others = [word for word in spaced.split() if any(map(str.isalnum, word))]
    assert count_words(f"{text} {spaced}") == len(letters) + len(others)
    kept = [char for word in split_words(text) for char in word if char.isalnum()]
    assert kept == letters
    assert all(unicodedata.category(word[0])[0] != "M" for word in split_words(text))


@settings(max_examples=200, deadline=None)
@given(UNSPACED, UNSPACED, UNSPACED)
def test_a_copied_part_is_shared_wholly(before, query, after):
    """Whatever stands around it, if a combining mark does not begin it or follow it."""
    whole = f"{before}。{query}。{after}"
    assert shared_words(query, whole) == (1.0 if words_of(query) else 0.0)


@settings(max_examples=200, deadline=None)
@given(UNSPACED, SPACED)
def test_words_and_pairs_are_the_two_together(text, spaced):
    text = f"{text} {spaced}{text}"
    assert words_and_pairs(text) == {*split_words(text), *word_pairs(text)}
    with_marks = "か\u3099" + text  # a letter and a combining mark
    assert words_and_pairs(with_marks) == {*split_words(with_marks), *word_pairs(with_marks)}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(HAN)), st.integers(0, len(HAN)))
def test_a_part_of_a_sentence_is_shared_wholly(start, end):
    query = HAN[start:end]
    assert shared_words(query, f"关于{HAN}的文章") == (1.0 if query else 0.0)


@pytest.mark.parametrize(
    ("text", "words", "pairs"),
    [
        ("珊瑚白化", ["珊", "瑚", "白", "化"], ["珊瑚", "瑚白", "白化"]),
        ("COVID-19的原因？", ["COVID-19", "的", "原", "因"], ["COVID-19", "的原", "原因"]),
        ("猫 and 犬", ["猫", "and", "犬"], ["猫", "and", "犬"]),
        ("猫 白化", ["猫", "白", "化"], ["猫", "白化"]),
        ("ที่ดี", ["ที่", "ดี"], ["ที่ดี"]),
        ("산호 백화의 원인", ["산호", "백화의", "원인"], ["산호", "백화의", "원인"]),
        ("、。", [], []),
        ("", [], []),
    ],
)
def test_words_and_pairs(text, words, pairs):
    assert split_words(text) == words and word_pairs(text) == pairs


def test_sentences_of_the_same_letters_are_not_alike():
    """Nearly all Thai texts have the same letters, in other places."""
    assert shared_words("ปะการัง", "การปะทะ") < 1
    assert shared_words("瑚珊", HAN) == 0.0
    assert shared_words("瑚", HAN) == 1.0


def test_beginnings():
    assert first_words("珊瑚白化 的原因", 2) == "珊瑚"
    assert first_words("what 是 珊瑚", 3) == "what 是 珊"
    assert first_words("。。", 2) == ""
