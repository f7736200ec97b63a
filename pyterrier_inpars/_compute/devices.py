"""Selection of device and precision, and int8 quantization."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_inpars._compute.xla import on_xla

if TYPE_CHECKING:
    import torch

CPU_TOKENS = 1024
"""Maximum number of tokens per CPU batch; activations of larger batches exceed the CPU caches."""


LAST_TORCH_XLA = "2.9.0"
"""Last release of torch_xla. It needs the same version of torch."""


def best_device(device: str | torch.device | None = None, *, xla: bool = True) -> torch.device:
    """Returns the requested device, or the best available one: TPU, CUDA, Apple MPS, then CPU.

    A TPU (``"xla"``) is available if the environment sets ``PJRT_DEVICE=TPU`` and torch_xla is
    installed. ``"cuda"`` without a number is the GPU of the ``LOCAL_RANK`` of a ``torchrun`` job,
    or else the first one.

    Args:
        device: Device, or None for the best available one.
        xla: Whether the caller supports XLA devices.

    Returns:
        The device.

    Raises:
        ValueError: An XLA device is requested and the caller does not support it.
        ModuleNotFoundError: An XLA device is requested and torch_xla is not installed.
    """
    import torch

    if device is not None:
        found = torch.device(device)
    elif xla and _is_tpu() and importlib.util.find_spec("torch_xla"):
        found = torch.device("xla")
    elif torch.cuda.is_available():
        found = torch.device("cuda")
    else:
        found = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if on_xla(found):
        if not xla:
            raise ValueError(
                f"device={str(found)!r} is for training and reranking; language models do not run "
                f"on XLA here: use cpu, cuda or mps, or vLLM on the TPU"
            )
        try:
            import torch_xla  # noqa: F401  (registers the device with torch)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"device={str(found)!r} needs torch_xla, whose last release is {LAST_TORCH_XLA}, "
                f"and torch of the same version, in an environment of its own: pip install "
                f"torch=={LAST_TORCH_XLA} torch_xla=={LAST_TORCH_XLA}"
            ) from error
    return found


def _is_tpu() -> bool:
    """Whether the XLA device of this process is a TPU; importing torch_xla would take seconds."""
    return os.environ.get("PJRT_DEVICE") == "TPU"


def best_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Returns the dtype of computations.

    ``"auto"`` is bfloat16 if the processor computes faster in it, and float32 otherwise. On a CPU
    without bfloat16 instructions, PyTorch emulates bfloat16 products, which are hundreds of times
    slower than float32 products. On an Intel processor with avx512_bf16 and without AMX, they are
    half as fast as float32 products. ``"int8"`` applies to weights only; computations use the
    dtype of ``"auto"``.

    Args:
        dtype: A ``torch.dtype``, or one of ``"auto"``, ``"float32"``, ``"bfloat16"``,
            ``"float16"`` and ``"int8"``.
        device: Device of the network.

    Returns:
        The dtype of computations.

    Raises:
        ValueError: The name is not one of the above.
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
        known = _cpu_capabilities()
        return bool(known & {"amx_bf16", "bf16"}) or ("avx512_bf16" in known and not is_intel())
    if on_xla(device):
        return _is_tpu()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_capabilities() -> set[str]:
    """Returns the instruction sets of the CPU, from PyTorch or, in older versions, from Linux."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, has in torch.cpu.get_capabilities().items() if has}
    return set(_cpuinfo().split())


@functools.cache
def is_intel() -> bool:
    """Whether the CPU is one of Intel's."""
    return "GenuineIntel" in platform.processor() + _cpuinfo()


def _cpuinfo() -> str:
    """Returns what Linux says about the CPU, nothing on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def is_int8(dtype: str | torch.dtype) -> bool:
    """Whether ``dtype`` requests int8 weights, see :func:`quantize`."""
    return str(dtype).removeprefix("torch.") == "int8"


def quantize(
    network: torch.nn.Module, dtype: torch.dtype, keep: Iterable[torch.nn.Module] = ()
) -> None:
    """Quantizes the weights of a network's linear layers to int8, in place.

    This is torchao's weight-only quantization with a float32 scale per row; activations are not
    quantized. Layers that share their weights, such as an output layer tied to the embedding, stay
    unchanged. A quantized network supports inference only; it cannot be trained or saved.

    Args:
        network: Network to quantize.
        dtype: Dtype of the layers' computations.
        keep: Layers to leave unchanged.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: The network has no linear layer to quantize.
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
            f"{type(network).__name__} has no linear layers (torch.nn.Linear) to quantize: "
            f"use another dtype than int8"
        )
    for layer in chosen:
        layer.to(dtype)
    quantize_(network, Int8WeightOnlyConfig(), filter_fn=lambda layer, name: layer in chosen)
