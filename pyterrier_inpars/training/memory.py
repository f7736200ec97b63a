"""Estimates the memory of a training, without loading a network."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._hub import resolved
from pyterrier_inpars.training.lora import add_lora, lora_config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Memory:
    """Memory of a training on each device, in bytes.

    Attributes:
        weights: Weights in float32.
        gradients: Gradients of the trained weights in float32.
        optimizer: Optimizer state of AdamW, two moments in float32.
        activations: Tensors that the backward pass needs.
    """

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
    *,
    mini_batch_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Memory:
    """Estimates the memory that training with AdamW takes on a device, without loading the weights.

    With P parameters, of which T are trained (all of them without LoRA): weights 4 P bytes,
    gradients 4 T bytes and AdamW's two moments 8 T bytes, all in float32, as this package trains.
    Activations are the tensors that autograd saves in a forward pass over one batch. The pass runs
    on PyTorch's ``meta`` device, which has shapes and no data, and each saved tensor counts once.
    With activation checkpointing, the inputs of the layers are saved, and the inside of one layer
    at a time, of which the largest counts. All activations count as ``dtype``, although autocast
    keeps a few in float32. Not included: temporary memory of single operations (largest for the
    logits of a large vocabulary), fragmentation, the start's weights and those of model selection,
    which are stored on disk, and the copies of the weights that autocast makes in a narrower dtype.

    Args:
        model: Configuration of an encoder or an encoder-decoder of transformers, or the name or
            path of a model.
        batch_size: ``per_device_train_batch_size``, times the documents per list for losses over
            lists.
        tokens: Tokens of each input, at most ``max_length``.
        dtype: Precision of the matrix products: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        lora: As in ``TrainingOptions``.
        activation_checkpointing: As in ``TrainingArguments``.
        mini_batch_size: As in ``TrainingOptions``: of a larger batch, the activations of so many
            texts are in memory at once.
        revision: Branch, tag or commit of the model on the hub.
        trust_remote_code: Whether code from the model's repository is executed.

    Returns:
        The memory by use, in bytes.

    Raises:
        ModuleNotFoundError: ``lora`` needs peft, which is not installed.
        TypeError: ``lora`` has an unknown field.
        ValueError: ``batch_size``, ``tokens`` or ``mini_batch_size`` is not a whole number of at
            least 1.
    """
    from transformers import AutoConfig, PreTrainedConfig

    positive_int("batch_size", batch_size)
    positive_int("tokens", tokens)
    if mini_batch_size is not None:
        batch_size = min(batch_size, positive_int("mini_batch_size", mini_batch_size))
    if isinstance(model, PreTrainedConfig):
        config = copy.deepcopy(model)
    else:
        config = AutoConfig.from_pretrained(
            resolved(os.fspath(model)), revision=revision, trust_remote_code=trust_remote_code
        )
    network, inputs = _without_data(config, batch_size, tokens, dtype)
    if (adapter := lora_config(lora)) is not None:
        import torch

        with torch.device("meta"):
            add_lora(network, adapter)
    activations = _saved_bytes(network, inputs, activation_checkpointing)
    weights, trained = (
        sum(weight.numel() for weight in network.parameters() if weight.requires_grad or frozen)
        for frozen in (True, False)
    )
    return Memory(4 * weights, 4 * trained, 8 * trained, activations)


def _without_data(
    config: Any, batch_size: int, tokens: int, dtype: str
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Returns a network and a batch on the ``meta`` device."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    loader: Any = AutoModelForSequenceClassification
    if config.is_encoder_decoder:
        loader = AutoModelForSeq2SeqLM
    with torch.device("meta"):
        network = loader.from_config(config, dtype=getattr(torch, dtype)).train()
        inputs = {"input_ids": torch.zeros(batch_size, tokens, dtype=torch.long)}
        if config.is_encoder_decoder:
            inputs["labels"] = torch.zeros(batch_size, 2, dtype=torch.long)
            head = network.get_output_embeddings()
            if not getattr(config, "scale_decoder_outputs", True):
                # T5 1.1 has a separate output layer, which from_config ties
                head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
        else:
            config.pad_token_id = None  # some networks would look for it in the data
    return network, inputs


def _saved_bytes(
    network: torch.nn.Module, inputs: dict[str, torch.Tensor], checkpointing: bool
) -> int:
    """Returns the bytes of the tensors that autograd saves in a forward pass."""
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    own = {id(weight) for weight in network.parameters()}
    saved: dict[int, tuple[torch.Tensor, Any]] = {}  # keeps the tensors, so that ids stay unique
    current: Any = None

    def save(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            saved.setdefault(id(base), (base, current))
        return tensor

    def enter(layer: Any, args: tuple, options: dict[str, Any]) -> None:
        nonlocal current
        for value in (*args, *options.values()):
            if isinstance(value, torch.Tensor):
                saved[id(value)] = value, None
        current = layer

    def leave(*_: Any) -> None:
        nonlocal current
        current = None

    if checkpointing:
        for layer in network.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.register_forward_pre_hook(enter, with_kwargs=True)
                layer.register_forward_hook(leave)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(**inputs)
    sizes: Counter[Any] = Counter()
    for tensor, layer in saved.values():
        sizes[layer] += tensor.numel() * tensor.element_size()
    return sizes.pop(None) + max(sizes.values(), default=0)
