import sys

import numpy as np
import pytest
import torch
from tiny_training import QUICK, make_examples, ndcg, weights

from pyterrier_inpars.rerankers import CrossEncoder

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


def named(reranker) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in reranker.network.named_parameters()}


class TestLora:
    def test_trains_matrices_of_low_rank(self, make, cls, examples):
        """Each linear layer of the encoder changes by a matrix of low rank; a new head in full."""
        reranker = make({"lora": {"r": 2}, "learning_rate": 1e-2})
        before = named(reranker)
        layers = dict(reranker.network.named_modules())
        after = named(reranker.fit(examples))
        assert after.keys() == before.keys()
        ranks = set()
        for name, weight in after.items():
            change = weight - before[name]
            layer = layers[name.rpartition(".")[0]]
            if "classifier" in name:
                assert change.abs().max() > 0
            elif name.endswith("weight") and type(layer) is torch.nn.Linear:
                ranks.add(int(torch.linalg.matrix_rank(change, rtol=1e-4)))
            else:
                assert torch.equal(weight, before[name]), f"{name} was trained"
        assert ranks <= {0, 1, 2} and 2 in ranks
        assert ("classifier.weight" in str(list(after))) == (cls is CrossEncoder)

    def test_merged_weights_score_as_the_matrices_did(self, make, examples, monkeypatch):
        from peft import LoraModel

        reranker, scores = make({"lora": True, "learning_rate": 1e-2}), []
        merge = LoraModel.merge_and_unload

        def score_and_merge(self, *args, **options):
            reranker.network.eval()
            scores.append(reranker(examples)["score"].to_numpy())
            return merge(self, *args, **options)

        monkeypatch.setattr(LoraModel, "merge_and_unload", score_and_merge)
        untrained = reranker(examples)["score"]
        merged = reranker.fit(examples)(examples)["score"]
        np.testing.assert_allclose(merged, scores[0], atol=1e-5)
        assert np.abs(merged - untrained).max() > 0.01

    def test_needs_no_peft_to_load(self, make, cls, examples, tmp_path, monkeypatch):
        trained = make({"lora": True}).fit(examples)
        path = trained.save(tmp_path / "saved")
        assert not list(path.rglob("adapter*"))
        monkeypatch.setitem(sys.modules, "peft", None)
        loaded = cls(path, dtype="float32", device="cpu", training=QUICK)
        np.testing.assert_array_equal(loaded(examples)["score"], trained(examples)["score"])
        loaded.fit(examples)
        loaded.training = {"lora": True}
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier_inpars\[lora\]'"):
            loaded.fit(examples)

    def test_checkpoints_hold_only_trained_weights(self, make, cls, examples, tmp_path):
        from safetensors import safe_open

        training = {"lora": {"r": 2}, "save_steps": 1, "learning_rate": 1e-2}
        trained = make(training | {"output_dir": tmp_path}).fit(examples)
        for step in (1, 2, 3):
            with safe_open(tmp_path / f"checkpoint-{step}" / "model.safetensors", "pt") as file:
                names = set(file.keys())
            assert names and all("lora_" in name or "classifier" in name for name in names)
        settings = trained.provenance["settings"]["lora"]
        assert settings == {
            "r": 2, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"
        }  # fmt: skip
        assert "peft" in trained.provenance["versions"]
        assert "'r': 2" in (trained.save(tmp_path / "saved") / "README.md").read_text()

    def test_best_checkpoint_is_merged(self, make, examples):
        """And not the last one."""
        results = make_examples(16, 4, 1, "class")
        qrels = results[["qid", "docno", "label"]].assign(label=1 - results["label"])
        training = {"lora": True, "max_steps": 6, "learning_rate": 3e-2, "eval_steps": 1}
        reranker = make(training).fit(make_examples(24, 2, 0, "class"), None, results, qrels)
        values = [e["eval_nDCG@10"] for e in reranker.history if "eval_nDCG@10" in e]
        assert len(set(values)) > 1
        known = reranker.verdict.set_index("system")["nDCG@10"]
        assert known["trained"] == pytest.approx(max(values), abs=1e-6)
        assert ndcg(reranker, results, qrels) == pytest.approx(known.max(), abs=1e-6)

    def test_next_training_trains_all_weights(self, make, examples):
        """After a training with LoRA, and after one that was interrupted."""
        from transformers import Trainer

        class Stopped(Exception):
            pass

        def stopped(*_, **__):
            raise Stopped

        reranker = make({"lora": True})
        names = named(reranker).keys()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "training_step", stopped)
            with pytest.raises(Stopped):
                reranker.fit(examples)
        assert named(reranker).keys() == names
        whole = make()
        reranker.training = whole.training
        assert torch.equal(weights(reranker.fit(examples)), weights(whole.fit(examples)))

    @pytest.mark.parametrize("more, stored", [({}, True), ({"lora": True}, False)])
    def test_a_failed_training_restores_what_it_changed(
        self, make, cls, examples, tmp_path, monkeypatch, more, stored
    ):
        """With LoRA, the frozen weights are not stored for it; the scoring head is restored."""
        from transformers import Trainer

        reranker = make(more | {"output_dir": tmp_path, "learning_rate": 1e-1, "save_steps": 100})
        start = named(reranker)
        sizes, step = [], Trainer.training_step

        def stopped(trainer, *args, **options):
            sizes.extend(file.stat().st_size for file in tmp_path.glob("weights-*/*"))
            if len(sizes) == 3:
                raise KeyboardInterrupt
            return step(trainer, *args, **options)

        monkeypatch.setattr(Trainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            reranker.fit(examples)
        for name, weight in named(reranker).items():
            assert torch.equal(weight, start[name])
        whole = sum(weight.numel() * 4 for weight in start.values())
        assert (max(sizes) >= whole) == stored and len(set(sizes)) == 1

    def test_frozen_weights_stay_frozen(self, make, examples):
        reranker = make({"lora": True})
        next(reranker.network.parameters()).requires_grad_(False)
        reranker.fit(examples)
        first, *others = reranker.network.parameters()
        assert not first.requires_grad and all(weight.requires_grad for weight in others)

    def test_bad_options(self, make, examples):
        with pytest.raises(
            TypeError, match="lora has no option 'lora_alfa': did you mean 'lora_alpha'"
        ):
            make({"lora": {"lora_alfa": 4}})
        with pytest.raises(TypeError, match="lora must be True or a dict .* not 16"):
            make({"lora": 16})
        with pytest.raises(ValueError, match="no_such_layer"):
            make({"lora": {"target_modules": ["no_such_layer"]}}).fit(examples)
        assert torch.equal(
            weights(make({"lora": False}).fit(examples)), weights(make().fit(examples))
        )
