"""Where a model runs and in which precision: ``None`` and ``"auto"`` mean the best there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or else CUDA, Apple's MPS or the CPU, whichever comes first."""
    import torch

    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype asked for; ``"auto"`` is bfloat16 where the processor computes in it, else float32.

    On a CPU without bfloat16 instructions a bfloat16 product is hundreds of times slower than a
    float32 one, so ``"auto"`` asks the processor, not PyTorch, which runs it either way.

    Raises:
        ValueError: the name is not one of auto, float32, bfloat16, float16.
    """
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16, not {dtype!r}")
    return getattr(torch, dtype)


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
