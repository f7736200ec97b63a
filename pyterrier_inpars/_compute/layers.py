"""A network's layers: which are as PyTorch has them, and computing them otherwise for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether it is a linear layer as PyTorch has it, weights too, which those in int8 are not."""
    import torch

    return type(layer) is torch.nn.Linear and type(layer.weight) is torch.nn.Parameter


@contextmanager
def replaced_forward(forwards: Mapping[torch.nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Has each of the layers computed by another function than its own, for a while."""
    for layer, forward in forwards.items():
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer in forwards:
            del vars(layer)["forward"]
