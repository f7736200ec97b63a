"""agreement: figures written out in loops, and from systems that are run."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_systems import Noisy, qrels_of, queries, topics_of
from scipy.stats import ttest_rel

from pyterrier_inpars.evaluation import agreement, agreement_of_values, kendall_tau, tau_ap

quick = settings(max_examples=40, deadline=None)
VALUES = st.integers(2, 5).flatmap(
    lambda systems: st.tuples(
        st.lists(st.integers(0, 10), min_size=systems, max_size=systems),
        st.lists(
            st.lists(st.integers(0, 10), min_size=systems, max_size=systems), min_size=2, max_size=6
        ),
    )
)


def frame(rows):
    return pd.DataFrame(rows, columns=[f"s{n}" for n in range(len(rows[0]))]) / 10


@quick
@given(VALUES)
def test_figures_written_out(values):
    synthetic, human = frame([values[0]]), frame(values[1])
    found = agreement_of_values(synthetic, human, baseline=1, correction="bonferroni", alpha=0.2)
    estimated, true = (dict(of.mean().round(9)) for of in (synthetic, human))
    assert found.kendall_tau == pytest.approx(
        kendall_tau(list(estimated.values()), list(true.values())), nan_ok=True
    )
    assert found.tau_ap == pytest.approx(tau_ap(list(estimated.values()), list(true.values())))
    assert estimated[found.chosen] == max(estimated.values())
    assert true[found.best] == max(true.values())
    assert found.regret == pytest.approx(true[found.best] - true[found.chosen])
    assert found.gain == pytest.approx(true[found.chosen] - true["s1"])
    if true["s1"]:
        assert found.relative_gain == pytest.approx(true[found.chosen] / true["s1"] - 1)
    if true[found.best]:
        assert 0 <= found.relative_regret <= 1
    pairs = [(a, b) for a, b in combinations(human, 2) if list(human[a]) != list(human[b])]
    alike = []
    for a, b in pairs:
        with np.errstate(all="ignore"):
            p = ttest_rel(human[a], human[b]).pvalue
        if min(1, p * len(pairs)) <= 0.2:
            difference = estimated[a] - estimated[b]
            alike.append(difference * (true[a] - true[b]) > 0)
    assert found.significant_pairs == len(alike)
    expected = sum(alike) / len(alike) if alike else math.nan
    assert found.significant_agreement == pytest.approx(expected, nan_ok=True)


@quick
@given(VALUES)
def test_queries_that_are_the_topics_agree(values):
    human = frame(values[1])
    found = agreement_of_values(human, human)
    assert found.regret == 0 and found.chosen == found.best
    assert found.kendall_tau == pytest.approx(1) or math.isnan(found.kendall_tau)
    assert found.significant_agreement == 1 or found.significant_pairs == 0


def test_systems_are_run_on_both():
    systems = {f"s{n}": Noisy(noise, n) for n, noise in enumerate((0.9, 0.3, 0.7, 0.5))}
    human = queries(40, prefix="human")
    unjudged = topics_of(queries(2, prefix="unjudged"))
    topics = pd.concat([topics_of(human), unjudged])
    found = agreement(systems, queries(), topics, qrels_of(human))
    assert found.kendall_tau == found.tau_ap == pytest.approx(1)
    assert (found.chosen, found.best, found.regret) == ("s1", "s1", 0)
    assert found.significant_agreement == 1 and found.significant_pairs >= 4
    assert found.gain > 0.2 and [system.calls for system in systems.values()] == [2] * 4
    table = found.table.set_index("name")
    assert list(table.index) == ["s1", "s3", "s2", "s0"]
    spoiled = qrels_of(queries()).assign(docno=[f"d{n % 7}" for n in range(60)])
    other = agreement(systems, queries(), topics, qrels_of(human), synthetic_qrels=spoiled)
    pd.testing.assert_series_equal(other.table.set_index("name")["human"], table["human"])
    assert other.table["synthetic"].max() < table["synthetic"].min()


def test_text_html_and_series():
    human = frame([[1, 2], [2, 3], [4, 6]])
    found = agreement_of_values(human, human)
    assert list(found.to_series().index)[0] == "kendall_tau" and "table" not in found.to_series()
    assert "relative_regret" in repr(found) and "synthetic" in repr(found)
    assert found._repr_html_().count("<table") == 2


def test_bad_values():
    human = frame([[1, 2], [2, 3]])
    with pytest.raises(ValueError, match="different systems: 's2' is in only one"):
        agreement_of_values(frame([[1, 2, 3]]), human)
    with pytest.raises(ValueError, match="human values of 's1' are not all finite"):
        agreement_of_values(human, frame([[1, 2], [3, math.nan]]))
    with pytest.raises(ValueError, match="baseline must be a number from 0 to 1"):
        agreement_of_values(human, human, baseline=2)
    with pytest.raises(ValueError, match="alpha must be above 0"):
        agreement_of_values(human, human, alpha=0)
    with pytest.raises(ValueError, match="two systems or more"):
        agreement_of_values(human[["s0"]], human[["s0"]])
