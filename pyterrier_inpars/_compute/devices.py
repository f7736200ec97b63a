"""Where a model runs and in which precision: ``None`` and ``"auto"`` mean the best there is."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_inpars._compute.xla import on_xla

if TYPE_CHECKING:
    import torch

CPU_TOKENS = 1024
"""Most tokens that a CPU reads together: of more, what a layer computes does not fit the caches."""


def best_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or else a TPU, CUDA, Apple's MPS or the CPU, whichever comes first.

    A TPU, named ``"xla"``, comes first where the environment has ``PJRT_DEVICE=TPU`` and torch_xla
    is installed. Of several GPUs, each process that ``torchrun`` starts has its own.

    Raises:
        ModuleNotFoundError: ``"xla"`` is asked for, and torch_xla is not installed.
    """
    import torch

    if device is not None:
        found = torch.device(device)
    elif _is_tpu() and importlib.util.find_spec("torch_xla"):
        found = torch.device("xla")
    elif torch.cuda.is_available():
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    else:
        found = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if on_xla(found):
        try:
            import torch_xla  # noqa: F401  (from then on torch knows the device)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"device={str(found)!r} needs torch_xla, of the same version as torch: "
                f"pip install torch_xla=={torch.__version__.partition('+')[0]}"
            ) from error
    return found


def _is_tpu() -> bool:
    """Whether the XLA device of this process is a TPU; to ask torch_xla would take seconds."""
    return os.environ.get("PJRT_DEVICE") == "TPU"


def best_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in: the one asked for, or by ``"auto"`` the fastest that is right.

    That is bfloat16 where the processor computes in it, as TPUs do, and else float32. ``"int8"`` is
    a dtype of weights alone, which are computed with as by ``"auto"``.

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
        return bool(_cpu_capabilities() & {"avx512_bf16", "amx_bf16", "bf16"})
    if on_xla(device):
        return _is_tpu()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_capabilities() -> set[str]:
    """Names of what the processor can do, from PyTorch, or before it told them, from Linux."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, has in torch.cpu.get_capabilities().items() if has}
    told = Path("/proc/cpuinfo")
    return set(told.read_text().split()) if told.exists() else set()


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
