"""Caches of scores: by the reranker's fingerprint, and pyterrier_caching's around each stage."""

import copy
import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
from tiny_training import QUICK, scores

from pyterrier_inpars import LuceneIndex, QueryGenerator, RerankerCache, SyntheticQueries
from pyterrier_inpars.backends.base import Completion
from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, QueryLikelihood, ScoreFusion

caching = pytest.importorskip("pyterrier_caching", reason="needs the extra caching")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:.*without a scoring head",
        "ignore:The inplace keyword",
        "ignore:.*not validated",
        "ignore:training did not help",
    ),
]
TRAINING = QUICK | {"learning_rate": 0.1}


@pytest.fixture
def computed(monkeypatch):
    """The pairs that rerankers compute from now on."""
    pairs = []
    for cls in (MonoT5, CrossEncoder, BiEncoder):
        monkeypatch.setattr(cls, "_score", noted(cls._score, pairs))
    return pairs


def noted(score, pairs):
    def noting(self, queries, texts):
        pairs.extend(zip(queries, texts, strict=True))
        return score(self, queries, texts)

    return noting


class TestRerankerCache:
    def test_stored_scores_are_not_computed_again(self, make, frame, tmp_path, computed):
        reranker = make()
        expected = reranker(frame)
        computed.clear()
        cached = RerankerCache(tmp_path / "scores", reranker)
        first = cached(frame.head(10))
        assert len(computed) == 10
        pd.testing.assert_frame_equal(cached(frame), expected, rtol=1e-4)
        assert len(computed) == len(frame)
        other_process = RerankerCache(tmp_path / "scores", make())
        again = other_process(frame.head(10))
        assert len(computed) == len(frame)
        pd.testing.assert_frame_equal(again, first)

    def test_trained_weights_never_get_old_scores(self, make, frame, examples, tmp_path, computed):
        reranker = make(training=TRAINING)
        cached = RerankerCache(tmp_path / "scores", reranker)
        before = cached(frame)
        reranker.fit(examples)
        after = cached(frame)
        expected = scores(reranker, frame)
        np.testing.assert_allclose(after["score"], expected, atol=1e-5)
        assert np.abs(after["score"] - before["score"]).max() > 1e-3
        computed.clear()
        pd.testing.assert_frame_equal(RerankerCache(tmp_path / "scores", make())(frame), before)
        assert not computed, "the scores of the start are still there"

    def test_a_saved_reranker_has_the_scores_of_the_trained_one(
        self, cls, make, frame, examples, tmp_path, computed
    ):
        reranker = make(training=TRAINING, max_length=20).fit(examples)
        expected = RerankerCache(tmp_path / "scores", reranker)(frame)
        loaded = cls(reranker.save(tmp_path / "model"), dtype="float32", device="cpu")
        assert loaded.scores_fingerprint() == reranker.scores_fingerprint()
        computed.clear()
        found = RerankerCache(tmp_path / "scores", loaded)(frame)
        pd.testing.assert_frame_equal(found, expected)
        assert not computed

    def test_what_the_fingerprint_depends_on(self, cls, make):
        own = {
            MonoT5: [
                {"template": "Q: {query} D: {text} R:"},
                {"labels": ("false", "true")},
            ],
            CrossEncoder: [],
            BiEncoder: [
                {"query_prompt": "what is "},
                {"doc_prompt": "apple "},
                {"pooling": "max"},
            ],
        }[cls]
        other = [{}, {"max_length": 20}, {"dtype": "bfloat16"}, {"text_field": ["text", "extra"]}]
        found = [make(**options).scores_fingerprint() for options in [*other, *own]]
        assert len(set(found)) == len(found)
        same = [{"batch_size": 3}, {"verbose": True}, {"training": TRAINING}]
        assert {make(**options).scores_fingerprint() for options in same} == {found[0]}
        reranker = make()
        assert reranker.scores_fingerprint() == copy.deepcopy(reranker).scores_fingerprint()
        reranker.set_parameter("max_length", 20)
        assert reranker.scores_fingerprint() == found[1]

    def test_int8(self, make, frame, tmp_path):
        pytest.importorskip("torchao")
        reranker = make(dtype="int8")
        assert reranker.scores_fingerprint() != make().scores_fingerprint()
        cached = RerankerCache(tmp_path / "scores", reranker)
        pd.testing.assert_frame_equal(cached(frame), cached(frame))

    def test_a_changed_text_is_scored_again(self, make, frame, tmp_path):
        reranker = make()
        cached = RerankerCache(tmp_path / "scores", reranker)
        cached(frame)
        changed = frame.assign(text=frame["text"].iloc[::-1].tolist())
        np.testing.assert_allclose(scores(cached, changed), scores(reranker, changed), atol=1e-5)

    def test_a_query_with_two_qids(self, make, frame, tmp_path, computed):
        """pyterrier_caching's own cache fails on it."""
        twice = pd.concat([frame, frame.assign(qid=frame["qid"] + "b")], ignore_index=True)
        reranker = make()
        expected = reranker(twice)
        computed.clear()
        found = RerankerCache(tmp_path / "scores", reranker)(twice)
        assert len(computed) == len(frame)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4)

    def test_in_a_fusion_and_a_pipeline(self, make, frame, tmp_path):
        reranker = make()
        cached = RerankerCache(tmp_path / "scores", reranker)
        expected = ScoreFusion(reranker)(frame)
        for _ in range(2):
            pd.testing.assert_frame_equal(ScoreFusion(cached)(frame), expected, rtol=1e-4)
        assert pt.inspect.transformer_inputs(cached) == [["qid", "query", "docno", "text"]]
        assert pt.inspect.subtransformers(cached) == {"reranker": reranker}
        assert repr(cached) == f"RerankerCache({tmp_path / 'scores'!r}, {reranker!r})"
        assert list(cached(frame.head(0)).columns) == list(cached(frame).columns)

    def test_bad_input(self, make, frame, tmp_path, monkeypatch):
        with pytest.raises(TypeError, match="needs a MonoT5, CrossEncoder or BiEncoder.*Fusion"):
            RerankerCache(tmp_path, ScoreFusion(make()))
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            RerankerCache(tmp_path / "s", make())(frame.drop(columns="text"))
        with pytest.raises(ValueError, match="query must be a string"):
            RerankerCache(tmp_path / "s", make())(frame.astype({"query": object}).assign(query=1))
        with pytest.raises(TypeError, match="path must be that of a folder, not None"):
            RerankerCache(None, make())
        (tmp_path / "file").write_text("kept")
        with pytest.raises(FileExistsError, match="file is a file: give RerankerCache the path"):
            RerankerCache(tmp_path / "file", make())(frame)
        monkeypatch.setitem(sys.modules, "pyterrier_caching", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier_inpars\[caching\]'"):
            RerankerCache(tmp_path, make())


class TestPyterrierCaching:
    """The scores of a cache are those of what it caches, computed or stored."""

    def check(self, cached, plain, frame):
        expected = plain(frame).sort_values(["qid", "docno"])
        for _ in range(2):
            found = cached(frame).sort_values(["qid", "docno"])
            np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
            assert found["rank"].tolist() == expected["rank"].tolist()

    @pytest.fixture
    def results(self, frame):
        """Without ties: a dense cache keeps scores in float32."""
        return frame.drop(columns=["score", "rank"])

    def test_scorer_caches(self, make, results, tmp_path):
        reranker = make()
        self.check(caching.ScorerCache(tmp_path / "sparse", reranker), reranker, results)
        dense = caching.DenseScorerCache(tmp_path / "dense", reranker)
        dense.build({"docno": docno} for docno in results["docno"])
        self.check(dense, reranker, results)

    def test_query_likelihood(self, results, tmp_path):
        llm = tiny_llm.save(tmp_path / "llm", "llama")
        reranker = QueryLikelihood(llm, dtype="float32", device="cpu")
        self.check(caching.ScorerCache(tmp_path / "sparse", reranker), reranker, results)

    def test_scorer_cache_gives_a_trained_reranker_old_scores(
        self, make, results, examples, tmp_path
    ):
        """Which is why there is a `RerankerCache`."""
        reranker = make(training=TRAINING)
        cached = caching.ScorerCache(tmp_path / "sparse", reranker)
        before = scores(cached, results)
        reranker.fit(examples)
        np.testing.assert_array_equal(scores(cached, results), before)

    def test_indexer_cache(self, results, tmp_path):
        """Queries are generated once, and stored twice."""

        class FirstWords:
            tokenizer = context = None
            chat = False

            def complete(self, prompts, **options):
                return [Completion(" ".join(p.split()[-4:-1]), [-1.0], "stop") for p in prompts]

            def describe(self):
                return {"model": "first-words"}

        documents = [{"docno": f"d{i}", "text": f"apple number {i} is ripe"} for i in range(5)]
        generator = QueryGenerator(FirstWords(), prompt="zero-shot")
        cache = caching.IndexerCache(tmp_path / "rows")
        (generator >> cache).index(documents)
        direct = SyntheticQueries(tmp_path / "direct")
        (generator >> direct).index(documents)
        stored = SyntheticQueries(tmp_path / "stored").index(cache.get_corpus_iter())
        pd.testing.assert_frame_equal(stored.get_results(), direct.get_results())


def test_retriever_cache_of_lucene(tmp_path):
    pytest.importorskip("pyserini", reason="needs the extra pyserini")
    words = ["river", "stone", "cloud"]
    index = LuceneIndex(tmp_path / "lucene")
    index.index({"docno": f"d{i}", "text": " ".join(words[: i + 1])} for i in range(3))
    bm25 = index.bm25()
    cached = caching.RetrieverCache(tmp_path / "results", bm25)
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["river stone", "cloud"]})
    expected = bm25(topics)
    for _ in range(2):
        pd.testing.assert_frame_equal(cached(topics)[expected.columns], expected)
