"""Words of texts, also in scripts that write words without spaces."""

import operator
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice

UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u3001-\ua4cf\uf900-\ufaff\uff01-\uffef"
    "\U0001b000-\U0001b2ff\U00020000-\U0003ffff"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese, as ranges of a regular expression."""
_MARKS = "".join(
    chr(code)
    for block in (range(0x0E00, 0x10A0), range(0x1780, 0x1800), range(0x3001, 0x30FF))
    for code in block
    if unicodedata.category(chr(code))[0] == "M"
)
_LETTER = re.compile(f"[{UNSPACED}]")
_LETTERS = re.compile(f"[{UNSPACED}][{_MARKS}]*")
_WORD = re.compile(f"{_LETTERS.pattern}|[^\\s{UNSPACED}]+")
_RUN = re.compile(f"([{UNSPACED}]+)|[^\\s{UNSPACED}]+")


def split_words(text: str) -> list[str]:
    """Returns the words of a text: what white space separates.

    In a text with scripts of `UNSPACED`, each of their letters is a word, together with its
    combining marks, and signs alone are none. Korean is written with spaces.
    """
    if not has_unspaced(text):
        return text.split()
    return [word for run in _runs(text) for word in run]


def count_words(text: str) -> int:
    """Returns the number of `split_words`."""
    return len(split_words(text))


def first_words(text: str, number: int) -> str:
    """Returns the beginning of a text with this number of words, or all of them."""
    if not has_unspaced(text):
        return " ".join(text.split()[:number])
    words = (found for found in _WORD.finditer(text) if any(map(str.isalnum, found[0])))
    ends = [found.end() for found in islice(words, number)]
    return " ".join(text[: ends[-1]].split()) if ends else ""


def word_pairs(text: str) -> list[str]:
    """Returns `split_words`, but overlapping pairs of letters in place of single ones.

    Pairs stand for the words of a script without spaces, as in the CJK analyzer of Lucene: nearly
    all texts have most of the letters of Thai or of Japanese syllables. A letter between others
    than its own kind stays single.
    """
    if not has_unspaced(text):
        return text.split()
    return [word for run in _runs(text) for word in (_pairs(run) if run[1:] else run)]


def words_and_pairs(text: str) -> set[str]:
    """Returns `split_words` and `word_pairs`: what of another text is found in this one."""
    if not has_unspaced(text):
        return set(text.split())
    found: set[str] = set()
    for run in _runs(text):
        found.update(run)
        found.update(_pairs(run))
    return found


def _runs(text: str) -> Iterator[Sequence[str]]:
    """Yields the words of a text: those that follow each other without a space or sign together."""
    for found in _RUN.finditer(text):
        part, is_spaced = found[0], found.lastindex is None
        if is_spaced:
            if part.isalnum() or any(map(str.isalnum, part)):
                yield [part]
        elif part.isalnum():  # without combining marks, so that each character is a letter
            yield part
        else:
            run: list[str] = []
            for letter in _LETTERS.findall(part):
                if letter[0].isalnum():
                    run.append(letter)
                elif run:
                    yield run
                    run = []
            if run:
                yield run


def _pairs(run: Sequence[str]) -> Iterator[str]:
    return map(operator.add, run, run[1:])


def has_unspaced(text: str) -> bool:
    """Returns whether a text has a character of `UNSPACED`."""
    return not text.isascii() and _LETTER.search(text) is not None
