"""What the page on caching says of pt.Experiment's options and of RetrieverCache."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR, nDCG
from tiny_training import QUICK, make_examples

from pyterrier_inpars import BiEncoder, NegativeMiner, RoundTripFilter, ScoreFusion, VectorPRF

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:.*not validated"),
]
MEASURES = [nDCG @ 10, RR @ 10]


class Counted(pt.Transformer):
    """Applies a transformer, and counts calls and rows."""

    def __init__(self, inner):
        self.inner = inner
        self.calls = self.rows = 0

    def transform_inputs(self):
        return pt.inspect.transformer_inputs(self.inner)

    def transform_outputs(self, columns):
        return pt.inspect.transformer_outputs(self.inner, columns)

    def transform(self, inp):
        self.calls += len(inp) > 0
        self.rows += len(inp)
        return self.inner(inp)


@pytest.fixture
def encoder(models):
    return BiEncoder(models[BiEncoder], dtype="float32", device="cpu", vector_cache=1000)


@pytest.fixture
def first(frame):
    """A first stage with texts."""
    return Counted(pt.Transformer.from_df(frame[["qid", "docno", "text", "score", "rank"]]))


@pytest.fixture
def topics(frame):
    return frame[["qid", "query"]].drop_duplicates().reset_index(drop=True)


@pytest.fixture
def qrels(frame):
    return frame.groupby("qid").tail(1)[["qid", "docno"]].assign(label=1)


@pytest.fixture
def systems(first, encoder):
    fused = ScoreFusion(encoder)
    return {
        "first": first,
        "encoder": first >> encoder,
        "fused": first >> fused,
        "feedback": first >> fused >> VectorPRF(encoder),
    }


def experiment(systems, topics, qrels, **options):
    return pt.Experiment(
        list(systems.values()), topics, qrels, MEASURES, names=list(systems), **options
    )


def test_a_tree_gives_the_results_of_a_line(systems, topics, qrels, first):
    line = experiment(systems, topics, qrels)
    assert first.calls == len(systems)
    tree = experiment(systems, topics, qrels, plan="tree", verbose=False)
    assert first.calls == len(systems) + 1  # once for all
    pd.testing.assert_frame_equal(line, tree)


def test_precompute_prefix_is_the_deprecated_form(systems, topics, qrels, first):
    line = experiment(systems, topics, qrels)
    calls = first.calls
    with pytest.warns(DeprecationWarning, match="plan='tree'"):
        prefix = experiment(systems, topics, qrels, precompute_prefix=True)
    assert first.calls == calls + 1
    pd.testing.assert_frame_equal(line, prefix)


def test_equal_query_encoders_are_one_stage(tmp_path, encoder, frame, topics, qrels, monkeypatch):
    dr = pytest.importorskip("pyterrier_dr", reason="needs the extra dense")
    index = dr.FlexIndex(str(tmp_path / "flex"), verbose=False)
    documents = frame[["docno", "text"]].to_dict("records")
    (encoder.doc_encoder() >> index).index(documents)
    encoder.vector_cache = 0
    encoded = []
    encode = BiEncoder.encode
    monkeypatch.setattr(
        BiEncoder,
        "encode",
        lambda self, texts, task: encoded.append(task) or encode(self, texts, task),
    )
    systems = {
        f"top {k}": encoder.query_encoder() >> index.retriever(num_results=k) for k in (3, 5)
    }
    line = experiment(systems, topics, qrels)
    assert encoded == ["query"] * 2
    tree = experiment(systems, topics, qrels, plan="tree", verbose=False)
    assert encoded == ["query"] * 3
    pd.testing.assert_frame_equal(line, tree)


class TestSavedResults:
    def test_they_give_the_same_measures(self, tmp_path, systems, topics, qrels, first):
        options = {"save_dir": str(tmp_path), "save_mode": "reuse"}
        expected = experiment(systems, topics, qrels, **options)
        calls = first.calls
        pd.testing.assert_frame_equal(experiment(systems, topics, qrels, **options), expected)
        assert first.calls == calls
        assert {"encoder.res.gz", "first.res.gz"} <= {path.name for path in tmp_path.iterdir()}

    def test_they_are_known_by_name_alone(self, tmp_path, first, encoder, topics, qrels):
        """So a trained encoder needs another name, such as one with its fingerprint."""
        options = {"save_dir": str(tmp_path), "save_mode": "reuse"}
        before = experiment({"encoder": first >> encoder}, topics, qrels, **options)
        encoder.training = QUICK | {"learning_rate": 0.1}
        encoder.fit(make_examples(12, 2, 0, "pair"))
        after = experiment({"encoder": first >> encoder}, topics, qrels, **options)
        pd.testing.assert_frame_equal(before, after)
        name = repr(encoder)[-8:]
        experiment({name: first >> encoder}, topics, qrels, **options)
        files = [path for path in tmp_path.iterdir() if path.suffix == ".gz"]
        assert len(files) == 2 and len({path.read_bytes()[20:] for path in files}) == 2

    def test_not_with_a_tree(self, tmp_path, systems, topics, qrels):
        with pytest.raises(ValueError, match="save_dir is not yet supported"):
            experiment(systems, topics, qrels, plan="tree", save_dir=str(tmp_path))


@pytest.mark.filterwarnings("ignore:the retriever returned at most")
def test_a_cached_retriever(tmp_path, frame):
    caching = pytest.importorskip("pyterrier_caching")
    rng = np.random.default_rng(0)
    queries = frame.drop_duplicates("docno").assign(
        qid=[f"q{i}" for i in range(15)], query=[f"query {i % 9}" for i in range(15)]
    )
    rows = [
        (qid, query, f"d{d}", -float(rank), rank, f"text {d}")
        for qid, query in zip(queries["qid"], queries["query"], strict=True)
        for rank, d in enumerate(rng.permutation(15)[:10])
    ]
    columns = ["qid", "query", "docno", "score", "rank", "text"]
    retriever = Counted(pt.Transformer.from_df(pd.DataFrame(rows, columns=columns)))
    for number, on in enumerate([None, "query"]):
        cached = caching.RetrieverCache(str(tmp_path / f"{number}.cache"), retriever, on=on)
        for stage in (
            lambda of: RoundTripFilter(of, k=5),
            lambda of: NegativeMiner(of, num_negatives=2, depth=8),
        ):
            expected = stage(retriever)(queries)
            pd.testing.assert_frame_equal(stage(cached)(queries), expected)
            asked = retriever.rows
            pd.testing.assert_frame_equal(stage(cached)(queries), expected)
            assert retriever.rows == asked
