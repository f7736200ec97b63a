import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import QUICK, weights

from pyterrier_inpars.rerankers import MonoT5
from pyterrier_inpars.training.examples import hold_out
from pyterrier_inpars.training.provenance import TRAINING_FILE

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class Killed(BaseException):
    pass


LONG = {
    "held_out": 0,
    "num_train_epochs": 3,
    "max_steps": -1,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "save_steps": 2,
    "logging_steps": 3,
}

SCRIPT = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
import torch
torch.set_num_threads(1)
import test_training_resume, tiny_training
from transformers import Trainer
from pyterrier_inpars.rerankers import MonoT5

step = Trainer.training_step
def killed(self, *args, **options):
    if self.state.global_step == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **options)
Trainer.training_step = killed
reranker = MonoT5({model!r}, dtype="float32", device="cpu",
                  training=test_training_resume.LONG | {{"output_dir": {folder!r}}})
reranker.fit(tiny_training.make_examples(12, 2, 0, "pair"))
"""


class TestResume:
    @pytest.fixture
    def stop(self, monkeypatch):
        """Stops a training before a step, or while the state of that step's checkpoint is saved."""
        from transformers import Trainer, TrainerState

        def stop(reranker, examples, step, saving=False):
            whole_step, whole_save = Trainer.training_step, TrainerState.save_to_json

            def training_step(self, *args, **options):
                if self.state.global_step == step and not saving:
                    raise Killed
                return whole_step(self, *args, **options)

            def save_to_json(self, path):
                whole_save(self, path)
                if self.global_step == step and saving:
                    content = Path(path).read_text()
                    Path(path).write_text(content[: len(content) // 2])
                    raise Killed

            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "training_step", training_step)
                patch.setattr(TrainerState, "save_to_json", save_to_json)
                with pytest.raises(Killed):
                    reranker.fit(examples)

        return stop

    def check(self, found, expected):
        assert torch.equal(weights(found), weights(expected))
        assert found.provenance["verdict"] == expected.provenance["verdict"]
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-6)
        losses = [[e["loss"] for e in r.history if "loss" in e] for r in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)

    @pytest.mark.slow
    def test_resumes_after_sigkill(self, models, examples, tmp_path):
        """This process resumes what a killed one left."""
        folder, tests = tmp_path / "output", str(Path(__file__).parent)
        script = SCRIPT.format(tests=tests, model=models[MonoT5], folder=str(folder))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (folder / "checkpoint-10").is_dir()
        whole, again = (
            MonoT5(
                models[MonoT5],
                dtype="float32",
                device="cpu",
                training=LONG | {"output_dir": output},
            )
            for output in (tmp_path / "whole", str(folder))
        )
        whole.fit(examples)
        steps, batch = [], again._batch
        again._batch = lambda queries, texts: steps.append(1) or batch(queries, texts)
        self.check(again.fit(examples), whole)
        assert len(steps) == 30 - 10, "it started again"  # of 48 balanced pairs, 5 a step, 3 epochs

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"held_out": 0.4, "eval_steps": 2, "patience": 4},
            {"held_out": 0.4, "eval_steps": 2, "lora": {"r": 2, "lora_dropout": 0.1}},
        ],
    )
    def test_resumed_training_gives_the_same_weights(self, make, examples, tmp_path, stop, more):
        whole = make(LONG | more | {"output_dir": tmp_path / "whole"}).fit(examples)
        steps = whole.provenance["steps"]
        for step in (3, steps - 1):
            training = LONG | more | {"output_dir": tmp_path / str(step)}
            stop(make(training), examples, step)
            self.check(make(training).fit(examples), whole)

    def test_incomplete_checkpoint_is_skipped(self, make, examples, tmp_path, stop):
        whole = make(LONG | {"output_dir": tmp_path / "whole"}).fit(examples)
        folder = tmp_path / "stopped"
        stop(make(LONG | {"output_dir": folder}), examples, 4, saving=True)
        assert (folder / "checkpoint-4").is_dir()
        again = make(LONG | {"output_dir": folder}).fit(examples)
        self.check(again, whole)
        record = json.loads((folder / TRAINING_FILE).read_text())
        assert record.items() <= again.provenance.items()
        assert record["settings"] == whole.provenance["settings"]

    def test_interrupted_after_the_last_step(self, make, examples, tmp_path, monkeypatch):
        """In the middle of an epoch, where one more step would be possible."""
        from transformers import Trainer

        training = LONG | {"max_steps": 4, "per_device_train_batch_size": 2}
        stopped_in = training | {"output_dir": tmp_path / "stopped"}
        whole = make(training | {"output_dir": tmp_path / "whole"}).fit(examples)

        def stopped(*_):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_finalize_training", stopped)
            with pytest.raises(Killed):
                make(stopped_in).fit(examples)
        self.check(make(stopped_in).fit(examples), whole)

    def test_patience_counts_validations_before_the_stop(self, make, examples, tmp_path, stop):
        still = {"learning_rate": 0.0, "max_steps": 9, "eval_steps": 1, "patience": 3}
        still |= {"output_dir": tmp_path, "held_out": None}
        stop(make(still), examples, 3)
        assert make(still).fit(examples).provenance["steps"] == 4

    def test_other_validation_cannot_resume(self, make, examples, tmp_path, stop):
        training = LONG | {"held_out": 0.4, "eval_steps": 2, "output_dir": tmp_path}
        stop(make(training), examples, 3)
        train, held = hold_out(examples, 0.4, 0)
        other = held.assign(text=held["text"] + " more")
        with pytest.raises(ValueError, match="validation.sha256"):
            make(training).fit(train, None, other, held)

    def test_other_data_or_settings_cannot_resume(self, make, examples, tmp_path, stop):
        training = LONG | {"output_dir": tmp_path}
        stop(make(training), examples, 3)
        other = examples.copy()
        other.loc[7, "text"] += " more"
        trained = make().fit(examples)
        trained.training = training | QUICK
        with pytest.raises(ValueError, match="first_weights"):
            trained.fit(examples)
        for reranker, frame, difference in (
            (make(training), other, "examples.sha256"),
            (make(training), examples.head(33), "examples.rows: was 36, is 33"),
            (make(training), examples[::-1], "examples.sha256"),
            (make(training | {"seed": 3}), examples, "seed: was 0, is 3"),
            (make(training | {"learning_rate": 0.1}), examples, "learning_rate"),
            (make(training | {"lora": True}), examples, "lora.r: was None, is 8"),
            (make(training | {"per_device_train_batch_size": 2}), examples,
             "effective_batch: was 5, is 2"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"(?s)other data or settings.*{difference}"):
                reranker.fit(frame)
        loss = make(training).fit(examples).train_loss
        assert loss == pytest.approx(make(LONG).fit(examples).train_loss, rel=1e-6)

    def test_finished_training_is_not_overwritten(self, make, examples, tmp_path):
        output = {"output_dir": tmp_path / "output"}
        first = make(output).fit(examples)
        with pytest.raises(FileExistsError, match="finished training.*'overwrite': True"):
            make(output).fit(examples)
        again = make(output | {"overwrite": True}).fit(examples)
        assert torch.equal(weights(first), weights(again))
        (tmp_path / "output" / TRAINING_FILE).unlink()
        with pytest.raises(FileExistsError, match="another training"):
            make(output).fit(examples)
