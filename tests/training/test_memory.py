import pytest
import tiny
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyterrier_inpars.training.memory import estimate_memory

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class Live(TorchDispatchMode):
    """The most bytes that were alive at once, of the tensors made meanwhile."""

    def __init__(self, network):
        super().__init__()
        weights = (x for w in network.parameters() for x in (w, w.grad) if x is not None)
        self.own = {tensor.untyped_storage()._cdata for tensor in weights}
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), options=None):
        out = function(*args, **(options or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.own:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        "T5": tiny.tiny_t5(folder / "t5"),
        "FLAN-T5": tiny.tiny_t5(folder / "flan", ("yes", "no"), kind="FLAN-T5"),
        "bert": tiny.tiny_classifier(folder / "bert", "bert", 1),
        "deberta-v2": tiny.tiny_classifier(folder / "deberta", "deberta-v2", 1),
    }


class TestMemory:
    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("lora", [None, {"r": 2}])
    @pytest.mark.parametrize("kind", ["T5", "FLAN-T5", "bert", "deberta-v2"])
    def test_estimate_is_that_of_a_real_network(self, networks, kind, lora, checkpointing):
        """Weights, gradients and AdamW's state to the byte; activations within 20 %."""
        from peft import LoraConfig, LoraModel
        from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

        seq2seq = kind.endswith("T5")
        loader = AutoModelForSeq2SeqLM if seq2seq else AutoModelForSequenceClassification
        network = loader.from_pretrained(networks[kind]).train()
        if lora:
            LoraModel(network.base_model, LoraConfig(target_modules="all-linear", **lora), "one")
        if checkpointing:
            network.activation_checkpointing_enable()
        ids = torch.full((16, 32), 7)
        inputs = {"labels": torch.full((16, 2), 7)} if seq2seq else {}
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
        with Live(network) as live:
            network(input_ids=ids, **inputs).logits.sum().backward()
        optimizer = torch.optim.AdamW(trained)
        optimizer.step()
        moments = [
            state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
        ]
        memory = estimate_memory(
            networks[kind], 16, 32, lora=lora, activation_checkpointing=checkpointing
        )
        assert memory.weights == sum(weight.nbytes for weight in network.parameters())
        assert memory.gradients == sum(weight.nbytes for weight in trained)
        assert memory.optimizer == sum(moment.nbytes for moment in moments)
        assert 0.8 < memory.activations / live.most < 1.1
        total = memory.weights + 3 * memory.gradients + memory.activations
        assert memory.total == total and "total" in str(memory)

    def test_grows_with_the_batch_and_shrinks_in_bfloat16(self, networks):
        small, large = (estimate_memory(networks["T5"], batch, 24) for batch in (2, 8))
        assert 3 < large.activations / small.activations <= 4.1
        half = estimate_memory(networks["T5"], 8, 24, "bfloat16")
        assert 0.4 < half.activations / large.activations < 1 and half.weights == large.weights

    def test_of_a_batch_the_activations_of_a_mini_batch_are_in_memory(self, networks):
        def estimate(*sizes, **options):
            return estimate_memory(networks["bert"], *sizes, 24, **options)

        assert estimate(64, mini_batch_size=4) == estimate(4)
        assert estimate(4, mini_batch_size=64) == estimate(4)
        with pytest.raises(ValueError, match="mini_batch_size must be a whole number"):
            estimate(4, mini_batch_size=0)
