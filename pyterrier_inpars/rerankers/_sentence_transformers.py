"""What the rerankers over sentence-transformers share: limits, padding and saving."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pyterrier_inpars._compute.xla import padded_length
from pyterrier_inpars.rerankers.base import Reranker

if TYPE_CHECKING:
    import torch

CHARACTERS = 4
"""Approximate characters per token, for sorting texts by length before they are tokenized."""


class SentenceTransformersReranker(Reranker):
    """A reranker whose network is one of sentence-transformers."""

    def _load_as(self, network_class: Any, device: torch.device, **options: Any) -> Any:
        """Loads a network in float32 onto the device, by its class in sentence-transformers."""
        import torch

        network = network_class(
            self._name,
            device=str(device),
            model_kwargs={"dtype": torch.float32},
            **self._source,
            **options,
        )
        self._own_limit = network.max_seq_length
        pad_for_device(network)
        return network

    def _adapt(self, network: Any) -> None:
        if self.max_length is not None:
            positions = getattr(network.config, "max_position_embeddings", self.max_length)
            if 0 < positions < self.max_length:
                raise ValueError(
                    f"max_length={self.max_length} is more than the {positions} positions of "
                    f"{str(self.model)!r}"
                )
        limit = self._own_limit if self.max_length is None else self.max_length
        if network.max_seq_length != limit:
            network.max_seq_length = limit

    def _estimated_tokens(self, texts: Iterable[str]) -> list[float]:
        """Returns the approximate number of tokens that the network reads of each text."""
        limit = self.network.max_seq_length or np.inf
        return [min(len(text) / CHARACTERS, limit) for text in texts]

    def _write(self, path: str) -> None:
        self.network.save_pretrained(path, create_model_card=False)


def pad_for_device(network: Any) -> None:
    """Pads the input of a sentence-transformers network to the lengths of ``padded_length``."""
    preprocess = network.preprocess

    def padded(*args: Any, **options: Any) -> Any:
        batch = preprocess(*args, **options)
        if "attention_mask" in batch:  # absent without a transformer
            tokens = batch["attention_mask"].shape[1]
            length = padded_length(tokens, network.max_seq_length or np.inf, network.device)
            if length > tokens:
                parts = {k: batch[k] for k in network.tokenizer.model_input_names if k in batch}
                batch |= network.tokenizer.pad(
                    parts, padding="max_length", max_length=length, return_tensors="pt"
                )
        return batch

    network.preprocess = padded
