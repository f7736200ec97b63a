"""Cache of the vectors that a network gives texts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

SAMPLED = 1024
"""Number of numbers of a weight that are read to see whether it changed."""


class VectorCache:
    """Vectors of texts, in memory. A copy or a pickle of it is empty."""

    def __init__(self) -> None:
        self._state: Hashable = None
        self._kept: dict[str, np.ndarray] = {}

    def __reduce__(self) -> tuple[type[VectorCache], tuple[()]]:
        return (VectorCache, ())

    def vectors(
        self,
        texts: list[str],
        encode: Callable[[list[str]], np.ndarray],
        state: Hashable,
        size: int,
    ) -> np.ndarray:
        """Returns the vectors of texts, in order.

        Args:
            texts: At least one text.
            encode: Computes the vectors of those that are not kept.
            state: What the vectors depend on besides the text. Those of another state are dropped.
            size: Number of vectors to keep. The oldest are dropped first.
        """
        if state != self._state:
            self._state, self._kept = state, {}
        codes, distinct = pd.factorize(pd.Series(texts, dtype=object))
        missing = [text for text in distinct if text not in self._kept]
        if missing:
            self._kept.update(zip(missing, encode(missing), strict=True))
        found = np.stack([self._kept[text] for text in distinct])
        for text in list(islice(self._kept, max(len(self._kept) - size, 0))):
            del self._kept[text]
        return found[codes]


def weights_state(network: Any) -> tuple[tuple[Any, ...], ...]:
    """Returns what changes with each of a network's weights, without reading all of them.

    PyTorch counts what is written to a weight in place, but neither writes to its ``data`` nor the
    steps of a fused optimizer. These change nearly all numbers, so a thousand of them are read.
    """
    import torch

    states, samples, found = [], [], []
    with torch.no_grad():
        for weight in network.parameters():
            numbers = weight.dequantize() if hasattr(weight, "qdata") else weight.detach()
            numbers = numbers.flatten()
            samples.append(numbers[:: max(1, len(numbers) // SAMPLED)].float())
            states.append((id(weight), weight._version))
        sizes = [len(numbers) for numbers in samples]
        # In one transfer; Apple's MPS has no float64.
        whole = torch.cat(samples).cpu().double()
        for state, numbers in zip(states, whole.split(sizes), strict=True):
            ramp = torch.linspace(1, 2, len(numbers), dtype=torch.double)
            found.append((*state, numbers.sum().item(), (numbers @ ramp).item()))
    return tuple(found)
