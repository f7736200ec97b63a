"""A linear layer on the frozen vectors of a bi-encoder, which trains in seconds.

Importing this module imports sentence-transformers, so the bi-encoder imports it when it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, InputModule


class FrozenVectors(InputModule):
    """Input module that looks up the vectors of texts in place of computing them.

    Args:
        vectors: Vectors by the prompt of a text, ``""`` without one, and the text.
    """

    def __init__(self, vectors: Mapping[tuple[str, str], torch.Tensor]):
        super().__init__()
        self.vectors = vectors

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Returns the vectors of texts as ``sentence_embedding``."""
        vectors = [self.vectors[prompt or "", text] for text in inputs]
        return {"sentence_embedding": torch.stack(vectors)}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Returns the features unchanged."""
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Raises an error: vectors are not stored."""
        raise NotImplementedError("frozen vectors are not stored in checkpoints")


@contextmanager
def linear_adapter(
    network: Any, vectors: Mapping[tuple[str, str], torch.Tensor]
) -> Iterator[SentenceTransformer]:
    """Appends a linear layer to a bi-encoder, and removes it if the block fails.

    The layer is the identity at the start, so that scores do not change.

    Args:
        network: Network of the bi-encoder.
        vectors: Its vectors of the texts to train on, see ``FrozenVectors``.

    Yields:
        A network of these vectors and that layer, to be trained.
    """
    size = len(next(iter(vectors.values())))
    layer = Dense(size, size, bias=False, activation_function=None, init_weight=torch.eye(size))
    layer.to(network.device)
    network.append(layer)
    try:
        yield SentenceTransformer(
            modules=[FrozenVectors(vectors), layer], device=str(network.device)
        )
    except BaseException:
        del network[-1]
        raise
