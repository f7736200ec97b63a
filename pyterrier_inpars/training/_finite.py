"""Check that the weights of a network are finite numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class NotFiniteError(ValueError):
    """A network computed NaN or infinite numbers, or has such weights."""


def check_weights(network: torch.nn.Module, what: str, remedy: str) -> None:
    """Checks that all weights are finite.

    Args:
        network: The network.
        what: What its model and dtype are called in the error.
        remedy: What to do about it.

    Raises:
        NotFiniteError: A weight is NaN or infinite; the error names it.
    """
    for name, weight in network.named_parameters():
        if not weight.detach().isfinite().all():
            raise NotFiniteError(f"{what} has weights that are NaN or infinite ({name}): {remedy}")
