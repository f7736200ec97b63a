"""Kendall's tau and AP correlation: against plain loops over pairs and over orders of ties."""

from itertools import combinations, permutations, product
from math import isnan
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from pyterrier_inpars.evaluation import kendall_tau, tau_ap

quick = settings(max_examples=60, deadline=None)
VALUE = st.integers(0, 4).map(lambda n: n / 4)
TIED = st.lists(st.tuples(VALUE, VALUE), min_size=2, max_size=6)
DISTINCT = st.integers(2, 8).flatmap(lambda n: st.permutations(range(n)))


def plain_tau_ap(estimated_order, true_order):
    """Yilmaz et al., equation 2: of the items above each one, the share that is truly above it."""
    place = {item: true_order.index(item) for item in true_order}
    shares = []
    for i, item in enumerate(estimated_order[1:], 1):
        shares.append(sum(place[above] < place[item] for above in estimated_order[:i]) / i)
    return 2 * mean(shares) - 1


def orders(values):
    """All orders of items by descending value, with ties in every order."""
    groups = [
        [i for i, v in enumerate(values) if v == value] for value in sorted(set(values))[::-1]
    ]
    for parts in product(*(list(permutations(group)) for group in groups)):
        yield [item for part in parts for item in part]


@quick
@given(DISTINCT)
def test_tau_ap_without_ties(true):
    estimated = list(range(len(true)))
    by = [sorted(estimated, key=lambda i, v=v: -v[i]) for v in (estimated, true)]
    assert tau_ap(estimated, true) == pytest.approx(plain_tau_ap(*by))


@quick
@given(TIED)
def test_tau_ap_is_the_mean_over_all_orders_of_ties(pairs):
    estimated, true = zip(*pairs, strict=True)
    expected = mean(plain_tau_ap(a, b) for a in orders(estimated) for b in orders(true))
    assert tau_ap(estimated, true) == pytest.approx(expected)


@quick
@given(DISTINCT)
def test_kendall_tau_is_the_balance_of_pairs(true):
    pairs = list(combinations(range(len(true)), 2))
    alike = sum(1 if true[a] < true[b] else -1 for a, b in pairs)
    assert kendall_tau(range(len(true)), true) == pytest.approx(alike / len(pairs))


@quick
@given(TIED)
def test_kendall_tau_is_scipys_tau_b(pairs):
    estimated, true = zip(*pairs, strict=True)
    expected = kendalltau(estimated, true, variant="b").statistic
    assert kendall_tau(estimated, true) == pytest.approx(expected, nan_ok=True)


@quick
@given(DISTINCT)
def test_bounds_and_scale(true):
    for measure in (tau_ap, kendall_tau):
        assert measure(true, true) == pytest.approx(1)
        assert measure([-value for value in true], true) == pytest.approx(-1)
        first = measure(range(len(true)), true)
        assert first == measure([10 * n + 3 for n in range(len(true))], [v / 7 for v in true])


def test_errors_at_the_top_weigh_more_in_tau_ap():
    true = [4, 3, 2, 1]
    top, bottom = [3, 4, 2, 1], [4, 3, 1, 2]
    assert kendall_tau(top, true) == kendall_tau(bottom, true)
    assert tau_ap(top, true) < tau_ap(bottom, true)
    assert tau_ap(top, true) == pytest.approx(1 - 2 / 3) and tau_ap(bottom, true) == pytest.approx(
        1 - 2 / 9
    )


@pytest.mark.parametrize("measure", [kendall_tau, tau_ap])
@pytest.mark.parametrize(
    "lists, message",
    [
        (([1, 2], [1, 2, 3]), "not 2 and 3 values"),
        (([1], [1]), "two systems or more"),
        (([], []), "two systems or more"),
        (([1, float("nan")], [1, 2]), "a finite value"),
        (([1, 2], [float("inf"), 2]), "a finite value"),
    ],
)
def test_bad_lists(measure, lists, message):
    with pytest.raises(ValueError, match=message):
        measure(*lists)


@quick
@given(st.lists(VALUE, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_means_of_the_same_values_tie(values, random):
    means = []
    for _ in range(4):
        random.shuffle(values)
        means.append(sum(value / 3 for value in values) / len(values))
    assert tau_ap(means, [1, 2, 3, 4]) == pytest.approx(0)
    assert isnan(kendall_tau(means, [1, 2, 3, 4]))
