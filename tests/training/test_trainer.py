import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
import transformers
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_training import make_examples, weights
from torch.utils.data import BatchSampler
from transformers.modeling_layers import GradientCheckpointingLayer

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.training._trainer_parts import SharedBatches
from pyterrier_inpars.training.provenance import TRAINING_FILE

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestFit:
    def test_last_stage_of_a_pipeline_gets_its_input(self, make, examples):
        """Compose.fit passes arguments by position; a fit on the frame alone does the same."""
        last, alone = make(), make()
        pipeline = pt.apply.text(lambda row: row["text"] + " cloud") >> last
        pipeline.fit(examples, None)
        assert alone.fit(examples.assign(text=examples["text"] + " cloud")) is alone
        assert torch.equal(weights(last), weights(alone))

    def test_seed_decides_the_weights(self, make, examples):
        first, again, other = (make({"seed": seed}).fit(examples) for seed in (0, 0, 1))
        assert torch.equal(weights(first), weights(again))
        assert not torch.allclose(weights(first), weights(other))

    def test_history_and_mean_loss(self, make, examples):
        reranker = make({"logging_steps": 1})
        assert (reranker.history, reranker.train_loss) == ([], None)
        reranker.fit(examples)
        losses = [entry["loss"] for entry in reranker.history if "loss" in entry]
        assert len(losses) == 3
        assert reranker.train_loss == pytest.approx(np.mean(losses), rel=1e-3)

    def test_second_fit_starts_from_the_trained_weights(self, make, examples):
        reranker = make()
        start = weights(reranker)
        once = weights(reranker.fit(examples))
        assert not torch.equal(start, once)
        steps = (weights(reranker.fit(examples)) - once).norm(), (once - start).norm()
        assert 0 < steps[0] < 2 * steps[1]
        loss = reranker.train_loss
        assert reranker.fit(examples).train_loss < loss

    def test_saved_reranker_scores_the_same(self, make, cls, examples, tmp_path):
        trained = make().fit(examples)
        expected = trained(examples)["score"]
        loaded = cls(trained.save(tmp_path / "checkpoint"), dtype="float32", device="cpu")
        np.testing.assert_array_equal(loaded(examples)["score"], expected)
        assert not np.allclose(make()(examples)["score"], expected), "training changed nothing"

    def test_leaves_the_network_in_eval_mode_and_float32(self, make, examples):
        """In float32, in eval mode, and free of the precision that it was trained in."""
        reranker = make(dtype="bfloat16").fit(examples)
        network = reranker.network
        assert not network._forward_hooks
        assert not any(module.training for module in network.modules())
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        rounded, reranker.dtype = reranker(examples)["score"], "float32"
        exact = reranker(examples)["score"]
        assert 0 < np.abs(rounded - exact).max() < 0.1
        first = reranker.fit(examples).train_loss
        assert np.isfinite(first)

    def test_label_dtype_and_index_do_not_matter(self, make, examples):
        """Labels may be bools, and the index anything."""
        form = examples.astype({"label": bool}).set_index(examples.index[::-1])
        assert torch.equal(weights(make().fit(form)), weights(make().fit(examples)))

    def test_prints_only_if_verbose(self, make, examples, capfd):
        reranker = make().fit(examples)
        reranker(examples)
        out, err = capfd.readouterr()
        assert out + err == ""
        make(verbose=True).fit(examples)
        lines = [line for line in capfd.readouterr().err.splitlines() if "training:" in line]
        assert len(lines) == 1  # not a bar of transformers
        assert "training: 3 of 3 steps (100%), " in lines[0] and ", loss " in lines[0]
        assert transformers.utils.logging.is_progress_bar_enabled()

    def test_output_dir_or_a_temporary_folder(self, make, examples, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        make().fit(examples)
        assert list(tmp_path.iterdir()) == [], "the temporary folder is left"
        steps = {"save_strategy": "steps", "save_steps": 2}
        make(steps | {"output_dir": tmp_path / "kept"}).fit(examples)
        assert (tmp_path / "kept" / "checkpoint-2").is_dir()

    def test_training_arguments_override_the_defaults(self, make, examples):
        reranker = make({"max_steps": -1, "num_train_epochs": 2, "logging_steps": 1})
        rates = [e["learning_rate"] for e in reranker.fit(examples).history if "loss" in e]
        assert reranker.history[-1]["epoch"] == 2 and max(rates) <= 1e-3


class TestQrels:
    """PyTerrier's own way to train: ``pipeline.fit(topics, qrels)``."""

    def test_labels_are_merged(self, make, examples):
        """Graded labels above 0 are relevant; pairs that are not judged are not."""
        qrels = examples[["qid", "docno", "label"]].assign(label=examples["label"] * 2)
        qrels = pd.concat([qrels[qrels["label"] > 0], qrels.head(2).assign(qid="other")])
        results = examples.drop(columns="label")
        pipeline = pt.Transformer.from_df(results) >> make()
        pipeline.fit(results[["qid", "query"]].drop_duplicates(), qrels)
        expected = weights(make().fit(examples))
        assert torch.equal(weights(pipeline[-1]), expected)
        opposite = examples.assign(label=1 - examples["label"])
        assert torch.equal(weights(make().fit(opposite, qrels)), expected)

    def test_neither_labels_nor_qrels(self, make, examples):
        with pytest.raises(
            pt.validate.InputValidationError, match="give fit.results, qrels.*label"
        ):
            make().fit(examples.drop(columns="label"))

    def test_qrels_of_other_ids(self, make, examples):
        qrels = examples[["qid", "docno", "label"]]
        with pytest.raises(ValueError, match="no example is relevant by the qrels"):
            make().fit(examples, qrels.assign(qid=range(len(qrels))))
        with pytest.raises(pt.validate.InputValidationError, match="docno"):
            make().fit(examples, qrels.drop(columns="docno"))

    def test_pair_judged_twice(self, make, examples):
        qrels = examples[["qid", "docno", "label"]]
        same, other = (pd.concat([qrels, qrels.tail(1).assign(label=n)]) for n in (0, 1))
        for arguments in ((other,), (None, examples, other)):
            with pytest.raises(ValueError, match="docno 'd11.2' for qid 'q11' twice, as .0, 1."):
                make().fit(examples, *arguments)
        assert torch.equal(weights(make().fit(examples, same)), weights(make().fit(examples)))


class TestExamplesThatCannotBeTrainedOn:
    def test_missing_column(self, make, examples):
        for column in ("qid", "query", "docno", "text", "label"):
            with pytest.raises(pt.validate.InputValidationError, match=column):
                make().fit(examples.drop(columns=column))

    def test_empty_frame(self, make, examples):
        with pytest.raises(ValueError, match="no examples to train on"):
            make().fit(examples.head(0))

    def test_no_positive(self, make, examples):
        with pytest.raises(ValueError, match="no example has label 1"):
            make().fit(examples[examples["label"] == 0])

    def test_no_negative(self, make, cls, examples):
        positives = examples[examples["label"] == 1]
        if cls is BiEncoder:
            assert make().fit(positives).train_loss > 0
        else:
            with pytest.raises(ValueError, match="no example has label 0"):
                make().fit(positives)

    @pytest.mark.parametrize("label", [2, -1, 0.5, None, "1"])
    def test_label(self, make, examples, label):
        labels = examples["label"].astype(object)
        labels[4] = label
        with pytest.raises(ValueError, match="label must be 1 .* or 0"):
            make().fit(examples.assign(label=labels))

    def test_not_a_string(self, make, examples):
        texts = examples["text"].astype(object)
        texts[1] = np.nan
        with pytest.raises(ValueError, match="text must be a string.*'q0'.*'d0.1'"):
            make().fit(examples.assign(text=texts))

    def test_listwise_without_a_list(self, models, examples):
        apart = examples.assign(qid=examples["docno"])
        with pytest.raises(ValueError, match="no qid has a positive and a negative"):
            CrossEncoder(models[CrossEncoder]).fit(apart)


class TestDivergence:
    """A loss or a weight that is not finite ends the training, and nothing is saved."""

    @pytest.mark.parametrize("more", [{}, {"loss": "margin_mse"}, {"held_out": 0.3}])
    def test_at_a_step(self, make, cls, models, examples, tmp_path, more):
        wild = {"learning_rate": 1e30, "max_grad_norm": 0, "output_dir": tmp_path / "out"}
        reranker = make(wild | more | {"save_steps": 1, "eval_steps": 1} | more)
        start = weights(reranker).clone()
        name = Path(models[cls]).name
        examples = examples.assign(score=examples["label"] / 2)
        with pytest.raises(ValueError, match=f"{name}' in float32 (diverged|computed the score)"):
            reranker.fit(examples)
        assert not json.loads((tmp_path / "out" / TRAINING_FILE).read_text())["finished"]
        for file in (tmp_path / "out").rglob("*.safetensors"):
            assert all(weight.isfinite().all() for weight in load_file(file).values())
        assert torch.equal(weights(reranker), start)

    def test_weights_that_are_nan_are_not_saved(self, make, tmp_path):
        reranker = make()
        next(reranker.network.parameters()).data[0] = float("nan")
        with pytest.raises(ValueError, match="weights that are NaN .*nothing was saved"):
            reranker.save(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()

    def test_next_training_in_the_folder_starts_over(self, make, examples, tmp_path):
        """Even if checkpoints were written before the divergence."""
        output = {"output_dir": tmp_path / "out", "save_steps": 1}
        wild = make(output | {"learning_rate": 1e3, "max_grad_norm": 0, "max_steps": 4})
        weight = next(wild.network.parameters())
        steps = []
        weight.register_hook(
            lambda gradient: steps.append(1) or gradient / (len(steps) < 3 or float("nan"))
        )
        with pytest.raises(ValueError, match="diverged at step [34]"):
            wild.fit(examples)
        assert [*(tmp_path / "out").glob("checkpoint-*")]
        again = make(output).fit(examples)
        assert torch.equal(weights(again), weights(make().fit(examples)))
        known = json.loads((tmp_path / "out" / TRAINING_FILE).read_text())
        assert known["finished"] and known["verdict"] == again.provenance["verdict"]

    def test_at_the_end(self, make, examples, tmp_path):
        """The last step has a finite loss, and gives weights that are not."""
        for options in ({}, {"output_dir": tmp_path / "out", "save_steps": 1}):
            reranker = make({"max_steps": 1} | options)
            weight = next(reranker.network.parameters())
            weight.register_hook(lambda gradient: gradient * float("nan"))
            with pytest.raises(ValueError, match="diverged at step 1: .* weights .*nothing was"):
                reranker.fit(examples)
            assert reranker.train_loss is reranker.provenance is None
        assert not [*tmp_path.rglob("*.safetensors")]


def first_is_relevant(reranker, examples: pd.DataFrame) -> float:
    """Share of the queries whose best document is the relevant one."""
    out = reranker(examples)
    return out[out["rank"] == 0]["label"].mean()


class TestLearning:
    """Untrained networks learn a rule from labels, and apply it to unseen documents."""

    def check(self, reranker, rule: str, num_negatives: int) -> None:
        unseen = make_examples(64, 3, 1, rule)
        assert first_is_relevant(reranker, unseen) < 0.6
        reranker.fit(make_examples(160, num_negatives, 0, rule))
        assert first_is_relevant(reranker, unseen) > 0.95

    def test_monot5(self, models):
        training = {
            "learning_rate": 2e-3,
            "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": 16,
            "num_train_epochs": 3,
        }
        reranker = MonoT5(models[MonoT5], dtype="float32", training=training)
        self.check(reranker, "class", num_negatives=3)

    @pytest.mark.parametrize("loss", ["listwise", "binary"])
    def test_cross_encoder(self, models, loss):
        training = {"loss": loss, "learning_rate": 3e-3, "num_train_epochs": 4}
        reranker = CrossEncoder(models[CrossEncoder], dtype="float32", training=training)
        self.check(reranker, "class", num_negatives=3)

    def test_bi_encoder(self, models):
        training = {
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 6,
        }
        reranker = BiEncoder(models[BiEncoder], dtype="float32", training=training)
        self.check(reranker, "pair", num_negatives=0)


class TestBatches:
    @given(st.integers(1, 64), st.integers(1, 8), st.integers(2, 4))
    def test_processes_share_each_batch_equally(self, rows, size, processes):
        """In each step, all processes together see what one would, except a remainder."""
        whole = BatchSampler(range(rows), size * processes, drop_last=False)
        shards = [
            BatchSamplerShard(
                SharedBatches(whole, range(rows), processes), processes, i, False, False
            )
            for i in range(processes)
        ]
        shared = [list(shard) for shard in shards]
        assert {len(batches) for batches in shared} == {len(shard) for shard in shards}
        for parts, batch in itertools.zip_longest(zip(*shared, strict=True), whole):
            left = len(batch) % processes
            assert sum(parts or [], []) == batch[: len(batch) - left]
            assert len({len(part) for part in parts or [[]]}) == 1

    @pytest.mark.parametrize("loss", ["pointwise", "listwise", "margin_mse"])
    def test_accumulated_in_the_same_order(self, cls, plain_models, loss):
        """Lengths are grouped by the step, so that accumulation does not change the order."""
        if cls is BiEncoder and loss != "margin_mse":
            pytest.skip("in_batch losses depend on what is in a batch")
        examples = make_examples(60, 3, 0, "class")  # in other orders for batches of 4 than of 8
        examples["text"] += examples.index.to_series().map(lambda i: " cloud" * (i % 13))
        examples["score"] = examples["label"] / 2
        training = {"loss": loss, "logging_steps": 1, "learning_rate": 1e-4}
        once, twice = (
            cls(plain_models[cls], dtype="float32", training=training | batch)
            for batch in (
                {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
                {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            )
        )
        losses = [
            [entry["loss"] for entry in reranker.fit(examples).history if "loss" in entry]
            for reranker in (once, twice)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    def test_examples_seen_are_counted(self, make, cls, examples, capfd):
        """Every example of a step is counted, also in the short last step of an epoch."""
        steps = 10 if cls is MonoT5 else 8  # an epoch of 24 positives and 24 negatives
        reranker = make({"max_steps": steps, "per_device_train_batch_size": 5}, verbose=True)
        if cls is MonoT5:
            reads, batch = [], reranker._batch
            reranker._batch = lambda queries, texts: reads.extend(texts) or batch(queries, texts)
            reranker.fit(examples)
            assert len(reads) == reranker.provenance["batches"]["seen"] == 48
        else:
            assert reranker.fit(examples).provenance["batches"]["seen"] == 12 + 12 + 10
        assert f"{steps} steps of 5 examples" in capfd.readouterr().err

    def test_half_precision_of_the_options_replaces_dtype(self, make, examples):
        """bf16 and fp16 in the options take precedence over the reranker's dtype."""
        fits = [
            make({"bf16": True}, dtype="float16"),
            make({"bf16": True}, dtype="bfloat16"),
            make(dtype="bfloat16"),
        ]
        first, *others = (weights(reranker.fit(examples)) for reranker in fits)
        assert all(torch.equal(first, other) for other in others)
        assert not torch.equal(first, weights(make().fit(examples)))


class TestActivationCheckpointing:
    @pytest.mark.parametrize("more", [{}, {"lora": {"r": 2}}, {"held_out": 0.3, "eval_steps": 1}])
    def test_gives_the_same_weights(self, make, cls, examples, more):
        """Layers run a second time with the same dropout, in that training only."""
        calls = []

        def count(reranker) -> int:
            calls.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)
                reranker.fit(examples)
            return len(calls)

        whole, saving = make(more), make(more | {"activation_checkpointing": True})
        for reranker in (whole, saving):
            model = getattr(reranker.network, "transformers_model", reranker.network)
            layer = next(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
            linear = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
            linear.register_forward_hook(lambda layer, *_: calls.extend([1] * layer.training))
        hooks = len(model.get_input_embeddings()._forward_hooks)
        assert count(saving) > 1.3 * count(whole)
        assert saving.history[0]["loss"] == whole.history[0]["loss"]
        assert torch.equal(weights(saving), weights(whole))
        assert len(model.get_input_embeddings()._forward_hooks) == hooks
        saving.training = whole.training
        assert count(saving) == count(whole)
