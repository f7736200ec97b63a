"""Each loss of each reranker: a run of one step trains, and one that diverges is an error."""

import math

import pytest
import torch
from tiny_training import CLASSES, QUICK, weights

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]
CASES = [
    pytest.param(cls, loss, id=f"{cls.__name__}-{loss}") for cls in CLASSES for loss in cls._losses
]


@pytest.mark.parametrize(("cls", "loss"), CASES)
class TestEveryLoss:
    def fitted(self, cls, loss, models, examples, **options):
        scored = examples.assign(score=examples["label"] + examples.index / 100)
        training = {"loss": loss, "per_device_train_batch_size": 4, "held_out": 0, **options}
        reranker = cls(models[cls], dtype="float32", device="cpu", training=training)
        start = weights(reranker).clone()
        return reranker, start, lambda: reranker.fit(scored)

    def test_one_step_trains(self, cls, loss, models, examples):
        """With the default warm-up and learning rate."""
        reranker, start, fit = self.fitted(cls, loss, models, examples, max_steps=1)
        fit()
        assert not torch.equal(weights(reranker), start)
        assert math.isfinite(reranker.train_loss)

    def test_divergence(self, cls, loss, models, examples):
        wild = {"learning_rate": 1e30, "max_grad_norm": 0, "max_steps": 4}
        reranker, start, fit = self.fitted(cls, loss, models, examples, **wild)
        with pytest.raises(
            ValueError, match="in float32 diverged at step [1-4].*nothing was saved"
        ):
            fit()
        assert reranker.train_loss is reranker.provenance is None
        assert torch.equal(weights(reranker), start)


@pytest.mark.parametrize(("steps", "warm_up"), [(1, 0), (9, 0), (10, 1), (25, 2)])
def test_warm_up(models, examples, steps, warm_up):
    """A tenth of the steps, rounded down: the learning rate is highest after it."""
    from pyterrier_inpars.rerankers import CrossEncoder

    training = {**QUICK, "max_steps": steps, "logging_steps": 1}
    reranker = CrossEncoder(models[CrossEncoder], training=training).fit(examples)
    rates = [entry["learning_rate"] for entry in reranker.history if "loss" in entry]
    assert len(rates) == steps and rates.index(max(rates)) == warm_up
