"""What a run changes in a ``transformers.Trainer``: mixins, callbacks and shared batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from pyterrier_inpars._compute.xla import Mixin
from pyterrier_inpars._progress import Progress, hidden_bars
from pyterrier_inpars.training._finite import NotFiniteError

REMEDY = "nothing was saved; give a lower learning_rate, max_grad_norm=1.0 or dtype='float32'"


class ResumableTrainerMixin(Mixin):
    """Makes the order of the examples a function of seed and epoch, so that a run can resume.

    Batches of similar length are formed over the examples of a whole step, so that the order is
    also the same for any gradient accumulation and any number of processes.

    Attributes:
        effective_batch: Examples per step on all devices.
        order: ``torch.Generator`` of the order of an epoch, if transformers does not seed one.
        batches: Batches of a sentence-transformers trainer.
    """

    effective_batch = 1
    order: Any = None
    batches: Any = None

    def add_model_card_callback(self, *_: Any) -> None:
        """Skips sentence-transformers' model card, which would tokenize all texts."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._grouped_by_step(super()._get_train_sampler(train_dataset))

    def get_batch_sampler(self, dataset: Any, batch_size: int, **options: Any) -> Any:
        """Returns the batches of this process, from those of all processes together."""
        self.order = options.get("generator")
        processes = self.args.world_size
        self.batches = super().get_batch_sampler(dataset, batch_size * processes, **options)
        self._grouped_by_step(getattr(self.batches, "sampler", None))
        if processes == 1:
            return self.batches
        return SharedBatches(self.batches, dataset, processes)

    def _grouped_by_step(self, sampler: Any) -> Any:
        if isinstance(sampler, LengthGroupedSampler):
            self.order = sampler.generator = torch.Generator()
            sampler.batch_size = self.effective_batch
        return sampler


class ResumeCallback(TrainerCallback):
    """Seeds the order of each epoch, and logs before each checkpoint.

    A run that resumes from a checkpoint then has the order and the log of one that did not stop.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = int(state.epoch or 0)
        if self.trainer.order is not None:
            self.trainer.order.manual_seed(args.seed + epoch)
        if hasattr(self.trainer.batches, "set_epoch"):  # accelerate does not find it
            self.trainer.batches.set_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= control.should_save or control.should_evaluate

    on_epoch_end = on_step_end


class ValidatingTrainerMixin(Mixin):
    """Validates by a retrieval measure in place of a loss.

    Attributes:
        measure: Returns the value of a measure by its name, for the network at that time.
    """

    measure: Callable[[str], float] | None = None
    control: Any

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures, logs and returns ``metric_for_best_model``."""
        name = self.args.metric_for_best_model.removeprefix("eval_")
        self.model.eval()
        with hidden_bars():  # that of the training is shown
            metrics = {f"eval_{name}": self.measure(name) if self.measure else math.nan}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class WarmupTrainerMixin(Mixin):
    """Rounds a warm-up that is a share of the steps down.

    transformers rounds it up, so that a run of one step, at a learning rate of 0, trains nothing.
    """

    def create_scheduler(self, num_training_steps: int, *args: Any, **options: Any) -> Any:
        """Creates the scheduler for a run of ``num_training_steps``."""
        if self.args.warmup_steps < 1:
            self.args.warmup_steps = int(self.args.warmup_steps * num_training_steps)
        return super().create_scheduler(num_training_steps, *args, **options)


class FiniteTrainerMixin(Mixin):
    """Stops a training at the first step that is not finite, before a checkpoint is written.

    transformers leaves such losses out of its log and continues.

    Attributes:
        training_run: The run, which names the model in the error.
    """

    training_run: Any = None

    def training_step(self, *args: Any, **options: Any) -> Any:
        """Runs a step.

        Raises:
            NotFiniteError: The loss is. Not on XLA, which would wait for each step.
        """
        loss = super().training_step(*args, **options)
        if loss.device.type != "xla" and not loss.isfinite():
            what = self.training_run.diverged(self.state.global_step + 1)
            raise NotFiniteError(f"{what}, where the loss is {loss.item()}: {REMEDY}")
        return loss

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        self.training_run.check_weights(self.model, self.state.global_step)
        super()._save_checkpoint(*args, **options)


class SharedBatches:
    """Batches of all processes together, each divided equally among the processes.

    Two processes together then see in each step what one process would. sentence-transformers alone
    would leave one process without a last batch, and the others waiting for it. Examples at the
    end of an epoch that cannot be divided, fewer than there are processes, are dropped.

    Args:
        batches: Batches over all processes.
        examples: The data set.
        processes: Number of processes.
    """

    batch_size = None  # which accelerate takes for any size

    def __init__(self, batches: Any, examples: Sized, processes: int):
        self.batches, self.processes = batches, processes
        too_few = 0 < len(examples) % batches.batch_size < processes
        self.length = (len(batches) - too_few) * processes

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            size = len(batch) // self.processes
            if size:
                for i in range(self.processes):
                    yield batch[i * size : (i + 1) * size]


class CountingCallback(TrainerCallback):
    """Has a run count its examples once the trainer knows the number of steps."""

    def __init__(self, run: Any, trainer: Any, rows: int):
        self.training_run, self.trainer, self.rows = run, trainer, rows

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        show = self.training_run.verbose and args.process_index == 0
        batches = self.trainer.batches
        self.training_run.count_examples(self.rows, batches, state.max_steps, show)


class ProgressCallback(TrainerCallback):
    """Shows the steps of a run, its last loss and its last validation as one progress bar."""

    bar: Progress | None = None

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = Progress(
            title="training",
            total=state.max_steps,
            initial=state.global_step,
            verbose=state.is_world_process_zero,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for name, value in (logs or {}).items():
            if name == "loss" or name.startswith("eval_"):
                self.values[name.removeprefix("eval_")] = value
        if self.bar is not None:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
            self.bar.set_postfix_str(shown, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
