"""Linear layers on a CPU by oneDNN, whose products take a fraction of the time of PyTorch's own.

For float32 PyTorch asks MKL, which is at its best on Intel's processors alone, and it gives every
library a matrix as it is stored: where few rows are multiplied, bringing it into the blocks that
the processor wants takes longer than the product. What is computed stays the same, up to rounding.

A product of another number of rows is another kernel, and PyTorch and oneDNN each keep the last
1,024: some 400 MiB more, the longer a program runs. So here they are told to keep fewer.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.layers import is_linear, replaced_forward

if TYPE_CHECKING:
    import torch

ROWS = 32
"""Rows of a product that the layout of packed weights is chosen for; it serves others as well."""
KERNELS = 256
"""Kernels that are kept. To make one again takes a millisecond, once for all layers of a size."""
CAPACITIES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""The variables that say how many PyTorch and oneDNN keep, read at the first product."""
OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
"""Those of PyTorch that are called here. They are not public: without them all stays as it is."""


def pack(network: torch.nn.Module) -> None:
    """Lays out the weights of a network's linear layers for the processor, in place.

    The weights themselves are given up, but for those that another layer shares, so the network can
    only be run from then on. Layers of other dtypes than float32 and bfloat16, on other devices, or
    with weights of one byte stay as they are.
    """
    import torch

    if not _available():
        return
    _limit_kernels()
    ops = torch.ops.mkldnn
    dtypes = {torch.float32, *[torch.bfloat16] * ops._is_mkldnn_bf16_supported()}
    layer: Any
    for layer in network.modules():
        if _is_plain(layer, dtypes):
            packed = ops._reorder_linear_weight(layer.weight.detach(), ROWS)
            vars(layer)["forward"] = functools.partial(_linear, packed, layer.bias)
            layer.weight = None


@contextmanager
def onednn(network: torch.nn.Module, keep: Collection[torch.nn.Module] = ()) -> Iterator[None]:
    """Has oneDNN compute the linear layers of a network for a while, in float32, without gradients.

    Layers of other dtypes or with weights of another kind, such as int8, stay as they are, and so
    do all on other devices.

    Args:
        network: its weights stay where they are, and are not copied.
        keep: layers that stay as they are.
    """
    import torch

    forwards: dict[torch.nn.Module, Any] = {}
    layer: Any
    if _available():
        _limit_kernels()
        for layer in network.modules():
            if _is_plain(layer, {torch.float32}) and layer not in keep:
                forwards[layer] = functools.partial(_linear, layer.weight, layer.bias)
    with replaced_forward(forwards):
        yield


def _available() -> bool:
    """Whether PyTorch was built with oneDNN, for a processor whose library is oneDNN's own."""
    import torch

    ops = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(ops, name) for name in OPERATORS)
        and not (hasattr(ops, "_is_mkldnn_acl_supported") and ops._is_mkldnn_acl_supported())
    )


def _limit_kernels() -> None:
    """Has few kernels kept, where the environment says nothing; before the first product."""
    for name in CAPACITIES:
        os.environ.setdefault(name, str(KERNELS))


def _is_plain(layer: Any, dtypes: Collection[torch.dtype]) -> bool:
    """Whether it is a linear layer as PyTorch has it, on the CPU, of one of the dtypes."""
    return (
        is_linear(layer)
        and "forward" not in vars(layer)
        and layer.weight.dtype in dtypes
        and layer.weight.device.type == "cpu"
    )


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, rows: torch.Tensor) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
