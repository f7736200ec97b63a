"""Training on the CPU without most of the padding of a batch."""

from __future__ import annotations

from typing import Any

import torch

from pyterrier_inpars._compute.batches import batches_of_similar_length
from pyterrier_inpars._compute.devices import CPU_TOKENS

OUTPUTS = ("sentence_embedding", "scores")
"""What losses read of the output of a sentence-transformers network."""


def compute_by_length(network: Any) -> None:
    """Has a sentence-transformers network on the CPU compute a batch in parts of similar length.

    A batch is padded to its longest text. Losses over a batch need all of its texts, so batches
    themselves cannot be of similar length. Outputs are the same up to rounding and the draws of
    dropout. Only training is concerned: in eval mode, and with padding on the left, the network
    computes a batch as a whole.

    Args:
        network: Network whose ``forward`` is replaced. Other networks than those of
            sentence-transformers, and compiled ones, stay unchanged.
    """
    if (
        network.device.type != "cpu"
        or not isinstance(network, torch.nn.Sequential)
        or network._compiled_call_impl is not None
    ):
        return
    whole: Any = network.forward

    def forward(features: dict[str, Any], **options: Any) -> dict[str, Any]:
        parts = _parts(features) if network.training else []
        if len(parts) < 2:
            return whole(features, **options)
        outputs = [whole(_part(features, *part), **options) for part in parts]
        place = torch.cat([rows for rows, _ in parts]).argsort()
        names = [name for name in OUTPUTS if name in outputs[0]]
        return {name: torch.cat([out[name] for out in outputs])[place] for name in names}

    vars(network)["forward"] = forward


def _parts(features: dict[str, Any]) -> list[tuple[torch.Tensor, int]]:
    """Returns the row numbers and the length of each part, of at most ``CPU_TOKENS`` tokens.

    Returns:
        Nothing if the batch has other tensors than those of its tokens, an empty text, or padding
        that is not on the right.
    """
    mask = features.get("attention_mask")
    shapes = {value.shape for value in features.values() if isinstance(value, torch.Tensor)}
    if mask is None or shapes != {mask.shape} or (mask[:, 1:] > mask[:, :-1]).any():
        return []
    lengths = mask.sum(dim=1).tolist()
    if not all(lengths):  # an empty text needs the padding
        return []
    batches = batches_of_similar_length(lengths, len(lengths), CPU_TOKENS)
    return [(torch.tensor(rows), lengths[rows[0]]) for rows in batches]


def _part(features: dict[str, Any], rows: torch.Tensor, length: int) -> dict[str, Any]:
    """Returns some rows of a batch, without the padding after ``length`` tokens."""
    return {
        name: value[rows, :length] if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }
