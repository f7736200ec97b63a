"""select: the best by the mean, and the systems that are not significantly worse."""

import numpy as np
import pandas as pd
import pytest
from noisy_systems import Noisy, qrels_of, queries, ranked, topics_of
from pyterrier.measures import RR
from scipy.stats import ttest_rel

from pyterrier_inpars.evaluation import compare, select

NOISE = {"poor": 0.9, "fair": 0.6, "good": 0.45, "best": 0.4}


@pytest.fixture(scope="module")
def systems():
    return {name: Noisy(noise, seed) for seed, (name, noise) in enumerate(NOISE.items())}


@pytest.fixture(scope="module")
def choice(systems):
    return select(systems, queries())


def test_the_best_system_and_the_candidates(systems, choice):
    table = compare(systems, queries()).set_index("name")["nDCG@10"].sort_values(ascending=False)
    assert choice.name == table.index[0] and choice.best is systems[choice.name]
    assert list(choice.table["name"]) == list(table.index)
    assert list(choice.table["nDCG@10"]) == pytest.approx(list(table))
    assert list(choice.candidates) == list(choice.table["name"][choice.table["candidate"]])
    assert "poor" not in choice.candidates
    assert all(choice.candidates[name] is systems[name] for name in choice.candidates)
    assert choice.num_queries == 60


def test_holms_correction_written_out(systems, choice):
    """The k-th smallest of n p-values is multiplied by n - k + 1, and is never below the last."""
    frame = queries()
    values = {}
    for name, system in systems.items():
        results = system(topics_of(frame))
        merged = results.merge(qrels_of(frame)[["qid", "docno"]]).set_index("qid")["rank"]
        values[name] = (1 / (merged[frame["qid"]] + 1)).to_numpy()
    choice = select(systems, frame, RR)
    others = [name for name in choice.table["name"] if name != choice.name]
    p = {name: ttest_rel(values[choice.name], values[name]).pvalue for name in others}
    expected, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.get)):
        largest = max(largest, min(1.0, p[name] * (len(p) - place)))
        expected[name] = largest
    found = choice.table.set_index("name")
    assert found.loc[others, "p-value"].astype(float).to_dict() == pytest.approx(p)
    assert found.loc[others, "p-value corrected"].to_dict() == pytest.approx(expected)
    assert found["candidate"].to_dict() == {
        name: expected.get(name, 1.0) >= 0.05 for name in found.index
    }


def test_the_first_of_equal_systems_is_the_best(systems):
    best = systems["best"]
    choice = select([best, best % 20, systems["poor"]], queries(), names=["a", "b", "c"])
    assert choice.name == "a" and list(choice.candidates) == ["a", "b"]


def test_alpha_and_qrels(systems):
    strict, lenient = (select(systems, queries(), alpha=alpha) for alpha in (0.999, 1e-30))
    assert len(strict.candidates) <= 2 and len(lenient.candidates) == 4
    others = qrels_of(queries()).assign(docno="d1")
    assert select(systems, queries(), qrels=others).table["nDCG@10"].max() < 0.5


def test_a_single_system():
    choice = select([Noisy(0.5)], queries(), names=["only"])
    assert choice.name == "only" and list(choice.candidates) == ["only"]


def test_text_and_html(choice, systems):
    text = repr(choice)
    assert text.startswith(f"best of 4 systems on 60 queries by nDCG@10: {choice.name}; not ")
    assert all(name in text for name in systems) and "candidate" in text
    escaped = select({"<b>": systems["best"]}, queries())._repr_html_()
    assert "&lt;b&gt;" in escaped and "<b>" not in escaped and "<table" in escaped
    assert isinstance(choice.table, pd.DataFrame)


def test_the_first_of_systems_whose_values_differ_only_in_their_order_is_the_best():
    """Sums in another order differ in the last digit."""
    ranks = np.random.default_rng(0).integers(0, 5, 60)
    one, other = ranked(ranks), ranked(np.random.default_rng(1).permutation(ranks))
    for names in (["one", "other"], ["other", "one"]):
        systems = dict(zip(names, (one, other), strict=True))
        assert select(systems, queries(), RR).name == names[0]
        systems = dict(zip(names, (other, one), strict=True))
        assert select(systems, queries(), RR).name == names[0]
