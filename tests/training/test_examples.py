from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars.datasets.toolkit_files import read_triples
from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder
from pyterrier_inpars.training.examples import balanced, groups

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


def test_a_group_is_a_positive_with_the_negatives_of_its_qid():
    rows = [("1", "a", "n1", 0), ("2", "b", "p2", 1), ("1", "a", "p1", 1), ("1", "a", "n2", 0)]
    rows += [("1", "a", "p3", 1), ("3", "c", "n3", 0)]
    frame = pd.DataFrame(rows, columns=["qid", "query", "body", "label"])
    assert groups(frame, "body") == [
        ("b", "p2", []),
        ("a", "p1", ["n1", "n2"]),
        ("a", "p3", ["n1", "n2"]),
    ]


class TestBalanced:
    """Half of the pairs that a pointwise loss sees are positives."""

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), min_size=2))
    def test_every_row_occurs_and_labels_are_equally_many(self, pairs):
        frame = pd.DataFrame([*pairs, ("d", 0), ("e", 1)], columns=["qid", "label"])
        frame["docno"] = [f"d{i}" for i in range(len(frame))]
        out = balanced(frame)
        assert (out["label"] == 1).sum() == (out["label"] == 0).sum()
        assert out["docno"].drop_duplicates().tolist() == frame["docno"].tolist()
        both = frame[frame.groupby("qid")["label"].transform("nunique") == 2]
        times = balanced(both)["docno"].value_counts() if len(both) else pd.Series(dtype=int)
        for _, rows in both.groupby(["qid", "label"]):
            found = times[rows["docno"]]
            assert found.max() - found.min() <= 1, "rows of a label are repeated alike"

    def test_balanced_examples_stay_as_they_are(self, examples):
        pairs = examples.groupby(["qid", "label"]).head(1)
        pd.testing.assert_frame_equal(balanced(pairs), pairs)

    def test_triples_of_the_toolkit_give_its_pairs(self, make, cls, tmp_path):
        """Its training takes a positive and a negative of each line."""
        if cls is BiEncoder:
            pytest.skip("it has no pointwise loss")
        lines = [(f"what is {q}", f"pos {q}", f"neg {q} {i}") for q in "ab" for i in range(5)]
        lines += [("what is c", "pos c", "neg c")]
        file = tmp_path / "triples.tsv"
        file.write_text("".join("\t".join(line) + "\n" for line in lines))
        expected = Counter((query, text) for query, *texts in lines for text in texts)
        training = {"max_steps": -1, "num_train_epochs": 1, "loss": "pointwise"}
        reranker = make(training)
        seen, network = [], reranker.network
        if cls is CrossEncoder:
            preprocess = network.preprocess
            network.preprocess = lambda pairs, *a, **o: (
                seen.extend(pairs) or preprocess(pairs, *a, **o)
            )
        else:
            batch = reranker._batch
            reranker._batch = lambda queries, texts: (
                seen.extend(zip(queries, texts, strict=True)) or batch(queries, texts)
            )
        reranker.fit(read_triples(file))
        assert reranker.provenance["batches"]["seen"] == 22
        assert Counter(tuple(pair) for pair in seen) == expected
