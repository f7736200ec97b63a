"""Scoring with a T5 needs its first output token only: skips what that does not need."""

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
    """Makes a T5 or mT5 compute less in this context, for decoder inputs of one token.

    The logits are those of the given tokens only. The cross-attention computes no keys and values
    of the encoder's states: as there is one decoder position, each head's key matrix is multiplied
    with the query vector, and its value matrix with the attention-weighted mean of the states,
    in place of every state. This saves a seventh of the network's multiplications. Scores are equal
    up to rounding. Layers of other kinds, such as int8, and other networks are not changed.

    Args:
        network: Encoder-decoder of transformers.
        words: Token ids.

    Yields:
        The positions of those tokens in the last dimension of the logits.
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
    """Computes cross-attention for one position; a T5 has no biases and does not scale it.

    Args:
        attention: Attention layer of the T5.
        hidden_states: States of the decoder, (rows, 1, width).
        key_value_states: States of the encoder, (rows, tokens, width).
        mask: True or 0 at tokens that are attended to, (rows, 1, 1, tokens).
        position_bias: Position bias, returned unchanged.

    Returns:
        The output, (rows, 1, width), the position bias, and the attention weights.
    """
    rows = len(hidden_states)
    queries = attention.q(hidden_states).view(rows, attention.n_heads, -1)
    heads, weights = attend_once(
        queries,
        attention.k.weight,
        attention.v.weight,
        key_value_states,
        None if mask is None else mask[:, 0],
    )
    return attention.o(heads.reshape(rows, 1, -1)), position_bias, weights


def attend_once(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    states: torch.Tensor,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes attention for one position, without keys and values of the states.

    Each head's key matrix is multiplied with the query vector, and its value matrix with the
    attention-weighted mean of the states.

    Args:
        queries: Query vectors, scaled, (rows, heads, head width).
        keys: Key matrix, (heads * head width, width).
        values: Value matrix, (heads * head width, width).
        states: States to attend to, (rows, tokens, width).
        mask: True or 0 at tokens that are attended to, (rows, 1, tokens).

    Returns:
        The vectors of the heads, (rows, heads, head width), and the attention weights.
    """
    import torch

    heads, width = queries.shape[1], states.shape[2]
    queries = torch.einsum("rhk,hkd->rhd", queries, keys.view(heads, -1, width))
    logits = queries @ states.transpose(1, 2)  # (rows, heads, tokens)
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    elif mask is not None:
        logits = logits + mask
    weights = logits.softmax(dim=2)
    means = weights @ states
    return torch.einsum("rhd,hkd->rhk", means, values.view(heads, -1, width)), weights
