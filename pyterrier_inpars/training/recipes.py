"""Default training settings, published recipes, and the size of a batch on each device."""

from __future__ import annotations

import math
from typing import Any

from pyterrier_inpars._arguments import positive_int

DEFAULTS: dict[str, dict[str, Any]] = {
    # Every method: one epoch, twenty log entries, no checkpoints, and the AdamW that runs on every
    # device (the fused one refuses XLA).
    "all": {
        "num_train_epochs": 1,
        "optim": "adamw_torch",
        "logging_steps": 0.05,
        "save_strategy": "no",
        "report_to": "none",
    },
    # InPars' own training of monoT5 (legacy/inpars-v1/train_t5.py of its toolkit): AdamW at a
    # constant rate, 128 pairs per step. Batches of similar length are this package's choice.
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
    # sentence-transformers' training guide, with batches of 32 instead of 16, since the other
    # documents of a batch are the negatives. Promptagator's values are for a T5 that was not
    # trained for retrieval before.
    "bi_encoder": {
        "learning_rate": 2e-5,
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 32,
    },
}
"""Default settings by method, for one process; ``batch_sizes`` divides them among several."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    # InPars (arXiv 2202.05144, section 4) and the toolkit's README (--max_steps 156): batches of
    # 128, half of them positives, at a constant rate; 156 batches are one epoch over the 20,000
    # pairs of 10,000 queries, none of which is held out. The inputs have 512 tokens, as in the
    # configurations of published T5s. The authors trained with T5X on a TPU, at 1e-3; for PyTorch
    # they give 3e-4 (issue 21 of zetaalphavector/inpars). The optimizer here is the default AdamW.
    "inpars": {
        "monot5": {
            "max_steps": 156,
            "effective_batch": 128,
            "held_out": 0.0,
            "learning_rate": 3e-4,
            "lr_scheduler_type": "constant",
        }
    },
    # InPars-light (arXiv 2301.02998) trains six-layer MiniLMs of 30M parameters on queries that
    # pass a round trip at 3. No source at hand confirms its learning rate and batch size, so both
    # are a cross-encoder's defaults: only the single epoch is set, over all examples.
    "inpars-light": {"cross_encoder": {"num_train_epochs": 1, "held_out": 0.0}},
    # GPL (Wang et al. 2022, arXiv 2112.07577, section 3, and gpl/train.py of UKPLab/gpl): margin
    # MSE to a cross-encoder's scores, in batches of 32. The authors train for 140,000 steps on dot
    # products, with 50 negatives for each query from each of two retrievers; the number of steps
    # here is one epoch.
    "gpl": {"bi_encoder": {"loss": "margin_mse", "per_device_train_batch_size": 32}},
    # CADET (Tamber et al. 2025, arXiv 2505.19274, and training_scripts of
    # manveertamber/cadet-dense-retrieval): Kullback-Leibler divergence from a cross-encoder's
    # scores, clipped and scaled to 0..1, at temperatures of 0.3 for the teacher and 0.05 for the
    # student's cosines (the default scale of 20), and a tenth of the in-batch cross-entropy. The
    # authors' cross-entropy has a temperature of 0.01, and their steps have 4,096 lists at 2e-4,
    # for up to 30 epochs with early stopping; batch, rate and number of epochs here are the
    # defaults.
    "cadet": {
        "bi_encoder": {
            "loss": "distillation",
            "teacher_temperature": 0.3,
            "in_batch_weight": 0.1,
        }
    },
}
"""Published settings by recipe and method; they take precedence over ``DEFAULTS``."""

HELD_OUT = 0.1
"""Default share of the queries that a validation holds out."""
MEASURE = "nDCG@10"
"""Default measure of a validation."""


def recipe_arguments(name: str | None, method: str) -> dict[str, Any]:
    """Returns the settings of a recipe for a method; none without a recipe.

    Args:
        name: Key of ``RECIPES``, or ``None``.
        method: Key of ``DEFAULTS``.

    Raises:
        ValueError: The recipe is for another method.
    """
    if name is None:
        return {}
    if method not in RECIPES[name]:
        raise ValueError(
            f"the recipe {name!r} trains a {' or '.join(RECIPES[name])}, not a {method}"
        )
    return RECIPES[name][method]


def batch_sizes(
    given: dict[str, Any], recipe: dict[str, Any], method: str, devices: int
) -> tuple[int, int]:
    """Returns the batch size per device, and the number of batches that make a step.

    The effective batch is their product with the number of devices. It is the same for any number
    of devices if ``effective_batch`` is given or part of a recipe, and by default. If only
    batch size or accumulation is given, without a recipe, they keep their meaning in transformers:
    numbers per device. A bi-encoder's batch is part of its loss, over all devices together, and
    is accumulated only on request.

    Args:
        given: Options of the user.
        recipe: Settings of the recipe, which ``given`` overrides.
        method: Key of ``DEFAULTS``.
        devices: Number of processes, times the GPUs of each.

    Raises:
        ValueError: The effective batch is not a multiple of what is computed at once.
    """
    default = {"gradient_accumulation_steps": 1} | DEFAULTS[method]
    fields = default | recipe | given
    size, steps = (
        positive_int(name, fields[name])
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    own_size = "per_device_train_batch_size" in given
    own_steps = "gradient_accumulation_steps" in given
    effective = given.get("effective_batch")
    if effective is None and not own_steps:
        effective = recipe.get("effective_batch")
        if effective is None and not own_size:
            effective = size * steps
    if effective is None:
        return size, steps
    share, rest = divmod(positive_int("effective_batch", effective), devices)
    if rest:
        raise ValueError(
            f"effective_batch={effective} cannot be divided among {devices} devices: give "
            f"training={{'effective_batch': a multiple of {devices}}}"
        )
    if not own_size:
        if own_steps:
            size = max(1, share // steps)
        else:
            size = share if method == "bi_encoder" else math.gcd(size, share)
    if share % size or (own_steps and size * steps != share):
        parts = f"{size} examples per device" + f", accumulated {steps} times," * own_steps
        raise ValueError(
            f"effective_batch={effective} is not a multiple of {parts} on {devices} devices: leave "
            f"out one of effective_batch, per_device_train_batch_size, gradient_accumulation_steps"
        )
    return size, share // size
