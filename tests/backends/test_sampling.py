"""Choice of the next token: greedy, sampled, from the nucleus."""

import numpy as np
import pytest
import torch

from pyterrier_inpars.backends import _sampling
from pyterrier_inpars.backends.base import Sampling


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = Sampling(temperature=0.5, top_p=0.9)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    drawn = _sampling.choose(logits.expand(4000, 4), sampling, generators)
    share = torch.bincount(drawn, minlength=4) / 4000
    expected = (logits[0, :2] / 0.5).softmax(0)  # the two most probable tokens sum up to 0.9
    assert share[:2].tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert share[2:].sum() == 0


@pytest.mark.parametrize("sharpness", [0.01, 3.0])  # nuclei of thousands of tokens, and of some
def test_a_nucleus_is_that_of_all_tokens_sorted(sharpness):
    torch.manual_seed(0)
    logits = torch.randn(5, 3000, dtype=torch.float64) * sharpness
    sampling = Sampling(temperature=1.0, top_p=0.8)
    seeds = range(400)
    for row in logits:
        generators = [torch.Generator().manual_seed(i) for i in seeds]
        drawn = _sampling.choose(row.expand(len(seeds), -1), sampling, generators).tolist()
        order = row.argsort(descending=True).tolist()
        shares = row.softmax(0)[order].tolist()
        nucleus, held = [], 0.0
        for token, share in zip(order, shares, strict=True):
            if held >= 0.8:
                break
            nucleus.append(token)
            held += share
        for seed, token in zip(seeds, drawn, strict=True):
            number = torch.rand((), generator=torch.Generator().manual_seed(seed)).item() * held
            place = int(np.searchsorted(np.cumsum(shares[: len(nucleus)]), number, side="right"))
            assert token == nucleus[place]


def test_every_row_gets_its_own_token_and_log_probability():
    """Also where there are more rows than are worked on together."""
    torch.manual_seed(0)
    logits = torch.randn(2 * _sampling.CHUNK_ROWS + 3, 50).bfloat16()
    expected = logits.float().log_softmax(1).max(1)
    tokens, log_probs = zip(*_sampling.next_tokens(logits, Sampling(), [None] * 50), strict=True)
    assert list(tokens) == expected.indices.tolist()
    assert list(log_probs) == pytest.approx(expected.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 37, 512, 1187 * 4, 2**14])
def test_the_most_probable_token_is_the_first_of_the_best(vocabulary):
    torch.manual_seed(0)
    logits = torch.randint(0, 9, (7, vocabulary)).float()  # many ties
    logits[2, vocabulary // 2] = torch.nan  # is found, so that it becomes an error
    logits[3] = -torch.inf
    found = _sampling.choose(logits, Sampling(), [])
    assert found.tolist() == np.argmax(logits.numpy(), 1).tolist()


def test_sampling_from_a_dict():
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=3)
    assert Sampling.of({"temperature": 0.7, "top_p": 0.9, "seed": 3}) == sampling
    assert Sampling.of(sampling) is sampling
    assert Sampling.of(None) == Sampling.of({}) == Sampling(temperature=0)


@pytest.mark.parametrize(
    "value, error, message",
    [
        ({"temp": 1}, TypeError, "some of temperature, top_p, seed, not {'temp': 1}"),
        (0.7, TypeError, "sampling must be a Sampling, or a dict .* not 0.7"),
        ("greedy", TypeError, "not 'greedy'"),
        ({"temperature": -1}, ValueError, "temperature must be at least 0, not -1"),
        ({"temperature": "1"}, ValueError, "temperature must be a number, not '1'"),
        ({"top_p": 0}, ValueError, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.5}, ValueError, "top_p must be above 0 and at most 1, not 1.5"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0, not -1"),
    ],
)
def test_invalid_sampling_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        Sampling.of(value)
