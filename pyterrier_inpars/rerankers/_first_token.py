"""Scoring with a T5 asks for the first word it says: what of the network need not be computed."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.cpu_linear import is_linear, replaced_forward

if TYPE_CHECKING:
    import torch


@contextmanager
def first_token(network: Any, words: Sequence[int]) -> Iterator[list[int]]:
    """Has a T5 or mT5 compute less for a while, for inputs of one position in the decoder.

    Logits are those of some words alone. And the cross-attention makes no keys and values of the
    encoder's states: as one position asks, each head's key matrix can be multiplied with what it
    asks, and its value matrix with the mean of what it reads, in place of all tokens. That spares a
    seventh of the network's products. Scores stay the same up to rounding. Layers of another kind,
    such as int8, stay as they are, and so do other networks.

    Args:
        network: an encoder-decoder of transformers.
        words: token ids.

    Yields:
        Where in the last dimension of the logits those words are.
    """
    import torch
    from transformers.models.mt5.modeling_mt5 import (
        MT5ForConditionalGeneration,
        MT5LayerCrossAttention,
    )
    from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration, T5LayerCrossAttention

    forwards: dict[torch.nn.Module, Any] = {}
    columns = [*words]
    if isinstance(network, (T5ForConditionalGeneration, MT5ForConditionalGeneration)):
        for layer in network.modules():
            if isinstance(layer, (T5LayerCrossAttention, MT5LayerCrossAttention)):
                attention: Any = layer.EncDecAttention
                if is_linear(attention.k) and is_linear(attention.v):
                    forwards[attention] = functools.partial(_attend, attention)
        head = network.get_output_embeddings()
        if is_linear(head):
            rows = head.weight[columns]
            forwards[head] = functools.partial(torch.nn.functional.linear, weight=rows)
            columns = [*range(len(columns))]
    with replaced_forward(forwards):
        yield columns


def _attend(
    attention: Any,
    hidden_states: torch.Tensor,
    *,
    key_value_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The cross-attention of one position, which in a T5 has no bias and is not scaled.

    ``hidden_states`` is (rows, 1, width), ``key_value_states`` (rows, tokens, width), ``mask``
    (rows, 1, 1, tokens), true or 0 where a token may be read.
    """
    import torch

    rows, states = len(hidden_states), key_value_states
    keys = attention.k.weight.view(attention.n_heads, -1, attention.d_model)
    values = attention.v.weight.view(attention.n_heads, -1, attention.d_model)
    asked = attention.q(hidden_states).view(rows, attention.n_heads, -1)
    asked = torch.einsum("rhk,hkd->rhd", asked, keys)
    logits = asked @ states.transpose(1, 2)  # (rows, heads, tokens)
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask[:, 0], torch.finfo(logits.dtype).min)
    elif mask is not None:
        logits = logits + mask[:, 0]
    weights = logits.softmax(dim=2)
    read = torch.einsum("rhd,hkd->rhk", weights @ states, values)
    return attention.o(read.reshape(rows, 1, -1)), position_bias, weights
