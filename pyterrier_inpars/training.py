"""What the rerankers share when they train: settings, checkpoints, and one way to run a trainer."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyterrier as pt
from ir_measures import parse_measure

from pyterrier_inpars.frames import check_strings, positive_int
from pyterrier_inpars.ledger import Mark, changes

if TYPE_CHECKING:
    import torch

DEFAULTS: dict[str, dict[str, Any]] = {
    # Whatever is trained: one pass, twenty entries in the log, nothing written, and the one AdamW
    # that runs on every device (the fused one refuses XLA).
    "all": {
        "num_train_epochs": 1,
        "optim": "adamw_torch",
        "logging_steps": 0.05,
        "save_strategy": "no",
        "report_to": "none",
    },
    # InPars' own training of monoT5 (legacy/inpars-v1/train_t5.py of its toolkit): AdamW at a
    # constant rate, 128 pairs a step. Batches of rows of one length are this package's.
    "monot5": {
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 5e-5,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 16,
        "train_sampling_strategy": "group_by_length",
    },
    # sentence-transformers' script for this loss on MS MARCO (training_ms_marco_listnet.py).
    "cross_encoder": {
        "learning_rate": 2e-5,
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 16,
    },
    # sentence-transformers' training guide, but batches of 32 for its 16, since the others of a
    # batch are the negatives. Promptagator's own values are for a T5 that has seen no retrieval.
    "bi_encoder": {
        "learning_rate": 2e-5,
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 32,
    },
}
"""The settings by what is trained, for one process; see :func:`divide` for several."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    # InPars (arXiv 2202.05144, section 4) and the toolkit's README (--max_steps 156): batches of
    # 128, half of them positives, at the constant rate 1e-3; 156 batches are one pass over the
    # 20,000 pairs of 10,000 queries. The inputs have 512 tokens, as published T5s tell of
    # themselves. The authors ran it in Mesh TensorFlow; the optimiser here is the default AdamW.
    "inpars": {
        "monot5": {
            "max_steps": 156,
            "effective_batch": 128,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
        }
    },
    # InPars-light (arXiv 2301.02998) trains six-layer MiniLMs of 30 million weights on queries that
    # pass a round trip at 3. Its rate and batch size could not be confirmed from a source at hand,
    # so that both are the defaults of a cross-encoder: only the one pass over the data is set.
    "inpars-light": {"cross_encoder": {"num_train_epochs": 1}},
}
"""Published settings by name, and in them by what is trained; they go over ``DEFAULTS``."""

CHECKPOINTS = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1}
"""Where there is an ``output_dir``: ten checkpoints a run, the one before removed after each."""

OWN = ("recipe", "effective_batch", "patience", "held_out", "overwrite_output_dir")
"""Keys of ``training`` that ``TrainingArguments`` does not have."""

HELD_OUT = 0.1
"""Share of the queries to validate on when nothing else is given."""

TRAINING_FILE = "inpars_training.json"
"""The account of a training, in its ``output_dir`` and beside the checkpoint that ``save`` made."""

WITHOUT_EFFECT = (
    *("output_dir", "overwrite_output_dir", "disable_tqdm", "report_to", "run_name", "project"),
    *("logging_", "log_", "save_", "hub_", "push_to_hub", "trackio_", "dataloader_pin_memory"),
)
"""Beginnings of the names of the fields that the trained weights do not depend on."""


class Group(NamedTuple):
    """A query with one relevant document and the negatives mined for it."""

    query: str
    positive: str
    negatives: list[str]


def groups(examples: pd.DataFrame, text_field: str) -> list[Group]:
    """The training examples by positive: each with all the negatives of its qid, in frame order."""
    relevant = examples["label"] == 1
    negatives: dict[str, list[str]] = {}
    for qid, text in zip(examples["qid"][~relevant], examples[text_field][~relevant], strict=True):
        negatives.setdefault(qid, []).append(text)
    positives = examples[relevant]
    return [
        Group(query, text, negatives.get(qid, []))
        for qid, query, text in zip(
            positives["qid"], positives["query"], positives[text_field], strict=True
        )
    ]


def check_examples(examples: pd.DataFrame, text_field: str) -> None:
    """Checks that the examples have texts, labels 0 and 1 only, and at least one positive.

    Raises:
        ValueError: they do not; the error says what is wrong.
    """
    if len(examples) == 0:
        raise ValueError(
            "no examples to train on: the frame is empty; a filter may have dropped all"
        )
    check_strings(examples, "query", text_field)
    other = examples["label"][~examples["label"].isin([0, 1])]
    if len(other):
        raise ValueError(f"label must be 1 (relevant) or 0 (negative), not {other.iloc[0]!r}")
    if not (examples["label"] == 1).any():
        raise ValueError("no example has label 1: there is no relevant document to learn from")


def check_negatives(examples: pd.DataFrame) -> None:
    """Checks that at least one example is a negative.

    Raises:
        ValueError: there is none.
    """
    if not (examples["label"] == 0).any():
        raise ValueError("no example has label 0: mine negatives first, as with NegativeMiner")


def fingerprint(frame: pd.DataFrame, text_field: str = "text") -> dict[str, Any]:
    """What tells examples from others: their number of rows, and a SHA-256 of them in order.

    It takes in the columns ``qid``, ``query``, ``docno`` and ``text_field``, and of ``label`` and
    ``score`` those that are there.
    """
    mark = Mark()
    columns = [frame[c].astype(str) for c in ("qid", "query", "docno", text_field)]
    numbers = [pd.to_numeric(frame[c], "coerce") for c in ("label", "score") if c in frame]
    columns += [column.map(lambda x: repr(float(x))) for column in numbers]
    for row in zip(*columns, strict=True):
        mark = mark.after(*row)
    return {"rows": mark.documents, "sha256": mark.fingerprint}


def settings(training: str | dict[str, Any] | None) -> dict[str, Any]:
    """The ``training`` of a reranker as a dict: the name of a recipe is short for one."""
    return {"recipe": training} if isinstance(training, str) else dict(training or {})


def hold_out(examples: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parts the examples in those to train on and those to validate on, by whole qids.

    Args:
        examples: frame ``qid, ..., label``.
        share: of the qids to validate on, at least one; between 0 and 1.
        seed: decides which.

    Raises:
        ValueError: the share is not between 0 and 1, there is one qid only, or those held out
            have nothing to rank: no negative, or no positive.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out must be a share between 0 and 1, not {share!r}")
    qids = list(dict.fromkeys(examples["qid"]))
    if len(qids) < 2:
        raise ValueError("held_out needs two queries or more: one to train and one to validate on")
    number = min(max(1, round(share * len(qids))), len(qids) - 1)
    chosen = examples["qid"].isin(random.Random(seed).sample(qids, number))
    held = examples[chosen]
    if held["label"].nunique() < 2:
        raise ValueError(
            "the queries held out for validation have no negatives, or nothing but negatives, so "
            "that any order is right: mine negatives, or give fit(validation=) results to rerank"
        )
    return examples[~chosen], held


def divide(
    asked: dict[str, Any], recipe: dict[str, Any], method: str, devices: int
) -> tuple[int, int]:
    """The batch of one device, and how many of them make a step.

    The examples of a step (the effective batch) are the product of both with the number of devices.
    It is kept, whatever that number, if ``effective_batch`` is asked for or a recipe has it, and by
    default for monoT5 and cross-encoders. It is not for a bi-encoder, whose batch is part of its
    loss, nor for who asks for batch size or accumulation and for no recipe: they are then what
    transformers takes them for, numbers of one device.

    Args:
        asked: what the user gives.
        recipe: what the recipe has, under it.
        method: key of ``DEFAULTS``.
        devices: processes, times the GPUs of each.

    Raises:
        ValueError: the effective batch is not a multiple of what is computed at once.
    """
    default = {"gradient_accumulation_steps": 1} | DEFAULTS[method]
    fields = default | recipe | asked
    size, steps = (
        positive_int(name, fields[name])
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    own_size = "per_device_train_batch_size" in asked
    own_steps = "gradient_accumulation_steps" in asked
    effective = asked.get("effective_batch")
    if effective is None and not own_steps:
        effective = recipe.get("effective_batch")
        if effective is None and not own_size and method != "bi_encoder":
            effective = size * steps
    if effective is None:
        return size, steps
    share, rest = divmod(positive_int("effective_batch", effective), devices)
    if rest:
        raise ValueError(
            f"an effective batch of {effective} cannot be shared by {devices} devices: give "
            f"training={{'effective_batch': a multiple of {devices}}}"
        )
    if not own_size:
        size = math.gcd(size, share)
    if share % size or (own_steps and size * steps != share):
        held = f"{size} examples a device" + f", {steps} times," * own_steps
        raise ValueError(
            f"an effective batch of {effective} is not made of {held} on {devices} devices: leave "
            f"one of effective_batch, per_device_train_batch_size, gradient_accumulation_steps out"
        )
    return size, share // size


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
            ValueError: there is no such recipe for what is trained, the batches do not divide, or
                ``output_dir`` holds a training that was begun with other data or settings.
            FileExistsError: ``output_dir`` holds a finished training.
        """
        device = network.device
        folder = (
            tempfile.TemporaryDirectory()
            if self.output_dir is None
            else nullcontext(os.fspath(self.output_dir))
        )
        with folder as output_dir:
            args = self._arguments(arguments_class, output_dir, device, defaults, arguments)
            if self.measure is not None:
                parts["eval_dataset"] = parts["train_dataset"]  # not read, but asked for
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
        for name in ("forward", "_original_forward"):  # accelerate leaves its autocast there
            vars(network).pop(name, None)
        network.to(device).eval()

    def _arguments(
        self,
        arguments_class: Any,
        output_dir: str,
        device: torch.device,
        method: str,
        more: dict[str, Any] | None,
    ) -> Any:
        """The trainer's arguments; begins the record with what they are."""
        import torch

        recipe = self._recipe(method)
        _check_names(self.fields, [f.name for f in dataclasses.fields(arguments_class)])
        asked = {name: value for name, value in self.fields.items() if name not in OWN}
        halves = not (asked.get("bf16") or asked.get("fp16"))
        fields = {
            "output_dir": output_dir,
            "seed": self.seed,
            "bf16": halves and self.dtype == torch.bfloat16,
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
            **{name: value for name, value in recipe.items() if name not in OWN},
            **asked,
        }
        args = arguments_class(**fields)
        if self.measure is None and args.eval_strategy != "no":
            raise ValueError(
                f"eval_strategy={args.eval_strategy.value!r} needs something to validate on: give "
                f"fit(validation=), or training={{'held_out': {HELD_OUT}}}"
            )
        devices = args.world_size * max(1, args.n_gpu)
        size, steps = divide(self.fields, recipe, method, devices)
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
        self.record = {
            "finished": False,
            "settings": json.loads(json.dumps(told, default=_name)),
            "versions": versions(),
        }
        return args

    def _recipe(self, method: str) -> dict[str, Any]:
        name = self.fields.get("recipe")
        if name is None:
            return {}
        if name not in RECIPES:
            raise ValueError(f"there is no recipe {name!r}: it must be one of {', '.join(RECIPES)}")
        if method not in RECIPES[name]:
            raise ValueError(
                f"the recipe {name!r} trains a {' or '.join(RECIPES[name])}, not a {method}"
            )
        return RECIPES[name][method]

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

            def _get_train_sampler(self, train_dataset: Any = None) -> Any:
                sampler = super()._get_train_sampler(train_dataset)
                if isinstance(sampler, LengthGroupedSampler):
                    self.order = sampler.generator = torch.Generator()
                    sampler.batch_size = training.record["settings"]["effective_batch"]
                return sampler

            def get_batch_sampler(self, *args: Any, **options: Any) -> Any:
                self.order = options.get("generator")
                return super().get_batch_sampler(*args, **options)

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
                if trainer.order is not None:
                    trainer.order.manual_seed(args.seed + int(state.epoch or 0))

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
            ValueError: the training in the folder was begun with other data or settings.
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
            if other := changes(known["settings"], self.record["settings"]):
                raise ValueError(
                    f"the training in {folder} was begun with other data or settings:\n{other}\n"
                    f"Go on with those, or {NEXT}"
                )
            if other := changes(known["versions"], self.record["versions"]):
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
        out = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        steps = trainer.state.global_step
        self.history = trainer.state.log_history
        self.loss = (before + out.training_loss * (steps - done)) / steps


NEXT = (
    "give another output_dir, or training={'overwrite_output_dir': True} to remove its checkpoints "
    "and train anew"
)


def _name(value: object) -> str:
    """What JSON cannot hold, the same in every process: functions by their names."""
    return getattr(value, "__qualname__", str(value))


def _check_names(asked: dict[str, Any], names: list[str]) -> None:
    for name in asked:
        if name not in names and name not in OWN:
            near = difflib.get_close_matches(name, [*names, *OWN], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TypeError(
                f"training has no field {name!r}: {hint}It takes those of "
                f"transformers.TrainingArguments, and {', '.join(OWN)}"
            )


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


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def versions() -> dict[str, str]:
    """The versions of the packages that a training depends on, of those installed."""
    found = {}
    for package in ("pyterrier_inpars", "torch", "transformers", "sentence-transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    import torch

    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not together or torch.distributed.get_rank() == 0


def first_weights(network: torch.nn.Module) -> str:
    """A fingerprint of a network's weights: the SHA-256 of the first 1,024 numbers of each."""
    from hashlib import sha256

    digest = sha256()
    for name, weight in network.named_parameters():
        numbers = weight.detach().flatten()[:1024].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + numbers.tobytes())
    return digest.hexdigest()


def model_card(record: dict[str, Any], kind: str) -> str:
    """A model card in the form of the Hugging Face hub, from the account of a training.

    Args:
        record: see ``Reranker.provenance``.
        kind: class of the reranker, such as ``"MonoT5"``.
    """
    told = record["settings"]
    library = "transformers" if kind == "MonoT5" else "sentence-transformers"
    arguments = told["arguments"]
    shown = ("learning_rate", "lr_scheduler_type", "weight_decay", "warmup_steps", "seed")
    rows = {
        "examples": f"{told['examples']['rows']:,} rows, SHA-256 `{told['examples']['sha256']}`",
        "recipe": told["recipe"] or "the defaults of pyterrier_inpars",
        "steps": f"{record['steps']:,} of {told['effective_batch']:,} examples",
        **{name: arguments[name] for name in shown if name in arguments},
        "mean training loss": f"{record['loss']:.4f}",
    }
    for name, value in _best(record["history"]).items():
        rows[f"best {name} in validation"] = f"{value:.4f}"
    rows |= record["versions"]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: {library}
tags:
- pyterrier
- inpars
- reranker
---

# {kind} trained from {told["reranker"]["model"]}

A reranker for PyTerrier, trained on synthetic queries by `pyterrier_inpars`.

```python
from pyterrier_inpars import {kind}

reranker = {kind}("path or name of this model")
pipeline = first_stage >> reranker
```

| | |
|---|---|
{table}

`{TRAINING_FILE}` has all settings and the loss curve.
"""


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    """The highest value of each measure in a log."""
    best: dict[str, float] = {}
    for entry in history:
        for name, value in entry.items():
            if name.startswith("eval_"):
                name = name.removeprefix("eval_")
                best[name] = max(value, best.get(name, value))
    return best


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
