"""Helpers of the tests of bad input, which are tables of inputs and expected errors or results.

An expected error must be raised in this package and name the value, see ``gives``.
"""

import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest
import tiny
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import pyterrier_inpars
from pyterrier_inpars import StaticPrompt

OURS = (str(Path(pyterrier_inpars.__file__).parent), pt.validate.__file__)
NAN = float("nan")
HALF = "a \ud800 b"  # a lone surrogate, which JSON can encode
MISSING = pt.validate.InputValidationError
# Invalid values for numbers.
NOT_ONE_OR_MORE = [0, -1, 1.5, True, "3", None, NAN, [], 2.0]
NOT_ZERO_OR_MORE = [-1, 1.5, True, "3", NAN, None, []]
NO_FRACTION = ["3", None, [], NAN, True, float("inf"), 1j]


@dataclass
class Error:
    """An expected error: a regular expression that occurs in its message, and its type."""

    message: str
    type: type = ValueError


def gives(call, expected):
    """Checks that a call returns a result, or raises an error in this package."""
    if not isinstance(expected, Error):
        assert call() == expected
        return
    with pytest.raises(expected.type, match=f"(?s){expected.message}") as caught:
        call()
    where = traceback.extract_tb(caught.tb)[-1].filename
    assert where.startswith(OURS) or isinstance(caught.value, OSError), where


def rows(*cases):
    """Parameters of a test, with short ids."""
    return [
        case if hasattr(case, "values") else pytest.param(*case, id=ascii(case[0])[:40])
        for case in cases
    ]


def frame(*records, **columns):
    return pd.DataFrame(list(records), dtype=object) if records else pd.DataFrame(columns)


PROMPT = StaticPrompt("Document: {document}\nQuery:")
PLAIN = {"docno": "d1", "text": "the noise of the receiver"}
NO_STRING = "must be a string, but is"
TWO = pd.DataFrame([PLAIN, {"docno": "d2", "text": "the gain"}])
WORDS = [a + b + c for a in ("bal", "cor") for b in ("da", "fu", "ki") for c in ("ne", "rop", "st")]
CORPUS = [
    {"docno": f"d{i}", "text": " ".join(WORDS[(i * j + i) % 18] for j in range(1, 8))}
    for i in range(40)
]
LONG = " ".join(WORDS[i % 18] for i in range(5_000))


def bm25_over_corpus(folder):
    """BM25 over ``CORPUS``."""
    import pyterrier_pisa

    index = pyterrier_pisa.PisaIndex(str(folder / "pisa"), text_field="text")
    index.index(CORPUS)
    return index.bm25()


def queries(**changes):
    """Queries q1 and q2 with the texts of d1 and d2; ``changes`` are column values of q2."""
    two = frame(*({"qid": f"q{i}", "query": CORPUS[i]["text"], **CORPUS[i], "score": float(-i),
                   "log_probs": [-1.0] * 7, "label": 2 - i} for i in (1, 2)))  # fmt: skip
    for column, value in changes.items():
        two[column] = pd.Series([two[column][0], value], dtype=object)
    return two


def is_no_string(column):
    at = "docno 'd2'" if column == "qid" else "qid 'q2'"
    return rows(
        *(
            ({column: value}, Error(f"{column} {NO_STRING} .*{at}"))
            for value in (None, 7, b"x", ["x"])
        ),
        ({column: HALF}, Error(rf"{column} contains the lone surrogate '\\ud800'.*{at}")),
    )


NO_NUMBER = rows(
    *(
        ({"score": value}, Error("score is not a number at qid 'q2'.*got .*; set a number or drop"))
        for value in ("", "high", b"x", [1.0], {})
    )
)


class Finds(pt.Transformer):
    """A retriever or text loader with a fixed output."""

    schematic = {"label": "Finds", "help_url": None}

    def __init__(self, *found, columns=("qid", "docno", "rank")):
        self.found = found
        self.columns = columns

    def transform(self, inp):
        if len(self.found) == 1 and not isinstance(self.found[0], tuple):
            return self.found[0]
        return pd.DataFrame(list(self.found), columns=list(self.columns))

    def __repr__(self):
        return "Finds()"


def broken_models(home, llm):
    """Paths of models by their defect."""
    (home / "empty folder").mkdir()
    (home / "a file").write_text("x")
    (home / "garbage.gguf").write_text("x")
    changes = {
        "no weights": lambda folder: (folder / "model.safetensors").unlink(),
        "no tokenizer": lambda folder: [file.unlink() for file in folder.glob("token*")],
        "no JSON": lambda folder: (folder / "config.json").write_text("{"),
        "no type": lambda folder: (folder / "config.json").write_text("{}"),
    }
    for name, change in changes.items():
        shutil.copytree(llm, home / name)
        change(home / name)
    return {
        **{path.name: str(path) for path in home.iterdir()},
        "nowhere": str(home / "nowhere"),
        "nowhere.gguf": str(home / "nowhere.gguf"),
        "unknown name": "nobody/nothing",
        "T5": tiny.tiny_t5(home / "T5"),
        "LLM": llm,
    }


BROKEN = ["empty folder", "a file", "no weights", "no JSON", "no type", "nowhere", "unknown name"]


ANY = st.one_of(
    st.text(st.characters()),  # with lone surrogates
    st.sampled_from(["", " ", "{document}", "\0", "q\tp\tn", "NaN", "é" * 99]),
    st.none(),
    st.integers(),
    st.floats(),
    st.binary(max_size=3),
    st.booleans(),
)


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def ours(call):
    """The result of a call, or None if it raises an error in this package."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        assert where.startswith(OURS), where
        return None
