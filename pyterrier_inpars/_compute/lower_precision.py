"""Computation with weights in bfloat16, of a network whose own weights stay in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyterrier_inpars._compute.cpu_linear import replaced_forward


@contextmanager
def converted_weights(
    network: torch.nn.Module, dtype: torch.dtype, keep: Collection[torch.nn.Module] = ()
) -> Iterator[None]:
    """Runs a network with its weights in another dtype until the block ends, without gradients.

    Activations have that dtype too. Autocast, in contrast, computes norms in float32 and converts
    the activations of each layer forth and back, which takes longer than the products where these
    are fast. The tables of vocabularies are not converted, only the vectors they give. Buffers,
    such as the frequencies of rotary embeddings, stay as they are.

    Args:
        network: Network with weights in float32; afterwards it has the same tensors again.
        dtype: Dtype to compute in.
        keep: Layers that compute in float32, such as a scoring head.
    """
    # Only large tables are worth it: networks read others, such as relative positions, directly.
    vocabularies = set(map(_vocabulary, network.modules()))
    converted: dict[int, torch.nn.Parameter] = {}
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    forwards: dict[torch.nn.Module, Callable[..., Any]] = {}
    for layer in network.modules():
        if isinstance(layer, torch.nn.Embedding) and layer in vocabularies:
            forwards[layer] = functools.partial(_then, layer.forward, dtype)
        elif layer in keep:
            forwards[layer] = functools.partial(_in_float32, layer.forward)
        else:
            before.append((layer._parameters, dict(layer._parameters)))
            for name, weight in layer._parameters.items():
                if weight is not None and weight.dtype == torch.float32:
                    if id(weight) not in converted:
                        lower = weight.detach().to(dtype)
                        converted[id(weight)] = torch.nn.Parameter(lower, requires_grad=False)
                    layer._parameters[name] = converted[id(weight)]
    try:
        with replaced_forward(forwards):
            yield
    finally:
        for weights, own in before:
            weights.update(own)


def _vocabulary(part: torch.nn.Module) -> torch.nn.Module | None:
    """Returns the table of token embeddings of a network of transformers, if it names one."""
    from transformers import PreTrainedModel

    try:
        return part.get_input_embeddings() if isinstance(part, PreTrainedModel) else None
    except NotImplementedError:
        return None


def _then(
    forward: Callable[..., torch.Tensor], dtype: torch.dtype, *args: Any, **options: Any
) -> torch.Tensor:
    return forward(*args, **options).to(dtype)


def _in_float32(forward: Callable[..., torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    return forward(rows.float())
