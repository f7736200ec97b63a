"""LoRA: trains low-rank matrices beside the linear layers, and merges them into the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.xla import Mixin
from pyterrier_inpars.training._names import check_names

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
"""Weights of a checkpoint, under the name that transformers looks for."""


def lora_config(lora: bool | dict[str, Any] | None) -> Any:
    """Returns the ``peft.LoraConfig`` of ``training={"lora": ...}``, or ``None`` without LoRA.

    Args:
        lora: Fields that override the defaults, or ``True`` for the defaults: those of peft, with
            matrices beside all linear layers (Dettmers et al. 2023, "QLoRA", arXiv 2305.14314,
            section 4), whatever the architecture calls them.

    Raises:
        ModuleNotFoundError: peft is not installed.
        TypeError: ``lora`` is not a bool or a dict, or has an unknown field.
        ValueError: peft rejects a value.
    """
    if lora is None or lora is False:
        return None
    if lora is not True and not isinstance(lora, dict):
        raise TypeError(f"lora must be True or a dict of fields of peft.LoraConfig, not {lora!r}")
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "training={'lora': ...} needs peft: pip install 'pyterrier_inpars[lora]'"
        ) from error
    given = {} if lora is True else lora
    check_names("lora", given, [f.name for f in dataclasses.fields(LoraConfig)], "peft.LoraConfig")
    return LoraConfig(**{"target_modules": "all-linear", **given})


def lora_settings(config: Any, lora: bool | dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a ``peft.LoraConfig`` for the provenance: given and essential ones.

    Args:
        config: Unused configuration; peft writes layer names into one that it applies.
        lora: The option that it was made from.
    """
    given = lora if isinstance(lora, dict) else {}
    names = given.keys() | {"r", "lora_alpha", "lora_dropout", "target_modules"}
    return {name: getattr(config, name) for name in sorted(names)}


def add_lora(network: torch.nn.Module, config: Any) -> Any:
    """Adds LoRA matrices to a network, in place, and freezes its other weights.

    A scoring head stays trainable, new or not, and so do the layers that sentence-transformers puts
    after its transformer.

    Args:
        network: Network of transformers or sentence-transformers.
        config: ``peft.LoraConfig``.

    Returns:
        The ``peft.LoraModel``, which can merge or remove the matrices.
    """
    from peft import LoraModel

    model: Any = getattr(network, "transformers_model", network)
    return LoraModel(model.base_model, config, "default")


@contextmanager
def lora_matrices(network: torch.nn.Module, config: Any, seed: int) -> Iterator[None]:
    """Adds LoRA matrices for the time of a training (Hu et al. 2021, arXiv 2106.09685).

    At the end they are merged into the weights, so that the network has its own layers again; if
    the block fails, they are dropped.

    Args:
        network: See ``add_lora``.
        config: ``peft.LoraConfig``, or ``None`` for no LoRA.
        seed: Seed of the initial matrices.
    """
    if config is None:
        yield
        return
    import torch

    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = add_lora(network, config)
    try:
        yield
        model.merge_and_unload()
    except BaseException:
        model.unload()
        raise
    finally:
        network.requires_grad_(True)
        for weight in frozen:
            weight.requires_grad_(False)


class LoraTrainerMixin(Mixin):
    """Keeps frozen weights out of the checkpoints of a ``transformers.Trainer``."""

    def _save(self, output_dir: str, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        Path(output_dir).mkdir(parents=True, exist_ok=True)
        trained = {
            name: weight.detach().contiguous()
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }
        save_file(trained, Path(output_dir) / WEIGHTS_FILE)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(Path(checkpoint) / WEIGHTS_FILE), strict=False)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
