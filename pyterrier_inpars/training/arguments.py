"""The ``TrainingArguments`` of a run, and the settings that its provenance records."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.xla import on_xla
from pyterrier_inpars.training.options import OWN_OPTIONS, TrainingOptions
from pyterrier_inpars.training.recipes import (
    DEFAULTS,
    HELD_OUT,
    MEASURE,
    batch_sizes,
    recipe_arguments,
)

if TYPE_CHECKING:
    import torch

CHECKPOINTS = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1}
"""Defaults with an ``output_dir``: ten checkpoints per run, of which the last is kept."""

WITHOUT_EFFECT = (
    *("output_dir", "overwrite_output_dir", "disable_tqdm", "report_to", "run_name", "project"),
    *("logging_", "log_", "save_", "hub_", "push_to_hub", "trackio_", "dataloader_pin_memory"),
)
"""Prefixes of the fields that do not affect the trained weights."""


def training_arguments(
    arguments_class: Any,
    options: TrainingOptions,
    method: str,
    *,
    output_dir: str,
    device: torch.device,
    dtype: torch.dtype,
    validates: bool,
    verbose: bool,
    more: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Builds the arguments of a trainer from defaults, recipe and options.

    Args:
        arguments_class: ``transformers.TrainingArguments`` or a subclass.
        options: Options of the reranker.
        method: Key of ``recipes.DEFAULTS``.
        output_dir: Folder of the trainer.
        device: Device of the network.
        dtype: Precision of the matrix products.
        validates: Whether the run validates during training.
        verbose: Whether progress is shown.
        more: Arguments that belong to the method and not to its tuning.

    Returns:
        The arguments, and the settings that affect the trained weights.

    Raises:
        ValueError: The batches do not divide, the optimizer does not run on the device, or there
            is nothing to validate on.
        ModuleNotFoundError: A package that the settings need is not installed.
    """
    import torch

    recipe = recipe_arguments(options.recipe, method)
    given = options.arguments
    if "num_train_epochs" in given:  # the steps of a recipe would replace them
        recipe = {name: value for name, value in recipe.items() if name != "max_steps"}
    autocast = not (given.get("bf16") or given.get("fp16"))
    fields = {
        "output_dir": output_dir,
        "seed": options.seed,
        "bf16": autocast and dtype == torch.bfloat16 and not on_xla(device),
        "fp16": autocast and dtype == torch.float16,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        "disable_tqdm": not verbose,
        "restore_callback_states_from_checkpoint": True,  # the counter of early stopping
        **DEFAULTS["all"],
        **DEFAULTS[method],
        **_checkpoint_arguments(options, validates),
        **more,
        **{name: value for name, value in recipe.items() if name not in OWN_OPTIONS},
        **given,
    }
    args = arguments_class(**fields)
    # sentence-transformers drops the last batch if there are several processes
    args.dataloader_drop_last = False
    check_device(device, args.device)
    check_optimizer(args.optim.value, device)
    if not validates and args.eval_strategy != "no":
        raise ValueError(
            f"eval_strategy={args.eval_strategy.value!r} needs something to validate on: give "
            f"fit(validation=), or training={{'held_out': {HELD_OUT}}}"
        )
    if not validates and options.patience is not None:
        raise ValueError(
            f"patience={options.patience} needs something to validate on: give fit(validation=), "
            f"or leave out held_out=0 and eval_strategy='no'"
        )
    if validates and options.output_dir is None and args.world_size > 1:
        raise ValueError(
            "validation during training in several processes needs an output_dir that they share"
        )
    devices = args.world_size * max(1, args.n_gpu)
    size, steps = batch_sizes(options.given(), recipe, method, devices)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = size, steps
    batch = {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": steps,
        "devices": devices,
        "effective_batch": size * steps * devices,
    }
    effective = {
        name: value
        for name, value in (fields | {"patience": options.patience}).items()
        if not name.startswith(WITHOUT_EFFECT) and name not in batch and "token" not in name
    }
    return args, {"recipe": options.recipe, **batch, "arguments": effective}


def _checkpoint_arguments(options: TrainingOptions, validates: bool) -> dict[str, Any]:
    """Returns the fields for checkpoints, and for a validation before each of them."""
    given = options.arguments
    fields: dict[str, Any] = {}
    if options.output_dir is not None or validates:
        fields |= CHECKPOINTS
    if validates:
        strategy = given.get("eval_strategy", "steps")
        steps = given.get("eval_steps", CHECKPOINTS["save_steps"])
        fields |= {
            "eval_strategy": strategy,
            "eval_steps": steps,
            "save_strategy": strategy,
            "save_steps": steps,
            "load_best_model_at_end": True,
            "metric_for_best_model": MEASURE,
            "greater_is_better": True,
        }
    if any(name.startswith("save_") for name in given):
        fields.pop("save_total_limit", None)  # checkpoints that the user asks for are kept
    return fields


def check_device(device: torch.device, trainer: torch.device) -> None:
    """Checks that transformers trains on the device of the network.

    Args:
        device: Device of the network.
        trainer: Device that transformers chose, ``TrainingArguments.device``.

    Raises:
        ValueError: It is another kind of device, or another GPU.
    """
    if trainer.type != device.type:
        raise ValueError(
            f"the reranker is on {device.type}, but transformers would train it on "
            f"{trainer.type}: give device={trainer.type!r}, or set USE_TORCH_XLA=0 in the "
            f"environment to train without torch_xla"
        )
    if (trainer.index or 0) != (device.index or 0):
        raise ValueError(
            f"the reranker is on {device}, but transformers would train it on {trainer}: leave "
            f"out device, and set CUDA_VISIBLE_DEVICES={device.index or 0} in the environment"
        )


def check_optimizer(name: str, device: torch.device) -> None:
    """Checks that an optimizer of bitsandbytes has what it needs.

    Raises:
        ValueError: The device is not a CUDA GPU.
        ModuleNotFoundError: bitsandbytes is not installed.
    """
    if not any(part in name for part in ("bnb", "8bit", "paged")) or "torch" in name:
        return
    if device.type != "cuda":
        raise ValueError(
            f"optim={name!r} keeps its state in the memory of a CUDA GPU, and the device is "
            f"{str(device)!r}: give optim='adamw_torch', the default, or device='cuda'"
        )
    if find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"optim={name!r} needs bitsandbytes: pip install bitsandbytes, or give "
            f"optim='adamw_torch', the default"
        )
