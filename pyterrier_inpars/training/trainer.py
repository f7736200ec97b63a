"""What the rerankers share when they train: settings, checkpoints, and one way to run a trainer."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyterrier as pt
from ir_measures import parse_measure

from pyterrier_inpars._compute.xla import on_xla, xla_trainer
from pyterrier_inpars._fingerprint import settings_difference
from pyterrier_inpars._stage import positive_int
from pyterrier_inpars.training.lora import account, adapted, lora_config, lora_trainer
from pyterrier_inpars.training.provenance import TRAINING_FILE, versions, write_json
from pyterrier_inpars.training.recipes import DEFAULTS, HELD_OUT, OWN, check_names, divide, recipe

if TYPE_CHECKING:
    import torch

CHECKPOINTS = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1}
"""Where there is an ``output_dir``: ten checkpoints a run, the one before removed after each."""

WITHOUT_EFFECT = (
    *("output_dir", "overwrite_output_dir", "disable_tqdm", "report_to", "run_name", "project"),
    *("logging_", "log_", "save_", "hub_", "push_to_hub", "trackio_", "dataloader_pin_memory"),
)
"""Beginnings of the names of the fields that the trained weights do not depend on."""


@dataclass
class Training:
    """One run of a Hugging Face ``Trainer``, and what it leaves behind.

    Args:
        fields: of ``TrainingArguments``, over the defaults, and those of ``OWN``.
        output_dir: where the trainer writes; ``None`` for a temporary folder.
        seed: of the order of the examples and the dropout.
        dtype: of the matrix products; the weights are float32.
        verbose: shows the trainer's progress bar, and the size of the batches.
        about: what else the result depends on, such as the fingerprint of the examples; JSON.
        measure: gives the value of a measure by its name, for the network as it is; ``None`` if
            there is nothing to validate on.

    Attributes:
        history: the trainer's log.
        loss: mean training loss.
        record: the account of the training, JSON; see ``Reranker.provenance``.
    """

    fields: dict[str, Any]
    output_dir: str | os.PathLike[str] | None
    seed: int
    dtype: torch.dtype
    verbose: bool
    about: dict[str, Any] = field(default_factory=dict)
    measure: Callable[[str], float] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    loss: float | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        trainer_class: type,
        arguments_class: type,
        network: Any,
        defaults: str,
        arguments: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        """Trains the network in place, and leaves it on its device and in eval mode.

        Args:
            trainer_class: a subclass of ``transformers.Trainer``.
            arguments_class: the subclass of ``TrainingArguments`` that belongs to it.
            network: the module to train, with float32 weights.
            defaults: key of ``DEFAULTS``.
            arguments: further arguments that belong to the method rather than to its tuning.
            **parts: of the trainer: data set, loss, collator.

        Raises:
            TypeError: a field is neither of ``TrainingArguments`` nor of ``OWN``.
            ValueError: there is no such recipe for what is trained, the batches do not divide, the
                optimiser does not run on the device, or ``output_dir`` holds a training that was
                started with other data or settings.
            FileExistsError: ``output_dir`` holds a finished training.
            ModuleNotFoundError: a package that the settings need is not installed.
        """
        device = network.device
        lora = lora_config(self.fields.get("lora"))
        folder = (
            tempfile.TemporaryDirectory()
            if self.output_dir is None
            else nullcontext(os.fspath(self.output_dir))
        )
        with folder as output_dir:
            args = self._arguments(arguments_class, output_dir, device, defaults, arguments, lora)
            if lora is not None:
                trainer_class = lora_trainer(trainer_class)
            if on_xla(device):
                trainer_class = xla_trainer(trainer_class, self.dtype)
            if self.measure is not None:
                parts["eval_dataset"] = parts["train_dataset"]  # not read, but asked for
            with _restored(network), adapted(network, lora, self.seed):
                trainer = self._trainer(trainer_class, args, network, parts)
                checkpoint = None
                if self.output_dir is not None:
                    checkpoint = self._begin(Path(output_dir), args)
                self._train(trainer, checkpoint)
            self.record |= {
                "finished": True,
                "steps": trainer.state.global_step,
                "loss": self.loss,
                "history": self.history,
            }
            if self.output_dir is not None and args.process_index == 0:
                write_json(Path(output_dir) / TRAINING_FILE, self.record)

    def _arguments(
        self,
        arguments_class: Any,
        output_dir: str,
        device: torch.device,
        method: str,
        more: dict[str, Any] | None,
        lora: Any,
    ) -> Any:
        """The trainer's arguments; begins the record with what they are."""
        import torch

        known = recipe(self.fields.get("recipe"), method)
        names = [field.name for field in dataclasses.fields(arguments_class)]
        whose = f"transformers.TrainingArguments, and {', '.join(OWN)}"
        check_names("training", self.fields, [*names, *OWN], whose)
        asked = {name: value for name, value in self.fields.items() if name not in OWN}
        halves = not (asked.get("bf16") or asked.get("fp16"))
        fields = {
            "output_dir": output_dir,
            "seed": self.seed,
            "bf16": halves and self.dtype == torch.bfloat16 and not on_xla(device),
            "fp16": halves and self.dtype == torch.float16,
            "use_cpu": device.type == "cpu",
            "dataloader_pin_memory": device.type == "cuda",
            "disable_tqdm": not self.verbose,
            # with the counter of the early stopping
            "restore_callback_states_from_checkpoint": True,
            **DEFAULTS["all"],
            **DEFAULTS[method],
            **self._checkpoints(asked),
            **(more or {}),
            **{name: value for name, value in known.items() if name not in OWN},
            **asked,
        }
        args = arguments_class(**fields)
        if args.device.type != device.type:
            raise ValueError(
                f"the reranker is on {device.type}, and transformers would train it on "
                f"{args.device.type}: give device={args.device.type!r}, or set USE_TORCH_XLA=0 in "
                f"the environment to train without torch_xla"
            )
        # sentence-transformers drops the last batch where there are several processes
        args.dataloader_drop_last = fields.get("dataloader_drop_last", False)
        _check_optimizer(args.optim.value, device)
        if self.measure is None and args.eval_strategy != "no":
            raise ValueError(
                f"eval_strategy={args.eval_strategy.value!r} needs something to validate on: give "
                f"fit(validation=), or training={{'held_out': {HELD_OUT}}}"
            )
        devices = args.world_size * max(1, args.n_gpu)
        size, steps = divide(self.fields, known, method, devices)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = size, steps
        if self.measure is not None and self.output_dir is None and args.world_size > 1:
            raise ValueError("validation in several processes needs an output_dir that they share")
        batch = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": steps,
            "devices": devices,
            "effective_batch": size * steps * devices,
        }
        with_effect = {
            name: value
            for name, value in (fields | {"patience": self.fields.get("patience")}).items()
            if not name.startswith(WITHOUT_EFFECT) and name not in batch and "token" not in name
        }
        told = {
            **self.about,
            "recipe": self.fields.get("recipe"),
            **batch,
            "arguments": with_effect,
        }
        if lora is not None:
            told["lora"] = account(lora, self.fields["lora"])
        self.record = {
            "finished": False,
            "settings": json.loads(json.dumps(told, default=_name)),
            "versions": versions(),
        }
        return args

    def _checkpoints(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The fields for checkpoints, and with a validation for a measurement before each."""
        fields: dict[str, Any] = {}
        if self.output_dir is not None or self.measure is not None:
            fields |= CHECKPOINTS
        if self.measure is not None:
            fields["eval_strategy"] = asked.get("eval_strategy", "steps")
            fields["eval_steps"] = asked.get("eval_steps", CHECKPOINTS["save_steps"])
            fields["save_strategy"], fields["save_steps"] = (
                fields["eval_strategy"],
                fields["eval_steps"],
            )
            fields |= {
                "load_best_model_at_end": True,
                "metric_for_best_model": "nDCG@10",
                "greater_is_better": True,
            }
            parse_measure(asked.get("metric_for_best_model", "nDCG@10"))  # an error now
        if any(name.startswith("save_") for name in asked):
            fields.pop("save_total_limit", None)  # who asks for checkpoints gets to keep them
        return fields

    def _trainer(self, trainer_class: Any, args: Any, network: Any, parts: dict[str, Any]) -> Any:
        """The trainer, with what transformers' own does not do."""
        import torch
        from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
        from transformers.trainer_pt_utils import LengthGroupedSampler

        training, measure = self, self.measure

        class Trainer(trainer_class):
            control: Any
            order: Any = None
            """The generator that the order of an epoch is drawn from, where it is not seeded."""
            batches: Any = None
            """The batches of sentence-transformers."""

            def add_model_card_callback(self, *_: Any) -> None:
                """Leaves out a card that is not kept, for which all texts would be tokenised."""

            def _get_train_sampler(self, train_dataset: Any = None) -> Any:
                return self.steps_of_like_length(super()._get_train_sampler(train_dataset))

            def get_batch_sampler(self, dataset: Any, batch_size: int, **options: Any) -> Any:
                self.order = options.get("generator")
                processes = args.world_size
                self.batches = super().get_batch_sampler(dataset, batch_size * processes, **options)
                self.steps_of_like_length(getattr(self.batches, "sampler", None))
                return self.batches if processes == 1 else _Shares(self.batches, dataset, processes)

            def steps_of_like_length(self, sampler: Any) -> Any:
                if isinstance(sampler, LengthGroupedSampler):
                    self.order = sampler.generator = torch.Generator()
                    sampler.batch_size = training.record["settings"]["effective_batch"]
                return sampler

            def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
                name = args.metric_for_best_model.removeprefix("eval_")
                self.model.eval()
                metrics = {f"eval_{name}": measure(name) if measure else math.nan}
                self.log(dict(metrics))
                self.control = self.callback_handler.on_evaluate(
                    args, self.state, self.control, metrics
                )
                return metrics

        class Continuity(TrainerCallback):
            """Has every checkpoint go on as without it, in the log and in the order of examples."""

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                training._tell(len(parts["train_dataset"]), state.max_steps, args)

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                epoch = int(state.epoch or 0)
                if trainer.order is not None:
                    trainer.order.manual_seed(args.seed + epoch)
                if hasattr(trainer.batches, "set_epoch"):  # which accelerate does not find
                    trainer.batches.set_epoch(epoch)

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_log |= control.should_save or control.should_evaluate

            on_epoch_end = on_step_end

        trainer = Trainer(model=network, args=args, **parts)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Continuity())
        if self.fields.get("patience") is not None:
            patience = positive_int("patience", self.fields["patience"])
            trainer.add_callback(EarlyStoppingCallback(patience))
        return trainer

    def _tell(self, rows: int, max_steps: int, args: Any) -> None:
        """Notes how many examples are seen, and prints it if verbose."""
        told = self.record["settings"]
        effective = told["effective_batch"]
        size = told["per_device_train_batch_size"] * told["devices"]
        epoch = math.ceil(math.ceil(rows / size) / told["gradient_accumulation_steps"])
        whole, rest = divmod(max_steps, epoch)
        seen = whole * rows + min(rows, rest * effective)
        self.record["batches"] = {"steps": max_steps, "effective_batch": effective, "seen": seen}
        if self.verbose and args.process_index == 0:
            at_once = f"{told['per_device_train_batch_size']} at once"
            times = f"{told['gradient_accumulation_steps']} times"
            pt.tqdm.write(
                f"{max_steps:,} steps of {effective:,} examples ({at_once}, {times}, devices: "
                f"{told['devices']}): {seen:,} in all, of {rows:,}",
                file=sys.stderr,
            )

    def _begin(self, folder: Path, args: Any) -> Path | None:
        """Opens ``output_dir``: the checkpoint to go on from, if there is one.

        Raises:
            ValueError: the training in the folder was started with other data or settings.
            FileExistsError: it is finished, or not one of ours.
        """
        file = folder / TRAINING_FILE
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        checkpoints = sorted(folder.glob("checkpoint-*"), key=_step)
        whole = [path for path in checkpoints if _is_whole(path, args.world_size)]
        if self.fields.get("overwrite_output_dir"):
            whole, known = [], None
        elif known is None and checkpoints:
            raise FileExistsError(
                f"{folder} holds checkpoints of another training, without {TRAINING_FILE}: {NEXT}"
            )
        elif known is not None and known["finished"]:
            raise FileExistsError(f"{folder} holds a finished training: {NEXT}")
        elif known is not None and whole:
            if other := settings_difference(known["settings"], self.record["settings"]):
                raise ValueError(
                    f"the training in {folder} was started with other data or settings:\n{other}\n"
                    f"Go on with those, or {NEXT}"
                )
            if other := settings_difference(known["versions"], self.record["versions"]):
                warnings.warn(f"{folder} goes on with other packages:\n{other}", stacklevel=2)
        args.distributed_state.wait_for_everyone()
        if args.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for path in set(checkpoints) - set(whole):
                shutil.rmtree(path)
            write_json(file, self.record)
        args.distributed_state.wait_for_everyone()
        return whole[-1] if whole else None

    def _train(self, trainer: Any, checkpoint: Path | None) -> None:
        """Trains, from the checkpoint on if there is one, and keeps the log and the mean loss."""
        before, done = 0.0, 0
        if checkpoint is not None:
            state = _state(checkpoint)
            for entry in state["log_history"]:
                if "loss" in entry:
                    before += entry["loss"] * (entry["step"] - done)
                    done = entry["step"]
            control = state["stateful_callbacks"]["TrainerControl"]["args"]
            if control["should_training_stop"]:  # killed after its last step
                best = trainer.args.load_best_model_at_end and state["best_model_checkpoint"]
                trainer._load_from_checkpoint(best or str(checkpoint))
                trainer.state.global_step, trainer.state.log_history = done, state["log_history"]
                self.history, self.loss = state["log_history"], before / done
                return
        with warnings.catch_warnings():
            # sentence-transformers knows the old name of activation checkpointing only
            warnings.filterwarnings("ignore", ".*gradient_checkpointing_enable", FutureWarning)
            out = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        steps = trainer.state.global_step
        self.history = trainer.state.log_history
        self.loss = (before + out.training_loss * (steps - done)) / steps


class _Shares:
    """Batches of all processes together, of each an equal share for every process in turn.

    So two processes see together what one sees in a step; sentence-transformers would leave one of
    them without a last batch, and the other waiting for it. What does not divide, fewer examples of
    an epoch than there are processes, is left out.
    """

    batch_size = None  # what accelerate takes for any size

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


NEXT = (
    "give another output_dir, or training={'overwrite_output_dir': True} to remove its checkpoints "
    "and train anew"
)


def _name(value: object) -> Any:
    """What JSON cannot hold, the same in every process: functions by their names."""
    if isinstance(value, set):
        return sorted(value)
    return getattr(value, "__qualname__", str(value))


def _check_optimizer(name: str, device: torch.device) -> None:
    """Checks that an optimiser of bitsandbytes has what it needs.

    Raises:
        ValueError: the device is not a CUDA GPU.
        ModuleNotFoundError: bitsandbytes is not installed.
    """
    if not any(part in name for part in ("bnb", "8bit", "paged")) or "torch" in name:
        return
    if device.type != "cuda":
        raise ValueError(
            f"optim={name!r} keeps its states in the memory of a CUDA GPU, and the device is "
            f"{str(device)!r}: give optim='adamw_torch', the default, or device='cuda'"
        )
    if find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"optim={name!r} needs bitsandbytes: pip install bitsandbytes, or give "
            f"optim='adamw_torch', the default"
        )


def _plain(network: Any, args: Any, output: Any) -> Any:
    """The output of a network, as a dict: PyTorch's DDP finds no tensor in a ``UserDict``."""
    return dict(output) if isinstance(output, UserDict) else output


@contextmanager
def _restored(network: Any) -> Iterator[None]:
    """Undoes what trainers do to a network but for its weights; leaves it in eval mode."""
    from transformers import PreTrainedModel

    device = network.device
    hook = network.register_forward_hook(_plain)
    try:
        yield
    finally:
        hook.remove()
        for name in ("forward", "_original_forward"):  # accelerate leaves its autocast there
            vars(network).pop(name, None)
        for part in network.modules():
            if hasattr(part, "gradient_checkpointing"):
                part.gradient_checkpointing = False
            if isinstance(part, PreTrainedModel):  # a hook that comes with it
                part.disable_input_require_grads()
        network.to(device).eval()


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


def _is_whole(checkpoint: Path, processes: int) -> bool:
    """Whether a checkpoint was written to its end, and nothing of it has been removed."""
    states = (
        ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    )
    if not all((checkpoint / file).exists() for file in ("optimizer.pt", "scheduler.pt", *states)):
        return False
    try:  # the last file that is written
        return _state(checkpoint)["global_step"] == _step(checkpoint) and any(
            checkpoint.rglob("*.safetensors")
        )
    except (OSError, ValueError):
        return False


def main_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    import torch

    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not together or torch.distributed.get_rank() == 0


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Keeps the libraries' notices and progress bars off the screen, unless ``verbose``."""
    if verbose:
        yield
        return
    from transformers.utils import logging as transformers_logging

    sentence_transformers = logging.getLogger("sentence_transformers")
    before = sentence_transformers.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    sentence_transformers.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        sentence_transformers.setLevel(before[0])
        transformers_logging.set_verbosity(before[1])
        if bars:
            transformers_logging.enable_progress_bar()
