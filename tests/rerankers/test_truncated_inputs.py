"""Rerankers count the inputs that reach their limit, and say so if it is the model's own."""

import warnings

import numpy as np
import pytest
from tiny_training import scores

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head"),
]
MESSAGE = r"inputs \(\d+%\) reach the limit of .* was cut: split long documents into passages"


def lengths(reranker, frame):
    """Tokens of each input without truncation, by the tokenizer alone."""
    network = reranker.network
    if isinstance(reranker, BiEncoder):
        return [len(network.tokenizer(text)["input_ids"]) for text in frame["text"].unique()]
    pairs = zip(frame["query"], frame["text"], strict=True)
    if isinstance(reranker, CrossEncoder):
        return [len(network.tokenizer(*pair)["input_ids"]) for pair in pairs]
    template = reranker._format.template
    return [
        len(reranker._tokenizer(template.format(query=query, text=text))["input_ids"])
        for query, text in pairs
    ]


@pytest.mark.filterwarnings("ignore:.*reach the limit")
@pytest.mark.parametrize("max_length", [None, 12, 20])
def test_counts(make, frame, max_length):
    reranker = make(max_length=max_length, batch_size=4)
    limit = max_length or (48 if isinstance(reranker, MonoT5) else 32)
    reranker(frame)
    expected = np.array(lengths(reranker, frame))
    assert reranker.inputs == len(expected)
    assert reranker.truncated == (expected >= limit).sum() > 0
    reranker(frame)
    assert reranker.truncated == 2 * (expected >= limit).sum()


def test_one_warning_about_the_own_limit(make, frame):
    long = frame.assign(text=frame["text"] + " " + " ".join(["stone"] * 60))
    reranker = make()
    with pytest.warns(UserWarning, match=MESSAGE):
        reranker(long)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=MESSAGE)
        reranker(long)


@pytest.mark.parametrize("case", ["a limit of one's own", "short documents"])
def test_no_warning(make, frame, case):
    reranker = make(max_length=16 if case == "a limit of one's own" else None)
    if case == "short documents":
        frame = frame[frame["text"].str.split().str.len() < 20]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=MESSAGE)
        reranker(frame)


def test_vectors_from_the_cache_are_counted_once(models, frame):
    encoder = BiEncoder(models[BiEncoder], dtype="float32", max_length=12, vector_cache=100)
    scores(encoder, frame)
    once = encoder.inputs, encoder.truncated
    scores(encoder, frame)
    assert (encoder.inputs, encoder.truncated) == once
