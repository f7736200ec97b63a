"""A training that ends early leaves the reranker as it was."""

import json

import numpy as np
import pytest
import torch
from tiny_training import QUICK, scores, weights

from pyterrier_inpars.rerankers import BiEncoder
from pyterrier_inpars.training.provenance import TRAINING_FILE, weights_fingerprint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]
LONG = QUICK | {"max_steps": 6, "learning_rate": 1e-2}


@pytest.fixture
def fails(monkeypatch):
    """Raises an error at the fourth step of a fit."""
    from transformers import Trainer

    def fails(error, reranker, examples, raised=None):
        whole = Trainer.training_step

        def training_step(self, *args, **more):
            if self.state.global_step == 3:
                raise error
            return whole(self, *args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "training_step", training_step)
            with pytest.raises(raised or type(error)) as found:
                reranker.fit(examples)
        return str(found.value)

    return fails


@pytest.fixture
def make(cls, models):
    def make(**more):
        return cls(models[cls], dtype="float32", device="cpu", training=LONG | more)

    return make


@pytest.mark.parametrize("more", [{}, {"held_out": 0.4}, {"lora": True}])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")], ids=repr)
def test_the_next_training_is_a_first_one(make, fails, examples, error, more):
    if more.get("lora"):
        pytest.importorskip("peft")
    reranker, fresh = make(**more), make(**more)
    start, name = weights(reranker).clone(), repr(reranker)
    before = scores(reranker, examples)
    fails(error, reranker, examples)
    assert torch.equal(weights(reranker), start) and repr(reranker) == name
    assert reranker.provenance is reranker.train_loss is None
    np.testing.assert_array_equal(scores(reranker, examples), before)
    assert torch.equal(weights(reranker.fit(examples)), weights(fresh.fit(examples)))
    assert "before" not in reranker.provenance


def test_the_same_object_resumes(make, fails, examples, tmp_path):
    """The folder keeps the checkpoint, and the weights are those that its training began with."""
    output = {"output_dir": tmp_path / "out", "save_steps": 2}
    reranker = make(**output)
    fails(KeyboardInterrupt(), reranker, examples)
    assert (tmp_path / "out" / "checkpoint-2").is_dir()
    expected = make(output_dir=tmp_path / "whole", save_steps=2).fit(examples)
    assert torch.equal(weights(reranker.fit(examples)), weights(expected))


def test_a_trained_reranker_keeps_its_provenance(make, fails, cls, examples, tmp_path):
    path = make().fit(examples).save(tmp_path / "trained")
    reranker = cls(path, dtype="float32", device="cpu", training=LONG)
    before, name = scores(reranker, examples), repr(reranker)
    fails(KeyboardInterrupt(), reranker, examples)
    assert repr(reranker) == name
    np.testing.assert_array_equal(scores(reranker, examples), before)
    known = json.loads((reranker.save(tmp_path / "again") / TRAINING_FILE).read_text())
    assert known["weights"] == weights_fingerprint(reranker.network)


def test_a_batch_that_does_not_fit(make, cls, fails, examples):
    """The error says which options need less memory."""
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    reranker = make()
    start = weights(reranker).clone()
    error = fails(full, reranker, examples, MemoryError)
    for option in ("per_device_train_batch_size than 4 with effective_batch=4", "lora=True"):
        assert option in error
    assert "activation_checkpointing=True" in error
    assert ("mini_batch_size=1" in error) == (cls is BiEncoder)
    assert torch.equal(weights(reranker), start)
