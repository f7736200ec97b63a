"""Copies and pickles of used and trained rerankers, and how trained ones are shown."""

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
import torch
from tiny_training import CLASSES, QUICK, scores, weights

from pyterrier_inpars.rerankers import (
    BiEncoder,
    CrossEncoder,
    MonoT5,
    QueryLikelihood,
    RerankTop,
    ScoreFusion,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:.*without a scoring head",
        "ignore:The inplace keyword",
        "ignore:training did not help",
    ),
]

COPIES = {
    "pickle": lambda stage: pickle.loads(pickle.dumps(stage)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
UNPICKLE = """
import pickle, sys
import pandas as pd
stage, frame = pickle.load(open(sys.argv[1], "rb"))
stage(frame).to_pickle(sys.argv[2])
"""


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


@pytest.fixture(scope="module")
def trained(models, examples) -> dict[type, object]:
    options = {"dtype": "float32", "device": "cpu", "training": QUICK}
    return {cls: cls(models[cls], **options).fit(examples) for cls in CLASSES}


class TestCopies:
    def test_used(self, make, frame, copied):
        reranker = make(max_length=20)
        expected = scores(reranker, frame)
        for stage in (reranker, ScoreFusion(reranker), RerankTop(reranker, 2)):
            expected = stage(frame)
            pd.testing.assert_frame_equal(copied(stage)(frame), expected)
        assert copied(reranker)._network is None, "it is loaded on first use"

    def test_query_likelihood(self, frame, copied, tmp_path):
        reranker = QueryLikelihood(tiny_llm.save(tmp_path), dtype="float32")
        expected = scores(reranker, frame)
        np.testing.assert_array_equal(scores(copied(reranker), frame), expected)

    def test_trained(self, cls, trained, frame, copied):
        """The weights go along, also of a copy that was not used yet; the original stays."""
        reranker = trained[cls]
        expected, before = scores(reranker, frame), weights(reranker).clone()
        again = copied(copied(reranker))
        np.testing.assert_array_equal(scores(again, frame), expected)
        assert torch.equal(weights(again), before)
        assert (again.provenance, again.history) == (reranker.provenance, reranker.history)
        assert repr(again) == repr(reranker)
        with torch.no_grad():
            for weight in again.network.parameters():
                weight.zero_()
        np.testing.assert_array_equal(scores(reranker, frame), expected)

    def test_training_goes_on_in_a_copy(self, cls, models, examples):
        reranker = cls(models[cls], dtype="float32", training=QUICK).fit(examples)
        again = copy.deepcopy(reranker)
        assert torch.equal(weights(again.fit(examples)), weights(reranker.fit(examples)))
        assert again.provenance["before"]

    def test_another_model_for_a_copy(self, models, trained, frame, tmp_path):
        again = copy.deepcopy(trained[BiEncoder])
        other = trained[BiEncoder].save(tmp_path / "other")
        again.set_parameter("model", models[BiEncoder])
        assert "@" in repr(again), "the same model"
        again.set_parameter("model", str(other))
        assert scores(again, frame).tolist() == scores(trained[BiEncoder], frame).tolist()
        assert again.provenance is None

    def test_another_process(self, trained, frame, tmp_path):
        """As Ray's workers."""
        pipeline = ScoreFusion(RerankTop(trained[MonoT5], 3)) >> trained[CrossEncoder]
        pipeline = ScoreFusion(pipeline >> ScoreFusion(trained[BiEncoder]))
        (tmp_path / "stage").write_bytes(pickle.dumps((pipeline, frame)))
        subprocess.run(
            [sys.executable, "-c", UNPICKLE, tmp_path / "stage", tmp_path / "scores"], check=True
        )
        found = pd.read_pickle(tmp_path / "scores").set_index("docno")["score"]
        expected = pipeline(frame).set_index("docno")["score"]
        np.testing.assert_allclose(found[expected.index], expected, atol=1e-5)

    def test_int8(self, models, examples):
        pytest.importorskip("torchao")
        used = CrossEncoder(models[CrossEncoder], dtype="int8")
        expected = scores(used, examples)
        np.testing.assert_array_equal(scores(copy.deepcopy(used), examples), expected)
        trained = CrossEncoder(models[CrossEncoder], training=QUICK).fit(examples)
        trained.set_parameter("dtype", "int8")
        with pytest.raises(ValueError, match="cannot be copied, .* train and save with another"):
            pickle.dumps(trained)


class TestRepr:
    def test_trained(self, cls, models, trained, examples, tmp_path):
        """Start, two trainings and a saved folder: the weights make the difference."""
        options = {"dtype": "float32", "device": "cpu"}
        other = cls(models[cls], **options, training=QUICK | {"seed": 1})
        before = repr(other)
        other.fit(examples)
        assert re.fullmatch(re.escape(before) + "@[0-9a-f]{8}", repr(other))
        reranker = trained[cls]
        digits = repr(reranker)[-8:]
        assert digits == reranker.provenance["weights"][:8] != repr(other)[-8:]
        saved = cls(reranker.save(tmp_path), **options)
        assert repr(saved).endswith(f"@{digits}") and saved._network is None
        reranker.set_parameter("model", "another")
        assert "@" not in repr(reranker)
        reranker.set_parameter("model", models[cls])
        assert repr(saved.network) and repr(saved).endswith(f"@{digits}")
        assert not repr(saved.fit(examples)).endswith(f"@{digits}")

    def test_start_kept(self, cls, models, examples, tmp_path):
        """A training that changes nothing is not seen, also after saving."""
        still = QUICK | {"learning_rate": 0.0, "held_out": 0.3}
        reranker = cls(models[cls], dtype="float32", training=still)
        before = repr(reranker)
        assert reranker.fit(examples).provenance["verdict"]["kept"] == "start"
        assert repr(reranker) == repr(copy.deepcopy(reranker)) == before
        assert "@" not in repr(cls(reranker.save(tmp_path)))

    def test_names_of_an_experiment(self, models, trained, frame):
        start = BiEncoder(models[BiEncoder], dtype="float32", device="cpu", training=QUICK)
        qrels = frame[["qid", "docno"]].assign(label=1)
        topics = frame[["qid", "query"]].drop_duplicates()
        results = pt.Transformer.from_df(frame)
        systems = [results >> start, results >> trained[BiEncoder]]
        names = pt.Experiment(systems, topics, qrels, ["ndcg_cut_10"])["name"]
        assert names.nunique() == 2


class TestTextFields:
    def test_several(self, make, frame):
        """They are joined by spaces; missing ones are left out."""
        titles = [None if i % 3 == 0 else f"{text[:9]} " for i, text in enumerate(frame["text"])]
        several = frame.assign(title=titles)
        joined = [
            " ".join(filter(None, [(title or "").strip(), text.strip()]))
            for title, text in zip(titles, frame["text"], strict=True)
        ]
        reranker = make(text_field=["title", "text"])
        expected = scores(make(), frame.assign(text=joined))
        np.testing.assert_array_equal(scores(reranker, several), expected)
        assert pt.inspect.transformer_inputs(reranker) == [
            ["qid", "query", "docno", "title", "text"]
        ]
        with pytest.raises(pt.validate.InputValidationError, match="title"):
            reranker(frame)

    def test_training(self, cls, models, examples):
        """As on the joined text, in training and validation."""
        fields = examples.assign(head=examples["text"].str[:8], text=examples["text"].str[8:])
        texts = fields["head"].str.strip() + " " + fields["text"].str.strip()
        fields["score"] = fields["label"]
        joined = fields.assign(text=texts)
        losses = ["in_batch", "margin_mse"] if cls is BiEncoder else ["pointwise", "listwise"]
        for loss, held_out in zip(losses, [0, 0.3], strict=True):
            training = QUICK | {"loss": loss, "held_out": held_out}
            options = {"dtype": "float32", "training": training}
            first = cls(models[cls], text_field=["head", "text"], **options).fit(fields)
            second = cls(models[cls], **options).fit(joined)
            assert torch.equal(weights(first), weights(second))
            assert first.train_loss == second.train_loss
            settings = [r.provenance["settings"] for r in (first, second)]
            assert settings[0]["examples"] == settings[1]["examples"]
            assert settings[0].get("validation") == settings[1].get("validation")
