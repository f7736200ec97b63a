"""Some encoders need the state of their first token only: skips what that does not need."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyterrier_inpars._compute.cpu_linear import is_linear, replaced_forward
from pyterrier_inpars.rerankers._first_token import attend_once

if TYPE_CHECKING:
    import torch

FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra")
"""Models of transformers with the layers of a BERT, by the beginning of their class names."""
IMPLEMENTATIONS = ("eager", "sdpa")
"""Implementations of attention whose masks have four dimensions."""


@contextmanager
def first_state(network: torch.nn.Module) -> Iterator[None]:
    """Makes the last layer of BERT-like encoders compute the state of the first token only.

    The context is for networks that read no other state of the last layer.
    As in :func:`~pyterrier_inpars.rerankers._first_token.first_token`, one position attends, so
    that the last layer needs no keys and values of the tokens. For a model of six layers, this
    saves a sixth of the multiplications. Outputs are equal up to rounding. Layers of other kinds,
    such as int8, and other encoders are not changed.

    Args:
        network: Network with one or several encoders of transformers.
    """
    forwards: dict[torch.nn.Module, Any] = {}
    encoder: Any
    for encoder in network.modules():
        if _is_of_families(encoder, "Encoder"):
            attention = encoder.layer[-1].attention
            own = attention.self
            if (
                is_linear(own.key)
                and is_linear(own.value)
                and not own.is_decoder
                and own.config._attn_implementation in IMPLEMENTATIONS
            ):
                forwards[attention] = functools.partial(_attend, attention)
    with replaced_forward(forwards):
        yield


def classifies_first_state(model: torch.nn.Module) -> bool:
    """Returns whether a model is a BERT-like classifier, which reads the first token's state."""
    return _is_of_families(model, "ForSequenceClassification")


def _is_of_families(module: torch.nn.Module, kind: str) -> bool:
    cls = type(module)
    named = cls.__name__ in {family + kind for family in FAMILIES}
    return named and cls.__module__.startswith("transformers.")  # not from a model's repository


def _attend(
    attention: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Computes the self-attention of the first position.

    Args:
        attention: Attention layer of a BERT, with its output layer.
        hidden_states: States of the tokens, (rows, tokens, width).
        attention_mask: True or 0 at tokens that are attended to, (rows, 1, 1 or tokens, tokens).
        **others: Arguments that encoders do not use.

    Returns:
        The output, (rows, 1, width), and no attention weights.
    """
    own, first = attention.self, hidden_states[:, :1]
    # shape, as len() would be a constant where the network is traced
    rows, heads = hidden_states.shape[0], own.num_attention_heads
    # The bias of the keys adds the same to the logits of all tokens; softmax ignores it.
    queries = own.query(first).view(rows, heads, -1) * own.scaling
    mask = None if attention_mask is None else attention_mask[:, 0, :1]
    heads_of_rows, _ = attend_once(queries, own.key.weight, own.value.weight, hidden_states, mask)
    found = heads_of_rows.reshape(rows, 1, -1)
    if own.value.bias is not None:
        found = found + own.value.bias  # weights sum to one
    return attention.output(found, first), None
