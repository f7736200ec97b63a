"""How much memory a training takes, found without the memory."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._stage import positive_int
from pyterrier_inpars.training.lora import add_lora, lora_config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Memory:
    """Bytes that a training takes on each device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all four, in bytes."""
        return sum(dataclasses.astuple(self))

    def __str__(self) -> str:
        parts = {**dataclasses.asdict(self), "total": self.total}
        return ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in parts.items())


def estimate_memory(
    model: Any,
    batch_size: int,
    tokens: int,
    dtype: str = "float32",
    lora: bool | dict[str, Any] | None = None,
    activation_checkpointing: bool = False,
) -> Memory:
    """The memory that training a network with AdamW takes on a device, without loading it.

    With P weights, T of them trained (all, but with LoRA): weights 4 P bytes, gradients 4 T and the
    two moments of AdamW 8 T, all in float32, as this package trains. Activations are what autograd
    keeps of one forward pass over a batch: the pass is run on PyTorch's ``meta`` device, which
    knows shapes and has no numbers, and the sizes of the kept tensors are added up, each once. With
    activation checkpointing it keeps what the layers read, and of a single layer, the one with
    most, what is inside. Of ``dtype`` are all of them, while autocast keeps a few in float32. Not
    counted: what a single operation needs besides (most for the logits of a large vocabulary), what
    the allocator loses, and the copies of the weights that autocast makes in a narrower dtype.

    Args:
        model: configuration of an encoder or an encoder-decoder of transformers, or the name or
            path of a model that has one.
        batch_size: ``per_device_train_batch_size``, times the documents of a list.
        tokens: of each input; ``max_length`` at most.
        dtype: of the matrix products, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        lora: as in ``training={"lora": ...}``.
        activation_checkpointing: as in ``training={"activation_checkpointing": ...}``.

    Returns:
        The bytes by what they are for.

    Raises:
        ModuleNotFoundError, TypeError: see ``lora``.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        PreTrainedConfig,
    )
    from transformers.modeling_layers import GradientCheckpointingLayer

    given = isinstance(model, PreTrainedConfig)
    config = copy.deepcopy(model if given else AutoConfig.from_pretrained(os.fspath(model)))
    loader: Any = AutoModelForSequenceClassification
    if config.is_encoder_decoder:
        loader = AutoModelForSeq2SeqLM
    positive_int("batch_size", batch_size)
    positive_int("tokens", tokens)
    with torch.device("meta"):
        network = loader.from_config(config, dtype=getattr(torch, dtype)).train()
        inputs = {"input_ids": torch.zeros(batch_size, tokens, dtype=torch.long)}
        if config.is_encoder_decoder:
            inputs["labels"] = torch.zeros(batch_size, 2, dtype=torch.long)
            head = network.get_output_embeddings()
            if not getattr(config, "scale_decoder_outputs", True):
                # a T5 1.1 has an output layer of its own, which from_config ties
                head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
        else:
            config.pad_token_id = None  # some look for it among the numbers, of which none are
        config = lora_config(lora)
        if config is not None:
            add_lora(network, config)
    own = {id(weight) for weight in network.parameters()}
    kept: dict[int, tuple[torch.Tensor, Any]] = {}  # held, so that an id is not given to another
    inside: Any = None

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            kept.setdefault(id(base), (base, inside))
        return tensor

    def enter(layer: Any, args: tuple, options: dict[str, Any]) -> None:
        nonlocal inside
        for value in (*args, *options.values()):
            if isinstance(value, torch.Tensor):
                kept[id(value)] = value, None
        inside = layer

    def leave(*_: Any) -> None:
        nonlocal inside
        inside = None

    if activation_checkpointing:
        for layer in network.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.register_forward_pre_hook(enter, with_kwargs=True)
                layer.register_forward_hook(leave)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**inputs)
    sizes: Counter[Any] = Counter()
    for tensor, layer in kept.values():
        sizes[layer] += tensor.numel() * tensor.element_size()
    activations = sizes.pop(None) + max(sizes.values(), default=0)
    weights, trained = (
        sum(weight.numel() for weight in network.parameters() if weight.requires_grad or frozen)
        for frozen in (True, False)
    )
    return Memory(4 * weights, 4 * trained, 8 * trained, activations)
