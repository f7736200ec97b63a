"""match: against a search for the nearest query in plain loops."""

import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars.evaluation import match, overlap

QUERY = st.lists(st.sampled_from(["ion", "laser", "beam", "gas", "of"]), min_size=1, max_size=6)
FRAMES = st.lists(st.tuples(QUERY.map(" ".join), QUERY.map(" ".join)), min_size=1, max_size=8)


def frame(rows):
    return pd.DataFrame(rows, columns=["query", "text"]).assign(n=range(len(rows)))


@settings(max_examples=60, deadline=None)
@given(FRAMES, FRAMES, st.integers(0, 2), st.booleans(), st.data())
def test_nearest_queries(synthetic, real, seed, with_text, data):
    number = data.draw(st.integers(1, len(synthetic)))
    queries, theirs = frame(synthetic), frame(real)
    if not with_text:
        theirs = theirs.drop(columns="text")
    features = [
        [(len(query.split()), shares[n] if with_text else 0) for n, (query, _) in enumerate(rows)]
        for rows, shares in ((synthetic, overlap(queries)), (real, overlap(frame(real))))
    ]
    deviations = [pd.Series(values).std(ddof=0) or 1 for values in zip(*features[0], strict=True)]
    order = random.Random(seed).sample(range(len(real)), len(real))
    chosen = []
    for turn in range(number):
        target = features[1][order[turn % len(real)]]

        def distance(n, target=target):
            pairs = zip(features[0][n], target, deviations, strict=True)
            return round(sum(abs(a - b) / d for a, b, d in pairs), 9)

        chosen.append(min((n for n in range(len(queries)) if n not in chosen), key=distance))
    found = match(queries, theirs, number, seed=seed)
    assert list(found["n"]) == sorted(chosen) and list(found.index) == list(range(number))


def test_short_vague_queries_are_found():
    copies = [(f"the laser beam of gas {n}", f"the laser beam of gas {n}") for n in range(6)]
    vague = [(f"ion {n}", f"laser beam {n}") for n in range(6)]
    real = frame([("light amplification", "laser light")])
    assert list(match(frame(copies + vague), real)["query"]) == [query for query, _ in vague]


def test_letters_count_in_scripts_without_spaces():
    queries = frame([("珊瑚白化的主要原因是什么", "x"), ("珊瑚", "x"), ("海水", "x")])
    assert match(queries, frame([("猫狗", "x")])[["query"]], 1)["n"].tolist() == [1]
    assert match(queries, frame([("为什么海水会变暖", "x")])[["query"]], 1)["n"].tolist() == [0]


def test_bad_input():
    some = frame([("a", "b"), ("b", "c")])
    assert len(match(some, some)) == 1 and len(match(some, some, 2)) == 2
    with pytest.raises(ValueError, match="number must be at most 2"):
        match(some, some, 3)
    with pytest.raises(ValueError, match="whole number of at least 1"):
        match(some, some, 0)
    with pytest.raises(ValueError, match="there are no queries"):
        match(some, some[:0])
