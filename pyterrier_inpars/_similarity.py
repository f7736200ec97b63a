"""Near-duplicate texts by the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pyterrier_inpars._arguments import finite

BLOCK = 1024
"""Number of texts that are compared with all others at once."""
TOLERANCE = 1e-6
"""Rounding of a cosine in float32: equal texts have a cosine of 1 up to this."""


def check_encoder(encoder: Any) -> Any:
    """Returns ``encoder`` if it has a method ``encode``.

    Raises:
        TypeError: It has none.
    """
    if isinstance(encoder, str) or not callable(getattr(encoder, "encode", None)):
        raise TypeError(
            f"encoder must be a BiEncoder or a SentenceTransformer, not {encoder!r:.200}: give "
            "BiEncoder(name)"
        )
    return encoder


def check_threshold(threshold: float) -> float:
    """Returns a threshold of cosines as a float.

    Raises:
        ValueError: It is not above 0 and at most 1.
    """
    return finite("threshold", threshold, above=0, most=1)


def unit_vectors(encoder: Any, texts: Iterable[str]) -> np.ndarray:
    """Returns the vectors of texts, (texts, dimensions), float32, of length 1 (or 0).

    Raises:
        ValueError: The encoder does not return one vector for each text, or a number of a vector is
            not finite; the error names the text.
    """
    texts = list(texts)
    vectors = np.asarray(encoder.encode(texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(
            f"{encoder!r:.200} returned an array of shape {vectors.shape} for {len(texts):,} "
            "texts: encode() must return one vector for each"
        )
    if not (known := np.isfinite(vectors).all(axis=1)).all():
        raise ValueError(
            f"{encoder!r:.200} computed a vector that is not finite for "
            f"{texts[known.argmin()]!r:.200}: load it with dtype='float32'"
        )
    return normalized(vectors)


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors, (vectors, dimensions), with length 1 (or 0)."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def first_of_each(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Returns for each vector whether it is no near-duplicate of an earlier one that is kept.

    Args:
        vectors: Unit vectors, (texts, dimensions).
        threshold: Lowest cosine of near-duplicates.
    """
    kept = np.ones(len(vectors), dtype=bool)
    for first in range(0, len(vectors), BLOCK):
        block = vectors[first : first + BLOCK]
        before = vectors[:first][kept[:first]]
        if len(before):
            kept[first : first + BLOCK] = (block @ before.T).max(axis=1) < threshold - TOLERANCE
        near = block @ block.T >= threshold - TOLERANCE
        for i in range(len(block)):
            if near[i, :i][kept[first : first + i]].any():
                kept[first + i] = False
    return kept
