import json

import pandas as pd
import pytest
import torch
from tiny_training import QUICK

from pyterrier_inpars.rerankers import MonoT5
from pyterrier_inpars.training.provenance import TRAINING_FILE, fingerprint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestProvenance:
    def test_save_writes_provenance_and_model_card(self, make, cls, examples, tmp_path):
        from huggingface_hub import ModelCard

        secret = {name: f"secret {name}" for name in ("hub_token", "hub_model_id", "run_name")}
        reranker = make({"logging_steps": 1, "output_dir": tmp_path / "secret-output"} | secret)
        path = reranker.fit(examples).save(tmp_path / "saved")
        provenance = json.loads((path / TRAINING_FILE).read_text())
        settings, torch_version = provenance["settings"], provenance["versions"]["torch"]
        assert provenance == reranker.provenance
        assert provenance["history"] == reranker.history
        assert provenance["loss"] == reranker.train_loss
        assert settings["examples"] == fingerprint(examples) and provenance["finished"]
        assert settings["reranker"]["seed"] == 0
        assert settings["arguments"]["learning_rate"] == 1e-3
        assert torch_version.partition("+")[0] == torch.__version__.partition("+")[0]
        card = ModelCard.load(path / "README.md")
        assert card.data.library_name and cls.__name__ in card.text
        for file in ("README.md", TRAINING_FILE):
            text = (path / file).read_text()
            assert "secret" not in text and str(tmp_path) not in text

        loaded = cls(path, dtype="float32", device="cpu", training=QUICK)
        copy = loaded.save(tmp_path / "copy")
        assert json.loads((copy / TRAINING_FILE).read_text()) == provenance
        assert loaded.fit(examples).provenance["before"] == provenance
        assert loaded.provenance["settings"]["reranker"]["model"] == "saved"

    def test_names_of_settings_are_stable(self, models, examples):
        """A training that an earlier version started resumes only with the same settings."""
        training = QUICK | {"loss": "listwise", "temperature": 2.0, "seed": 3}
        trained = MonoT5(models[MonoT5], dtype="float32", device="cpu", training=training)
        settings = trained.fit(examples).provenance["settings"]
        assert settings.pop("first_weights") and settings.pop("examples")
        assert settings == {
            "reranker": {
                "class": "MonoT5",
                "model": "t5",
                "template": None,
                "labels": None,
                "max_length": None,
                "loss": "listwise",
                "temperature": 2.0,
                "seed": 3,
                "text_field": "text",
                "dtype": "float32",
            },
            "recipe": None,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "devices": 1,
            "effective_batch": 4,
            "arguments": {
                "seed": 3,
                "bf16": False,
                "fp16": False,
                "use_cpu": True,
                "restore_callback_states_from_checkpoint": True,
                "num_train_epochs": 1,
                "optim": "adamw_torch",
                "learning_rate": 0.001,
                "lr_scheduler_type": "constant",
                "weight_decay": 5e-05,
                "train_sampling_strategy": "group_by_length",
                "remove_unused_columns": False,
                "max_steps": 3,
                "patience": None,
            },
        }

    def test_untrained_reranker_has_none(self, make, tmp_path):
        path = make().save(tmp_path / "saved")
        assert not (path / TRAINING_FILE).exists()

    def test_fingerprint_follows_the_examples(self, examples):
        known = fingerprint(examples)
        assert known["rows"] == 36
        assert fingerprint(examples.assign(extra=1).set_index(examples.index[::-1])) == known
        assert fingerprint(examples.astype({"label": bool})) == known
        for column in ("qid", "query", "docno", "text"):
            other = examples.copy()
            other.loc[35, column] += "x"
            assert fingerprint(other)["sha256"] != known["sha256"]
        flipped = examples.assign(label=1 - examples["label"])
        for other in (flipped, examples.assign(score=0.5), examples[::-1], examples.head(35)):
            assert fingerprint(other)["sha256"] != known["sha256"]
        renamed = examples.rename(columns={"text": "body"})
        assert fingerprint(renamed, "body") == known


class TestTrainingLog:
    def test_untrained(self, make):
        assert make().training_log is None

    def test_without_validation(self, make, examples):
        reranker = make({"logging_steps": 1}).fit(examples)
        log = reranker.training_log
        assert list(log.columns) == ["step", "loss", "learning_rate"]
        assert log["step"].tolist() == [1, 2, 3] and log.notna().all(axis=None)
        assert log["loss"].tolist() == [e["loss"] for e in reranker.history if "loss" in e]

    @pytest.mark.parametrize("during", [False, True])
    def test_with_validation(self, make, cls, examples, tmp_path, during):
        """Start and end are always there, and a saved reranker has the same log."""
        options = {"logging_steps": 1, "held_out": 0.3, "load_best_model_at_end": False}
        options |= {"eval_strategy": "steps", "eval_steps": 1} if during else {}
        options |= {} if during else {"eval_strategy": "no"}
        reranker = make(options).fit(examples)
        log, verdict = reranker.training_log, reranker.verdict.set_index("system")["nDCG@10"]
        assert list(log.columns) == ["step", "loss", "learning_rate", "nDCG@10"]
        assert (
            log["step"].tolist() == [0, 1, 2, 3]
            and log["loss"].isna().tolist() == [True] + [False] * 3
        )
        assert log["nDCG@10"].notna().tolist() == [True, during, during, True]
        assert log["nDCG@10"].iloc[[0, -1]].tolist() == [verdict["start"], verdict["trained"]]
        loaded = cls(reranker.save(tmp_path / "saved"), device="cpu")
        pd.testing.assert_frame_equal(loaded.training_log, log)
        assert loaded._network is None
