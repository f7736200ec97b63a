"""Batches of token sequences read by a causal model, kept exact under padding."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyterrier_inpars.backends.base import Sampling

if TYPE_CHECKING:
    import torch


class Reading:
    """What a causal language model has read so far, for a batch of sequences.

    Each key in the cache carries its position and whether it is a token or padding, and attention
    masks are made from these. So a row sees what it would see alone, wherever its padding stands,
    and in models with sliding windows too: a mask by cache index would count padding as distance.

    Args:
        model: a causal language model of transformers.

    Attributes:
        logits: float32, shape (rows, vocabulary), for the token after each row.
    """

    logits: torch.Tensor

    def __init__(self, model: Any):
        import torch
        from transformers import DynamicCache

        self._model = model
        # without a configuration, a cache that forgets nothing: the masks make the windows
        self._cache = DynamicCache()
        self._is_token = torch.zeros(1, 0, dtype=torch.bool, device=model.device)
        self._positions = torch.zeros(1, 0, dtype=torch.long, device=model.device)

    def read(self, tokens: Sequence[Sequence[int]]) -> Reading:
        """Reads on: some further tokens for each row."""
        self.logits = self._forward(tokens, 1)[:, -1].float()
        return self

    def log_probs(self, tokens: Sequence[Sequence[int]], last: Sequence[int]) -> list[list[float]]:
        """Reads on, and tells how likely the model held the last tokens of each row.

        Args:
            tokens: further tokens for each row.
            last: how many at the end of each row are asked for, at least 1 and fewer than the row
                has.

        Returns:
            Natural log-probabilities, ``last[i]`` for row ``i``.
        """
        logits = self._forward([row[:-1] for row in tokens], max(last))
        return [_log_probs(*row) for row in zip(logits, tokens, last, strict=True)]

    def _forward(self, tokens: Sequence[Sequence[int]], keep: int) -> torch.Tensor:
        """Reads on; the logits after the last ``keep`` tokens, shape (rows, keep, vocabulary)."""
        import torch

        longest = max(map(len, tokens))
        padded = [[0] * (longest - len(row)) + list(row) for row in tokens]
        input_ids = torch.tensor(padded, device=self._model.device)
        lengths = torch.tensor([len(row) for row in tokens], device=self._model.device)[:, None]
        offsets = torch.arange(longest, device=self._model.device) - longest + lengths
        positions = (self._is_token.sum(1, keepdim=True) + offsets).clamp(min=0)
        self._positions = torch.cat([self._positions, positions], 1)
        self._is_token = torch.cat([self._is_token, offsets >= 0], 1)
        output = self._model(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=self._masks(positions),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits

    def copies(self, rows: int) -> Reading:
        """A new reading with ``rows`` rows, each as the only row of this one."""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)
        return other.repeat(rows)

    def repeat(self, times: int) -> Reading:
        """Each row ``times`` times, one after the other."""
        if times > 1:
            self._cache.batch_repeat_interleave(times)
            self._per_row(lambda tensor: tensor.repeat_interleave(times, 0))
        return self

    def select(self, rows: list[int]) -> Reading:
        """Only these rows."""
        import torch

        index = torch.tensor(rows, device=self._model.device)
        self._cache.batch_select_indices(index)
        self._per_row(lambda tensor: tensor[index])
        return self

    def _per_row(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._positions = change(self._positions)
        self._is_token = change(self._is_token)
        if hasattr(self, "logits"):
            self.logits = change(self.logits)

    def _masks(self, positions: torch.Tensor) -> Any:
        """Additive masks: a position sees the tokens before it, and in a window the near ones."""
        config = self._model.config.get_text_config()  # beside one for images, say
        distance = positions[:, :, None] - self._positions[:, None, :]
        seen = self._is_token[:, None, :] & (distance >= 0)
        window = getattr(config, "sliding_window", None)
        far = self._additive(seen)
        near = self._additive(seen & (distance < window)) if window else far
        layer_types = set(getattr(config, "layer_types", None) or ())
        if not layer_types:
            return near
        return {kind: near if kind == "sliding_attention" else far for kind in layer_types}

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        import torch

        mask = torch.zeros(seen.shape, dtype=self._model.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None]


class PlainReading:
    """What any causal model has read so far, for one sequence: the model is left to itself.

    For models that take no explicit masks, or keep no keys and values. Without a cache that all of
    them share, the sequence is read again for each token.
    """

    logits: torch.Tensor

    def __init__(self, model: Any, tokens: Sequence[int] = ()):
        self._model = model
        self._tokens = list(tokens)

    def read(self, tokens: Sequence[Sequence[int]]) -> PlainReading:
        """Reads on."""
        self._tokens += tokens[0]
        self.logits = self._forward(self._tokens, 1)[:, -1].float()
        return self

    def log_probs(self, tokens: Sequence[Sequence[int]], last: Sequence[int]) -> list[list[float]]:
        """Reads on, and tells how likely the model held the last tokens, as `Reading.log_probs`."""
        self._tokens += tokens[0]
        logits = self._forward(self._tokens[:-1], last[0])
        return [_log_probs(logits[0], self._tokens, last[0])]

    def _forward(self, tokens: Sequence[int], keep: int) -> torch.Tensor:
        import torch

        taken = inspect.signature(self._model.forward).parameters  # not all models take this one
        options = {"logits_to_keep": keep} if "logits_to_keep" in taken else {}
        input_ids = torch.tensor([tokens], device=self._model.device)
        return self._model(input_ids=input_ids, use_cache=False, **options).logits


def _log_probs(logits: torch.Tensor, tokens: Sequence[int], last: int) -> list[float]:
    """Log-probabilities of the last tokens of one row, of which all but the last were read."""
    import torch

    logits = logits[-last:].float()
    chosen = torch.tensor(tokens[-last:], device=logits.device)[:, None]
    return (logits.gather(1, chosen)[:, 0] - logits.logsumexp(1)).tolist()


def takes_masks(model: Any, prefix: Sequence[int], rests: Sequence[Sequence[int]]) -> bool:
    """Whether padded rows after a shared prefix get the logits that the model gives them alone.

    False for models whose attention does not take explicit masks (ALiBi, recurrent layers).
    """
    import torch

    def alone(rest: Sequence[int]) -> torch.Tensor:
        return PlainReading(model).read([[*prefix, *rest]]).logits

    expected = torch.cat([alone(rest) for rest in rests]).softmax(-1)
    try:
        start = Reading(model)
        if prefix:
            start.read([prefix])
        found = start.copies(len(rests)).read(rests).logits.softmax(-1)
    except Exception:  # what a model raises on masks that it does not know is not ours to list
        return False
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.2
    return bool((found - expected).abs().sum(-1).max() < tolerance)


def choose(logits: torch.Tensor, sampling: Sampling, generators: Sequence[Any]) -> torch.Tensor:
    """The next token of each row, shape (rows,): the likeliest, or one drawn.

    A row is drawn with one number of its own generator, so that it does not depend on the others.
    """
    import torch

    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    tokens = None
    if sampling.top_p < 1:
        probabilities, tokens = probabilities.sort(-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = (before < sampling.top_p) * probabilities
    cumulative = probabilities.cumsum(-1)
    numbers = torch.tensor([torch.rand((), generator=g).item() for g in generators])
    threshold = numbers.to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    return (drawn if tokens is None else tokens.gather(1, drawn))[:, 0]
