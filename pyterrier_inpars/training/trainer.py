"""One run of a Hugging Face ``Trainer`` that resumes, validates and records its provenance.

Importing this module imports transformers, so the rerankers import it when they train.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyterrier as pt
import torch
from accelerate.utils import broadcast_object_list
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from pyterrier_inpars._compute.memory_limit import is_out_of_memory
from pyterrier_inpars._compute.xla import XlaTrainerMixin, on_xla
from pyterrier_inpars._files import write_json
from pyterrier_inpars._fingerprint import without_addresses
from pyterrier_inpars.training._finite import NotFiniteError, check_weights
from pyterrier_inpars.training._similar_lengths import compute_by_length
from pyterrier_inpars.training._trainer_parts import (
    REMEDY,
    CountingCallback,
    FiniteTrainerMixin,
    ProgressCallback,
    ResumableTrainerMixin,
    ResumeCallback,
    ValidatingTrainerMixin,
    WarmupTrainerMixin,
)
from pyterrier_inpars.training.arguments import training_arguments
from pyterrier_inpars.training.lora import (
    LoraTrainerMixin,
    lora_config,
    lora_matrices,
    lora_settings,
)
from pyterrier_inpars.training.model_selection import (
    SHARES,
    START,
    TRAINED,
    StoredWeights,
    Validation,
    not_validated,
    verdict,
)
from pyterrier_inpars.training.options import TrainingOptions
from pyterrier_inpars.training.provenance import TRAINING_FILE, versions
from pyterrier_inpars.training.recipes import MEASURE
from pyterrier_inpars.training.resume import WEIGHTS_FOLDER, open_output_dir, trainer_state


@dataclass
class TrainingRun:
    """One training of a network, and what it produces.

    Args:
        options: Options of the reranker.
        method: Key of ``recipes.DEFAULTS``.
        dtype: Precision of the matrix products; the weights are float32.
        verbose: Whether the trainer shows its progress bar and the batch sizes.
        settings: What else the weights depend on, such as the fingerprint of the examples; JSON.
        validation: What the weights to keep are selected by; ``None`` to keep the trained ones.
        during: Whether the run also validates during training.
        not_validated: Why there is no validation.

    Attributes:
        history: Log of the trainer.
        loss: Mean training loss.
        provenance: See ``Reranker.provenance``.
    """

    options: TrainingOptions
    method: str
    dtype: torch.dtype
    verbose: bool
    settings: dict[str, Any] = field(default_factory=dict)
    validation: Validation | None = None
    during: bool = False
    not_validated: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    loss: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def train(
        self,
        trainer_class: type,
        arguments_class: type,
        network: Any,
        arguments: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        """Trains the network in place, and leaves it on its device and in eval mode.

        With a validation the network ends with the best of the start's weights, the trained ones
        and their averages. If anything ends the training early, an interrupt included, the network
        has the start's weights again.

        Args:
            trainer_class: Subclass of ``transformers.Trainer``.
            arguments_class: Its subclass of ``TrainingArguments``.
            network: Module to train, with float32 weights.
            arguments: Further arguments, which belong to the method and not to its tuning.
            **parts: Arguments of the trainer: data set, loss, collator.

        Raises:
            ValueError: The batches do not divide, the optimizer does not run on the device,
                ``output_dir`` holds a training with other data or settings, or the training
                diverged: a loss or a weight is NaN or infinite.
            MemoryError: A batch does not fit into memory.
            FileExistsError: ``output_dir`` holds a finished training.
            ModuleNotFoundError: A package that the settings need is not installed.
        """
        lora = lora_config(self.options.lora)
        keeps = self.options.output_dir is not None
        with self._folder() as output_dir:
            args, settings = training_arguments(
                arguments_class,
                self.options,
                self.method,
                output_dir=output_dir,
                device=network.device,
                dtype=self.dtype,
                validates=self.during,
                verbose=self.verbose,
                more=arguments or {},
            )
            self._record(settings, lora)
            checkpoint, file = None, Path(output_dir) / TRAINING_FILE
            if keeps:
                overwrite = self.options.overwrite
                checkpoint = open_output_dir(Path(output_dir), self.provenance, args, overwrite)
            with self._selection(network, output_dir) as selected:
                try:
                    with (
                        _restored(network),
                        lora_matrices(network, lora, self.options.seed),
                        self._kept_start(network, output_dir),
                    ):
                        compute_by_length(network)
                        trainer = self._trainer(trainer_class, args, network, lora, parts)
                        self._train(trainer, checkpoint)
                        self.check_weights(network, trainer.state.global_step)
                    if lora is not None:  # whose matrices are merged now
                        self.check_weights(network, trainer.state.global_step)
                except NotFiniteError:
                    if keeps:  # the next run starts over
                        write_json(file, self.provenance | {"diverged": True})
                    raise
                self.provenance |= {
                    "finished": True,
                    "steps": trainer.state.global_step,
                    "loss": self.loss,
                    "history": self.history,
                    "verdict": selected(),
                }
            if keeps and args.process_index == 0:
                write_json(file, self.provenance)

    @contextmanager
    def _selection(self, network: Any, output_dir: str) -> Iterator[Callable[[], dict[str, Any]]]:
        """Measures the network before training, and yields what selects weights after it.

        The yielded function gives the network the selected weights, and returns the verdict. If the
        block fails, the network has the weights of the start again. Without a validation, it does
        not store any; see `_kept_start`.
        """
        if self.validation is None:
            yield lambda: not_validated(self.not_validated)
            return
        with tempfile.TemporaryDirectory(prefix=WEIGHTS_FOLDER, dir=output_dir) as folder:
            stored = StoredWeights(network, Path(folder))
            try:
                yield self._selector(stored, self.validation)
            except BaseException:
                stored.load(1)
                raise

    @contextmanager
    def _kept_start(self, network: Any, output_dir: str) -> Iterator[None]:
        """Restores what the training changes if the block fails, where `_selection` does not.

        With LoRA, this is the new matrices and the scoring head, and not the frozen weights.
        """
        if self.validation is not None:
            yield
            return
        with tempfile.TemporaryDirectory(prefix=WEIGHTS_FOLDER, dir=output_dir) as folder:
            stored = StoredWeights(network, Path(folder), only_trainable=True)
            try:
                yield
            except BaseException:
                stored.load(1)
                raise

    def _selector(
        self, stored: StoredWeights, validation: Validation
    ) -> Callable[[], dict[str, Any]]:
        """Returns the function that `_selection` yields."""
        given = self.options.arguments
        name = given.get("metric_for_best_model", MEASURE)
        start = validation.of_network(name, START, 1.0)
        forced = given.get("load_best_model_at_end") is False

        def select() -> dict[str, Any]:
            stored.end_of_training()
            candidates = [start, validation.of_network(name, TRAINED, 0.0)]
            for share in () if forced else SHARES:
                stored.load(share)
                average = f"average ({share} {START})"
                candidates.append(validation.of_network(name, average, share))
            found = [
                verdict(
                    name,
                    candidates,
                    partial(validation.of_others, name),
                    higher=given.get("greater_is_better") is not False,
                    forced=forced,
                )
            ]
            broadcast_object_list(found)  # rounding may differ between processes
            stored.load(found[0]["start_share"])
            return found[0]

        return select

    def _folder(self) -> AbstractContextManager[str]:
        if self.options.output_dir is None:
            return tempfile.TemporaryDirectory()
        return nullcontext(str(Path(self.options.output_dir).expanduser()))

    def _record(self, settings: dict[str, Any], lora: Any) -> None:
        """Starts the provenance with the settings."""
        settings = self.settings | settings
        if lora is not None:
            settings["lora"] = lora_settings(lora, self.options.lora or {})
        settings = json.loads(json.dumps(settings, default=_json_name))
        self.provenance = {"finished": False, "settings": settings, "versions": versions()}

    def _trainer(
        self, trainer_class: Any, args: Any, network: Any, lora: Any, parts: dict[str, Any]
    ) -> Any:
        """Makes the trainer, with the mixins that this run needs."""
        mixins: list[type] = [
            ResumableTrainerMixin,
            WarmupTrainerMixin,
            ValidatingTrainerMixin,
            FiniteTrainerMixin,
        ]
        if on_xla(network.device):
            mixins.append(XlaTrainerMixin)
        if lora is not None:
            mixins.append(LoraTrainerMixin)
        if self.during:
            parts["eval_dataset"] = parts["train_dataset"]  # required, but not read
        rows = len(parts["train_dataset"])
        trainer = type(trainer_class.__name__, (*mixins, trainer_class), {})(
            model=network, args=args, **parts
        )
        trainer.effective_batch = self.provenance["settings"]["effective_batch"]
        trainer.measure = self.validation.value if self.validation else None
        trainer.autocast_dtype = self.dtype
        trainer.training_run = self
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
        trainer.add_callback(ResumeCallback(trainer))
        trainer.add_callback(CountingCallback(self, trainer, rows))
        if self.options.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(self.options.patience))
        if not args.disable_tqdm:
            trainer.add_callback(ProgressCallback())
        return trainer

    def diverged(self, step: int) -> str:
        """Returns the beginning of the error of a training that diverged."""
        model = self.settings.get("reranker", {}).get("model")
        dtype = str(self.dtype).removeprefix("torch.")
        return f"the training of {model!r} in {dtype} diverged at step {step}"

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Names the options that save memory where a batch does not fit."""
        try:
            yield
        except Exception as error:
            # That of a validation says what to do already.
            if isinstance(error, MemoryError) or not is_out_of_memory(error):
                raise
            settings = self.provenance["settings"]
            size = settings["per_device_train_batch_size"]
            fewer = f"a lower per_device_train_batch_size than {size}"
            if "effective_batch" in settings:
                fewer += f" with effective_batch={settings['effective_batch']}"
            others = ["activation_checkpointing=True", "lora=True", "or a lower max_length"]
            if self.method == "bi_encoder":
                others.insert(0, f"mini_batch_size={max(1, size // 4)}")
            raise MemoryError(
                f"the training of {self.settings.get('reranker', {}).get('model')!r} does not fit "
                f"into memory: give {', '.join([fewer, *others])}"
            ) from error

    def check_weights(self, network: Any, step: int) -> None:
        """Checks that all weights are finite.

        Raises:
            ValueError: One is not.
        """
        check_weights(network, f"{self.diverged(step)}: it", REMEDY)

    def count_examples(self, rows: int, batches: Any, max_steps: int, show: bool) -> None:
        """Records how many examples the run sees, and shows it on request.

        Args:
            rows: Examples of an epoch.
            batches: Batches of a sentence-transformers trainer, which may hold fewer examples than
                there is room for.
            max_steps: Steps of the run.
            show: Whether to print it.
        """
        settings = self.provenance["settings"]
        effective, devices = settings["effective_batch"], settings["devices"]
        size, times = (
            settings[name]
            for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        in_batch = hasattr(batches, "seen")
        number = len(batches) if in_batch else math.ceil(rows / (size * devices))
        epochs, rest = divmod(max_steps, math.ceil(number / times))
        part = batches.seen(epochs, rest * times) if in_batch else min(rows, rest * effective)
        seen = epochs * rows + part
        self.provenance["batches"] = {
            "steps": max_steps,
            "effective_batch": effective,
            "seen": seen,
        }
        if show:
            parts = f" ({size} per device, accumulated {times} times, devices: {devices})"
            pt.tqdm.write(
                f"{max_steps:,} steps of {effective:,} examples{parts * (effective != size)}: "
                f"{seen:,} in all, from {rows:,}",
                file=sys.stderr,
            )

    def _train(self, trainer: Any, checkpoint: Path | None) -> None:
        """Trains, from the checkpoint if there is one, and keeps the log and the mean loss."""
        earlier_loss, done = 0.0, 0
        if checkpoint is not None:
            state = trainer_state(checkpoint)
            for entry in state["log_history"]:
                if "loss" in entry:
                    earlier_loss += entry["loss"] * (entry["step"] - done)
                    done = entry["step"]
            control = state["stateful_callbacks"]["TrainerControl"]["args"]
            if control["should_training_stop"]:  # interrupted after the last step
                best = trainer.args.load_best_model_at_end and state["best_model_checkpoint"]
                trainer._load_from_checkpoint(best or str(checkpoint))
                trainer.state.global_step, trainer.state.log_history = done, state["log_history"]
                self.history, self.loss = state["log_history"], earlier_loss / done
                return
        with warnings.catch_warnings(), self._memory_errors():
            # sentence-transformers only knows the old name of activation checkpointing
            warnings.filterwarnings("ignore", ".*gradient_checkpointing_enable", FutureWarning)
            out = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        steps = trainer.state.global_step
        self.history = trainer.state.log_history
        self.loss = (earlier_loss + out.training_loss * (steps - done)) / steps


def _json_name(value: object) -> Any:
    """Represents what JSON cannot hold, the same in every process: functions by their names."""
    if isinstance(value, set):
        return sorted(value)
    return getattr(value, "__qualname__", without_addresses(str(value)))


def _as_dict(network: Any, args: Any, output: Any) -> Any:
    """Converts a network's output to a dict: PyTorch's DDP finds no tensor in a ``UserDict``."""
    return dict(output) if isinstance(output, UserDict) else output


@contextmanager
def _restored(network: Any) -> Iterator[None]:
    """Undoes what a training changes in a network except the weights; leaves it in eval mode."""
    device = network.device
    hook = network.register_forward_hook(_as_dict)
    try:
        yield
    finally:
        hook.remove()
        for name in ("forward", "_original_forward"):  # also of accelerate, for its autocast
            vars(network).pop(name, None)
        for part in network.modules():
            if hasattr(part, "gradient_checkpointing"):
                part.gradient_checkpointing = False
            if isinstance(part, PreTrainedModel):  # removes a hook of gradient checkpointing
                part.disable_input_require_grads()
        network.to(device).eval()
