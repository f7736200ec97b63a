"""Samples and few-shot examples: against plain oracles."""

import itertools
import json
import math
import weakref
from collections import Counter

import pandas as pd
import pytest
from collection_files import MOJIBAKE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyterrier_inpars.datasets import (
    BeirFolder,
    judged_pairs,
    sample,
)
from pyterrier_inpars.demo.collection import StdlibDocs

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class TestSample:
    @quick
    @given(size=st.integers(0, 30), n=st.integers(0, 35), seed=st.integers(0, 100))
    def test_a_part_in_order(self, size, n, seed):
        drawn = sample(iter(range(size)), n, seed)
        assert len(drawn) == min(n, size)
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= set(range(size))
        assert drawn == sample(range(size), n, seed)
        assert set(drawn) <= set(sample(range(size), n + 1, seed))

    def test_rows_of_a_frame(self):
        frame = pd.DataFrame({"docno": list("abcde"), "text": list("vwxyz")}, index=[1] * 5)
        assert sample(frame, 3) == sample(frame.to_dict("records"), 3)

    def test_seed(self):
        assert len({tuple(sample(range(100), 5, seed)) for seed in range(20)}) == 20

    @pytest.mark.parametrize(("size", "n"), [(6, 2), (6, 4), (5, 1)])
    def test_uniform(self, size, n):
        """Every subset as often as any other: Pearson's statistic is within 5 deviations."""
        subsets = list(itertools.combinations(range(size), n))
        draws = 200 * len(subsets)
        counts = Counter(tuple(sample(range(size), n, seed)) for seed in range(draws))
        statistic = sum((counts[subset] - 200) ** 2 / 200 for subset in subsets)
        freedom = len(subsets) - 1
        assert statistic < freedom + 5 * math.sqrt(2 * freedom)

    def test_memory(self):
        class Document:
            pass

        alive = weakref.WeakSet()
        most = 0

        def stream():
            nonlocal most
            for _ in range(200):
                document = Document()
                alive.add(document)
                most = max(most, len(alive))
                yield document

        assert len(sample(stream(), 10)) == 10
        assert most <= 10 + 2  # the one before, which this generator and sample() still hold

    def test_nothing_is_read_for_nothing(self):
        stream = iter(range(3))
        assert sample(stream, 0) == []
        assert next(stream) == 0

    @pytest.mark.parametrize("n", [-1, 1.5, True, None])
    def test_bad_n(self, n):
        with pytest.raises(ValueError, match="n must be a whole number of at least 0"):
            sample([], n)


class TestJudgedPairs:
    def test_folder(self, folder):
        pairs = judged_pairs(BeirFolder(folder))
        assert pairs.to_dict("split")["data"] == [
            ["01", MOJIBAKE, "NA", "sodium"],
            ["1", "one", "007", "Bond a spy"],
        ]
        assert list(pairs.columns) == ["qid", "query", "docno", "text"]
        assert list(judged_pairs(BeirFolder(folder), min_label=2)["docno"]) == ["NA"]

    def test_documents_without_text(self, tmp_path):
        (tmp_path / "qrels").mkdir()
        texts = {"d1": " ", "d2": "the noise"}
        corpus = [json.dumps({"_id": docno, "text": text}) for docno, text in texts.items()]
        (tmp_path / "corpus.jsonl").write_text("\n".join(corpus))
        (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": "what"}))
        (tmp_path / "qrels" / "test.tsv").write_text(
            "query-id\tcorpus-id\tscore\n1\td1\t1\n1\td2\t1\n"
        )
        assert judged_pairs(BeirFolder(tmp_path))["docno"].tolist() == ["d2"]

    def test_other_topics(self, folder):
        dataset = BeirFolder(folder)
        train = judged_pairs(
            dataset, topics=dataset.get_topics("train"), qrels=dataset.get_qrels("train")
        )
        assert train.to_dict("split")["data"] == [["3", "three", "007", "Bond a spy"]]

    def test_any_dataset(self):
        """The demo collection, whose judgements name documents that this Python may lack."""
        dataset = StdlibDocs()
        texts = {d["docno"]: d["text"] for d in dataset.get_corpus_iter()}
        queries = dataset.get_topics().set_index("qid")["query"]
        expected = [
            [row.qid, queries[row.qid], row.docno, texts[row.docno]]
            for row in dataset.get_qrels().itertuples()
            if row.label >= 2 and row.docno in texts
        ]
        assert judged_pairs(dataset, min_label=2).to_dict("split")["data"] == expected

        few = judged_pairs(dataset, min_label=2, max_pairs=20, seed=3).to_dict("split")["data"]
        assert 15 <= len(few) <= 20
        assert [row for row in expected if row in few] == few
        assert few == judged_pairs(dataset, min_label=2, max_pairs=20, seed=3).to_numpy().tolist()
        assert few != judged_pairs(dataset, min_label=2, max_pairs=20, seed=4).to_numpy().tolist()

    def test_judged_twice(self, folder):
        qrels = BeirFolder(folder).get_qrels()
        pairs = judged_pairs(BeirFolder(folder), qrels=pd.concat([qrels, qrels]))
        assert len(pairs) == 2

    def test_errors(self, folder):
        dataset = BeirFolder(folder)
        with pytest.raises(
            ValueError, match="no document with label 3 or higher for any of 2 topics"
        ):
            judged_pairs(dataset, min_label=3)
        with pytest.raises(
            ValueError, match="topics of .* lack query; they have only qid, title: give t"
        ):
            judged_pairs(dataset, topics=pd.DataFrame({"qid": ["1"], "title": ["x"]}))
        with pytest.raises(ValueError, match="docno must be a string, but is 7"):
            judged_pairs(dataset, qrels=pd.DataFrame({"qid": ["1"], "docno": [7], "label": [1]}))
        with pytest.raises(
            ValueError, match="max_pairs must be a whole number of at least 1, not 0"
        ):
            judged_pairs(dataset, max_pairs=0)
