"""What the rerankers share when they train: their examples, and one way to run a trainer."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pyterrier_inpars.frames import check_strings

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


@dataclass
class Training:
    """One run of a Hugging Face ``Trainer``, and what it leaves behind.

    Args:
        fields: of ``TrainingArguments``, over the defaults.
        output_dir: where the trainer writes; ``None`` for a temporary folder.
        seed: of the order of the examples and the dropout.
        dtype: of the matrix products; the weights are float32.
        verbose: shows the trainer's progress bar.
    """

    fields: dict[str, Any]
    output_dir: str | os.PathLike[str] | None
    seed: int
    dtype: torch.dtype
    verbose: bool
    history: list[dict[str, float]] = field(default_factory=list)
    loss: float | None = None

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
        """
        import torch
        from transformers import PrinterCallback

        device = network.device
        folder = (
            tempfile.TemporaryDirectory()
            if self.output_dir is None
            else nullcontext(os.fspath(self.output_dir))
        )
        with folder as output_dir:
            fields = {
                "output_dir": output_dir,
                "seed": self.seed,
                "bf16": self.dtype == torch.bfloat16,
                "fp16": self.dtype == torch.float16,
                "use_cpu": device.type == "cpu",
                "dataloader_pin_memory": device.type == "cuda",
                "disable_tqdm": not self.verbose,
                **DEFAULTS["all"],
                **DEFAULTS[defaults],
                **(arguments or {}),
                **self.fields,
            }
            trainer = trainer_class(model=network, args=arguments_class(**fields), **parts)
            trainer.remove_callback(PrinterCallback)
            self.loss = trainer.train().training_loss
        self.history = trainer.state.log_history
        for name in ("forward", "_original_forward"):  # accelerate leaves its autocast there
            vars(network).pop(name, None)
        network.to(device).eval()


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
