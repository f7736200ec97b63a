"""Where a model runs and in which precision: ``None`` and ``"auto"`` mean the best there is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or else CUDA, Apple's MPS or the CPU, whichever comes first.

    Of several GPUs, each process that ``torchrun`` starts has its own.
    """
    import torch

    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in: the one asked for, or by ``"auto"`` the fastest that is right.

    That is bfloat16 where the processor computes in it, and else float32. ``"int8"`` is a dtype of
    weights alone, which are computed with as by ``"auto"``.

    On a CPU without bfloat16 instructions a bfloat16 product is hundreds of times slower than a
    float32 one, so ``"auto"`` asks the processor, not PyTorch, which runs it either way.

    Raises:
        ValueError: the name is not one of auto, float32, bfloat16, float16, int8.
    """
    import torch

    if dtype == "auto" or is_int8(dtype):
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be auto, float32, bfloat16, float16 or int8, not {dtype!r}")
    return getattr(torch, dtype)


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def is_int8(dtype: str | torch.dtype) -> bool:
    """Whether the weights are to be rounded to int8, see :func:`quantize`."""
    return str(dtype).removeprefix("torch.") == "int8"


def quantize(
    network: torch.nn.Module, dtype: torch.dtype, keep: Iterable[torch.nn.Module] = ()
) -> None:
    """Rounds the weights of a network's linear layers to int8, in place.

    Each row of a matrix has a float32 scale of its own; what the layers read and give is not
    rounded (torchao's weight-only int8). Layers that share their weights with another, as the last
    layer of many language models does with the embedding, stay as they are.

    Args:
        network: it can only be used from then on, neither trained nor saved.
        dtype: what the layers compute in.
        keep: layers that stay as they are.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: the network has no linear layer that could be rounded.
    """
    import torch

    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "dtype='int8' needs torchao: pip install 'pyterrier_inpars[int8]'"
        ) from error
    uses = Counter(id(weight) for m in network.modules() for weight in m.parameters(recurse=False))
    linear = {m for m in network.modules() if isinstance(m, torch.nn.Linear)} - set(keep)
    chosen = {layer for layer in linear if uses[id(layer.weight)] == 1}
    if not chosen:
        raise ValueError(
            f"{type(network).__name__} has no linear layers (torch.nn.Linear) whose weights could "
            f"be rounded: give another dtype than int8"
        )
    for layer in chosen:
        layer.to(dtype)
    quantize_(network, Int8WeightOnlyConfig(), filter_fn=lambda layer, name: layer in chosen)
