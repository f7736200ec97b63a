"""What a training is asked for: the defaults, the published recipes, and the size of a step."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from pyterrier_inpars._stage import positive_int

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

OWN = ("recipe", "effective_batch", "patience", "held_out", "lora", "overwrite_output_dir")
"""Keys of ``training`` that ``TrainingArguments`` does not have."""

HELD_OUT = 0.1
"""Share of the queries to validate on when nothing else is given."""


def settings(training: str | dict[str, Any] | None) -> dict[str, Any]:
    """The ``training`` of a reranker as a dict: the name of a recipe is short for one.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(training, str | dict | None):
        raise TypeError(f"training must be a dict or the name of a recipe, not {training!r}")
    return {"recipe": training} if isinstance(training, str) else dict(training or {})


def divide(
    asked: dict[str, Any], recipe: dict[str, Any], method: str, devices: int
) -> tuple[int, int]:
    """The batch of one device, and how many of them make a step.

    The examples of a step (the effective batch) are the product of both with the number of devices.
    It is kept, whatever that number, if ``effective_batch`` is asked for or a recipe has it, and by
    default. It is not for who asks for batch size or accumulation and for no recipe: they are then
    what transformers takes them for, numbers of one device. A bi-encoder's batch is part of its
    loss, the devices' together, and is not accumulated unless that is asked for.

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
        if effective is None and not own_size:
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
        if own_steps:
            size = max(1, share // steps)
        else:
            size = share if method == "bi_encoder" else math.gcd(size, share)
    if share % size or (own_steps and size * steps != share):
        held = f"{size} examples a device" + f", {steps} times," * own_steps
        raise ValueError(
            f"an effective batch of {effective} is not made of {held} on {devices} devices: leave "
            f"one of effective_batch, per_device_train_batch_size, gradient_accumulation_steps out"
        )
    return size, share // size


def recipe(name: str | None, method: str) -> dict[str, Any]:
    """The settings of a recipe for what is trained; none for no recipe.

    Raises:
        ValueError: there is no such recipe, or it is not for this method.
    """
    if name is None:
        return {}
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}: it must be one of {', '.join(RECIPES)}")
    if method not in RECIPES[name]:
        raise ValueError(
            f"the recipe {name!r} trains a {' or '.join(RECIPES[name])}, not a {method}"
        )
    return RECIPES[name][method]


def check_names(what: str, asked: Iterable[str], names: list[str], whose: str) -> None:
    """Checks that all fields asked for are among those there are.

    Args:
        what: parameter that the fields are given in.
        asked: the fields.
        names: those there are.
        whose: tells the reader where to look them up.

    Raises:
        TypeError: one is not; the error tells the name nearest to it.
    """
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TypeError(f"{what} has no field {name!r}: {hint}It takes those of {whose}")
