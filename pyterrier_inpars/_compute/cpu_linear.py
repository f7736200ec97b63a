"""oneDNN linear layers on the CPU.

PyTorch computes float32 products with MKL, which is slow on processors of other makers than Intel,
and passes weights in row-major order: for small batches, reordering a matrix into the blocks of the
processor takes longer than the product. Calling oneDNN directly avoids both. Results are equal up
to rounding.

PyTorch and oneDNN each cache 1,024 kernels, one for every number of rows, which adds about 400 MiB
over time. This module sets smaller caches.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.devices import is_intel

if TYPE_CHECKING:
    import torch

ROWS = 32
"""Number of rows for which the layout of packed weights is chosen. Other numbers work as well."""
KERNELS = 256
"""Number of cached kernels. Creating one takes a millisecond and serves all layers of a size."""
CAPACITIES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Environment variables of the cache sizes of PyTorch and oneDNN, read at the first product."""
OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
"""Private PyTorch operators that this module needs. Without them, networks stay unchanged."""


def pack_linear(network: torch.nn.Module) -> None:
    """Packs the weights of a network's linear layers for oneDNN, in place.

    Packed layers lose their ``weight``, so the network supports inference only. A weight that
    another layer shares stays with that layer. Layers that are not in float32 or bfloat16, are
    quantized or are not on the CPU stay unchanged.

    Args:
        network: Network to pack.
    """
    import torch

    if not _available():
        return
    _limit_kernel_caches()
    ops = torch.ops.mkldnn
    dtypes = {torch.float32, *[torch.bfloat16] * ops._is_mkldnn_bf16_supported()}
    layer: Any
    for layer in network.modules():
        if _supports_onednn(layer, dtypes):
            packed = ops._reorder_linear_weight(layer.weight.detach(), ROWS)
            vars(layer)["forward"] = functools.partial(_linear, packed, layer.bias)
            layer.weight = None


@contextmanager
def onednn_linear(
    network: torch.nn.Module, keep: Collection[torch.nn.Module] = ()
) -> Iterator[None]:
    """Runs the float32 linear layers of a network on the CPU with oneDNN, without gradients.

    Layers that are not in float32, are quantized or are not on the CPU stay unchanged. So do all
    layers on Intel processors, where MKL is as fast and needs no kernel for each number of rows.

    Args:
        network: Network whose layers are replaced until the block ends. Weights are not copied.
        keep: Layers to leave unchanged.
    """
    import torch

    forwards: dict[torch.nn.Module, Any] = {}
    layer: Any
    if _available() and not is_intel():
        _limit_kernel_caches()
        for layer in network.modules():
            if _supports_onednn(layer, {torch.float32}) and layer not in keep:
                forwards[layer] = functools.partial(_linear, layer.weight, layer.bias)
    with replaced_forward(forwards):
        yield


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether ``layer`` is a plain ``torch.nn.Linear``, neither subclassed nor quantized."""
    import torch

    return type(layer) is torch.nn.Linear and type(layer.weight) is torch.nn.Parameter


@contextmanager
def replaced_forward(forwards: Mapping[torch.nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replaces ``forward`` of each layer by the given function until the block ends."""
    for layer, forward in forwards.items():
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer in forwards:
            del vars(layer)["forward"]


def _available() -> bool:
    """Whether this PyTorch build has the oneDNN operators for this processor."""
    import torch

    ops = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(ops, name) for name in OPERATORS)
        # On ARM, PyTorch delegates to the Arm Compute Library, which packs weights differently.
        and not (hasattr(ops, "_is_mkldnn_acl_supported") and ops._is_mkldnn_acl_supported())
    )


def _limit_kernel_caches() -> None:
    """Sets the cache sizes that the environment leaves unset; call before the first product."""
    for name in CAPACITIES:
        os.environ.setdefault(name, str(KERNELS))


def _supports_onednn(layer: Any, dtypes: Collection[torch.dtype]) -> bool:
    """Whether a layer is a plain, not yet replaced linear layer on the CPU in one of ``dtypes``."""
    return (
        is_linear(layer)
        and "forward" not in vars(layer)
        and layer.weight.dtype in dtypes
        and layer.weight.device.type == "cpu"
    )


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, rows: torch.Tensor) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
