"""Scores computed by OpenVINO are those of PyTorch."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import tiny
import tiny_llm
import torch
from tiny_training import QUICK, scores

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, ScoreFusion

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:.*without a scoring head", "ignore:.*reach the limit", "ignore:The inplace keyword"
    ),
]
ENCODERS = [CrossEncoder, BiEncoder]
CLASSIFIERS = ["roberta", "electra", "distilbert", "xlm-roberta"]


@pytest.fixture(params=ENCODERS, ids=lambda cls: cls.__name__)
def encoder(request) -> type:
    return request.param


@pytest.fixture
def sides(encoder, models):
    """Makes a reranker that computes in PyTorch, and the same in OpenVINO."""
    pytest.importorskip("openvino")

    def make(**options):
        options = {"dtype": "float32", "device": "cpu", **options}
        model = models[encoder]
        return encoder(model, **options), encoder(model, backend="openvino", **options)

    return make


class TestScores:
    def test_float32(self, sides, frame):
        """Of texts of all lengths, an empty one too, alone and in batches of other sizes."""
        expected, found = sides()
        np.testing.assert_allclose(scores(found, frame), scores(expected, frame), atol=1e-6)
        one = frame.iloc[[1]]
        np.testing.assert_allclose(scores(found, one), scores(expected, one), atol=1e-6)
        assert len(found._openvino._converted) == 1, "converted again for another batch"

    def test_bfloat16(self, sides, frame):
        exact, _ = sides()
        _, found = sides(dtype="bfloat16")
        assert np.corrcoef(scores(found, frame), scores(exact, frame))[0, 1] > 0.98
        import openvino

        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            difference = np.abs(scores(found, frame) - scores(exact, frame)).max()
            assert difference > 1e-6, "not in bfloat16"

    def test_an_empty_frame(self, sides, frame):
        expected, found = sides()
        assert found(frame.head(0)).columns.tolist() == expected(frame.head(0)).columns.tolist()

    def test_trained_weights(self, sides, examples, frame):
        """They are converted again, also after the second training of an object."""
        _, found = sides(training=QUICK)
        before = scores(found, frame)
        for _ in range(2):
            found.fit(examples)
            trained = scores(found, frame)
            found.set_parameter("backend", "torch")
            np.testing.assert_allclose(trained, scores(found, frame), atol=1e-6)
            found.set_parameter("backend", "openvino")
            assert np.abs(trained - before).max() > 1e-4
            before = trained

    def test_copies(self, sides, frame):
        _, found = sides()
        expected = scores(found, frame)
        for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert again.backend == "openvino" and repr(again) == repr(found)
            np.testing.assert_array_equal(scores(again, frame), expected)

    def test_in_a_fusion(self, sides, frame):
        expected, found = (ScoreFusion(side) for side in sides())
        np.testing.assert_allclose(scores(found, frame), scores(expected, frame), atol=1e-4)

    def test_fingerprint(self, sides):
        expected, found = sides()
        assert found.scores_fingerprint() == expected.scores_fingerprint()


def test_pooling_that_changes(models, frame):
    """With the first token alone, the last layer is converted without the others."""
    pytest.importorskip("openvino")
    options = {"dtype": "float32", "device": "cpu"}
    expected = BiEncoder(models[BiEncoder], **options)
    found = BiEncoder(models[BiEncoder], backend="openvino", **options)
    for pooling in ("cls", "mean"):
        for side in (expected, found):
            side.set_parameter("pooling", pooling)
        np.testing.assert_allclose(scores(found, frame), scores(expected, frame), atol=1e-6)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_other_encoders(kind, frame, tmp_path):
    pytest.importorskip("openvino")
    path = tiny.tiny_classifier(tmp_path, kind, 1)
    expected, found = (
        CrossEncoder(path, dtype="float32", device="cpu", backend=backend)
        for backend in ("torch", "openvino")
    )
    np.testing.assert_allclose(scores(found, frame), scores(expected, frame), atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3", "gpt2", "llama"])
def test_a_language_model(kind, encoder, frame, tmp_path):
    """OpenVINO gives NaN for rows without a token to attend to, which decoders have."""
    pytest.importorskip("openvino")
    path = tiny_llm.save(tmp_path, kind)
    reranker = encoder(path, dtype="float32", device="cpu", backend="openvino")
    with pytest.raises(ValueError, match="is a causal language model: give backend='torch'"):
        reranker(frame)


@pytest.mark.parametrize("dim", [0, 1], ids=["rows", "tokens"])
def test_an_encoder_that_a_trace_does_not_describe(dim):
    """One whose output depends on the number of rows or tokens in Python."""
    pytest.importorskip("openvino")
    from transformers.modeling_outputs import BaseModelOutput

    from pyterrier_inpars._compute.openvino import OpenVinoEncoders

    class Encoder(torch.nn.Module):
        def forward(self, rows, return_dict=True):
            size = len(rows.transpose(0, dim))
            return BaseModelOutput(last_hidden_state=rows.cumsum(0) - 10.0 * size)

    encoder, rows = Encoder(), torch.ones(40, 3)
    converted = OpenVinoEncoders().instead_of([encoder], torch.float32, "state")
    with converted, pytest.raises(ValueError, match="OpenVINO computes other numbers .* Encoder"):
        encoder(rows)


class TestErrors:
    def test_unknown_backend(self, encoder, models):
        with pytest.raises(ValueError, match="must be 'torch' or 'openvino', not 'onnx'"):
            encoder(models[encoder], backend="onnx")

    def test_a_class_without_backends(self, models, frame):
        """Also when the parameter is changed after the constructor."""
        error = "of MonoT5 must be 'torch', not 'openvino'"
        with pytest.raises(ValueError, match=error):
            MonoT5(models[MonoT5], backend="openvino")
        reranker = MonoT5(models[MonoT5], device="cpu")
        reranker.set_parameter("backend", "openvino")
        with pytest.raises(ValueError, match=error):
            reranker(frame)

    @pytest.mark.parametrize("options", [{"compile": True}, {"dtype": "int8"}])
    def test_options_of_torch(self, encoder, models, options):
        with pytest.raises(ValueError, match="is for backend='torch'"):
            encoder(models[encoder], backend="openvino", **options)

    def test_float16(self, sides, frame):
        _, reranker = sides(dtype="float16")
        with pytest.raises(ValueError, match="float32 or bfloat16, not torch.float16"):
            reranker(frame)

    def test_not_installed(self, encoder, models, frame, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        reranker = encoder(models[encoder], dtype="float32", backend="openvino", device="cpu")
        with pytest.raises(ModuleNotFoundError, match=r"pyterrier_inpars\[openvino\]"):
            reranker(frame)


def test_the_default_prompt_of_a_cross_encoder(models, frame, tmp_path):
    pytest.importorskip("openvino")
    path = CrossEncoder(models[CrossEncoder], dtype="float32").save(tmp_path / "checkpoint")
    file = path / "config_sentence_transformers.json"
    known = {"prompts": {"search": "about the "}, "default_prompt_name": "search"}
    file.write_text(json.dumps(json.loads(file.read_text()) | known))
    options = {"dtype": "float32", "device": "cpu"}
    plain, openvino = (CrossEncoder(path, backend=b, **options) for b in ("torch", "openvino"))
    np.testing.assert_allclose(scores(openvino, frame), scores(plain, frame), atol=1e-5)
