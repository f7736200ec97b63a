"""LoRA: small matrices are trained beside the large ones of a network, and then added to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_inpars.training.recipes import check_names

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
"""Of a checkpoint, with the name that transformers looks for."""


def lora_config(lora: bool | dict[str, Any] | None) -> Any:
    """The ``peft.LoraConfig`` that ``training={"lora": ...}`` asks for, or ``None`` for no LoRA.

    Args:
        lora: its fields over the defaults, which are those of peft but for the layers that get
            adapters: all linear ones (Dettmers et al. 2023, "QLoRA", arXiv 2305.14314, section 4),
            whatever the architecture calls them. ``True`` for the defaults.

    Raises:
        ModuleNotFoundError: peft is not installed.
        TypeError: it is none of these, or has a field that there is not.
        ValueError: of peft, at a value that it cannot use.
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
    fields = {} if lora is True else lora
    names = [field.name for field in dataclasses.fields(LoraConfig)]
    check_names("lora", fields, names, "peft.LoraConfig")
    return LoraConfig(**{"target_modules": "all-linear", **fields})


def account(config: Any, lora: bool | dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``peft.LoraConfig`` that were asked for, and those that matter in any case.

    Args:
        config: before it is used: peft then writes the names of the layers into it.
        lora: what was asked for.
    """
    asked = lora if isinstance(lora, dict) else {}
    names = asked.keys() | {"r", "lora_alpha", "lora_dropout", "target_modules"}
    return {name: getattr(config, name) for name in sorted(names)}


def add_lora(network: torch.nn.Module, config: Any) -> Any:
    """Puts adapters into a network, in place, and freezes its other weights.

    A head for scores, new or not, is trained as without adapters, and so are the layers that
    sentence-transformers has after its transformer.

    Args:
        network: of transformers or sentence-transformers.
        config: a ``peft.LoraConfig``.

    Returns:
        The ``peft.LoraModel`` that can take the adapters out again.
    """
    from peft import LoraModel

    model: Any = getattr(network, "transformers_model", network)
    return LoraModel(model.base_model, config, "default")


@contextmanager
def adapted(network: torch.nn.Module, config: Any, seed: int) -> Iterator[None]:
    """Adapters for the time of a training (Hu et al. 2021, "LoRA", arXiv 2106.09685).

    At the end they are merged into the weights, so that the network has the layers that it had.

    Args:
        network: see ``add_lora``.
        config: a ``peft.LoraConfig``, or ``None`` for no adapters.
        seed: decides their first weights.
    """
    if config is None:
        yield
        return
    import torch

    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapters = add_lora(network, config)
    try:
        yield
    finally:
        adapters.merge_and_unload()
        network.requires_grad_(True)
        for weight in frozen:
            weight.requires_grad_(False)


def lora_trainer(trainer_class: type) -> type:
    """The subclass of a ``transformers.Trainer`` whose checkpoints hold no frozen weights."""
    from safetensors.torch import load_file, save_file

    class Trainer(trainer_class):
        def _save(self, output_dir: str, state_dict: Any = None) -> None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            trained = {
                name: weight.detach().contiguous()
                for name, weight in self.model.named_parameters()
                if weight.requires_grad
            }
            save_file(trained, Path(output_dir) / WEIGHTS_FILE)

        def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
            self.model.load_state_dict(load_file(Path(checkpoint) / WEIGHTS_FILE), strict=False)

        def _load_best_model(self) -> None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    return Trainer
