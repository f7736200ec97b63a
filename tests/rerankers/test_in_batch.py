"""Batches of the in-batch loss: every row once, and no query beside its own document."""

import itertools
import math

import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import QUICK, make_examples

from pyterrier_inpars.rerankers import BiEncoder
from pyterrier_inpars.rerankers._in_batch import InBatchSampler

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]

TEXTS = st.sampled_from("abcdefgh")


def sampler(rows: list[tuple[str, ...]], size: int, seed: int = 0):
    names = ["query", "positive", *(f"negative_{i}" for i in range(1, len(rows[0]) - 1))]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return InBatchSampler(Dataset.from_dict(columns), size, seed=seed)


def conflict(rows: list[tuple[str, ...]], one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether a query has a document of the other row, which any row says to be relevant."""

    def is_relevant(query: str, document: str) -> bool:
        return any(row[:2] == (query, document) for row in rows)

    return one[0] == other[0] or any(
        is_relevant(a[0], document) for a, b in ((one, other), (other, one)) for document in b[1:]
    )


class TestSampler:
    @given(
        rows=st.integers(1, 3).flatmap(
            lambda n: st.lists(
                st.tuples(st.integers(0, 9).map(str), *[TEXTS] * n), min_size=1, max_size=30
            )
        ),
        size=st.integers(1, 6),
    )
    def test_every_row_once(self, rows, size):
        batches = sampler(rows, size)
        for epoch in range(4):
            batches.set_epoch(epoch)
            found = list(batches)
            assert len(found) == len(batches)
            assert sorted(itertools.chain(*found)) == list(range(len(rows)))
            assert all(0 < len(batch) <= size for batch in found)
            for batch in found:
                pairs = itertools.combinations([rows[i] for i in batch], 2)
                assert not any(conflict(rows, *pair) for pair in pairs)
            assert batches.seen(epoch, 1) == len(found[0])
            assert batches.seen(epoch, len(found)) == len(rows)

    def test_another_document_of_the_query(self):
        """A row's query has another relevant document, in a row of another batch."""
        batches = sampler([("A", "P1", "n1"), ("A", "P2", "n1"), ("B", "P2", "n2")], 4)
        assert sorted(map(sorted, batches)) == [[0], [1], [2]]

    def test_full_batches(self):
        """Of rows without conflict, which a shared negative is not."""
        rows = [(f"q{i}", f"d{i}", "shared") for i in range(18)]
        sizes = [len(batch) for batch in sampler(rows, 4)]
        assert sizes == [4, 4, 4, 4, 2] and len(sizes) == math.ceil(18 / 4)

    def test_order(self):
        """It depends on seed and epoch alone."""
        rows = [(f"q{i}", f"d{i}") for i in range(12)]
        batches = sampler(rows, 4)
        first, again = list(batches), list(batches)
        batches.set_epoch(1)
        assert first == again != list(batches)
        assert list(sampler(rows, 4, seed=1)) == list(batches)


class TestTraining:
    def test_negatives_that_all_queries_share(self, models):
        """Sixteen pairs and one negative text, in batches of four: four steps of four."""
        examples = make_examples(16, 1, 0, "pair")
        examples["query"] += [f" {i // 2}" for i in range(32)]
        examples.loc[examples["label"] == 0, "text"] = "the same text"
        training = {k: v for k, v in QUICK.items() if k != "max_steps"}
        reranker = BiEncoder(models[BiEncoder], training=training | {"held_out": 0})
        rows = []
        reranker.network[0].register_forward_hook(
            lambda module, args, output: rows.append(len(output["input_ids"]))
        )
        reranker.fit(examples)
        assert rows == [4, 8] * 4  # queries; positives and negatives
        seen = {"steps": 4, "effective_batch": 4, "seen": 16}
        assert reranker.provenance["batches"] == seen

    def test_steps_of_smaller_batches_are_counted(self, models):
        """Rows of one query are kept apart: one row a step."""
        examples = make_examples(16, 1, 0, "pair").assign(query="what is north")
        for steps, seen in ((-1, 16), (5, 5), (20, 20)):
            training = QUICK | {"max_steps": steps, "num_train_epochs": 1, "held_out": 0}
            reranker = BiEncoder(models[BiEncoder], training=training).fit(examples)
            assert reranker.provenance["batches"]["seen"] == seen
            assert reranker.provenance["steps"] == seen

    def test_a_query_without_negatives_does_not_take_its_own_document(self, models):
        rows = [("q0", "d0", 1), ("q1", "d1", 1), ("q1", "d0", 0), ("q1", "d2", 0)]
        examples = pd.DataFrame(rows, columns=["qid", "text", "label"])
        examples = examples.assign(query=examples["qid"], docno=examples["text"])
        columns = BiEncoder(models[BiEncoder])._in_batch_columns(examples)
        assert columns["positive"] == ["d0", "d1"]
        assert columns["negative_1"] == ["d2", "d0"]

    def test_a_query_without_negatives_takes_no_relevant_document(self, models):
        """Of its query, by the text, and by all rows: q0 has two."""
        rows = [("q0", "d0", 1), ("q0", "d1", 1), ("q1", "d2", 1), ("q1", "d0", 0), ("q1", "d1", 0)]
        rows += [("q1", "d3", 0)]
        examples = pd.DataFrame(rows, columns=["qid", "text", "label"])
        examples = examples.assign(query=examples["qid"], docno=examples["text"])
        columns = BiEncoder(models[BiEncoder])._in_batch_columns(examples)
        assert columns["positive"] == ["d0", "d1", "d2"]
        negatives = [columns[f"negative_{i}"] for i in (1, 2, 3)]
        assert [*zip(*negatives, strict=True)] == [("d3",) * 3, ("d3",) * 3, ("d0", "d1", "d3")]
