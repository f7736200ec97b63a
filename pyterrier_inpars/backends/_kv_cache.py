"""Batches of token sequences read by a causal model, kept exact under padding."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from more_itertools import chunked

from pyterrier_inpars._compute.devices import CPU_TOKENS
from pyterrier_inpars.backends.base import Sampling

if TYPE_CHECKING:
    import torch

TOGETHER = 8
"""Rows whose logits are worked on together: few enough for the caches of a processor."""
PIECE = 256
"""Tokens of a row that are read at once, so that attention to them does not fill the memory."""
SHARED = "pyterrier_inpars"
"""Name of `_attention` among those of transformers."""
LIKELIEST = 1024
"""Tokens that are sorted at first, where those that hold ``top_p`` of the probability are."""


class SharedPrefixCache:
    """What a causal language model has read so far, for rows of tokens that begin alike.

    The keys and values of what all rows begin with are kept once. Each row has room of its own for
    the others, filled from the left, so that columns are positions. Shorter rows are padded on the
    right, where no token of theirs sees it, and what a row reads next is written over its padding.
    So a row sees what it would see alone, in models with sliding windows too. Rows come and go
    while others are being read.

    Args:
        model: a causal language model of transformers.
        rows: most rows at a time.
        room: most tokens of a row after its beginning, with the padding that it is read with.
        start: a reading of one row, which all rows begin with.
    """

    def __init__(self, model: Any, rows: int, room: int, start: SharedPrefixCache | None = None):
        from transformers import Cache

        self.rows = rows
        self.room = room
        self.start = start
        self._model = model
        self.shared = model.config._attn_implementation == SHARED
        layers = range(model.config.get_text_config().num_hidden_layers)
        self._cache: Any = Cache([_layer_class()(self, layer) for layer in layers])
        self._lengths: list[int] = []

    @property
    def begin(self) -> int:
        """How many tokens all rows begin with."""
        return self.start._lengths[0] if self.start else 0

    def add(self, tokens: Sequence[Sequence[int]]) -> None:
        """Begins as many further rows, which read these tokens, or none."""
        width = max(1, min(PIECE, max(map(len, tokens), default=0)))
        few = CPU_TOKENS // width if self._model.device.type == "cpu" else len(tokens)
        for rows in chunked(tokens, max(1, few)):
            first = len(self._lengths)
            self._lengths += [self.begin] * len(rows)
            for start in range(0, max(map(len, rows)), PIECE):
                pieces = [row[start : start + PIECE] for row in rows]
                self._forward(self._model.base_model, first, pieces)

    def read(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Reads on, at least a token for each row.

        Returns:
            Logits after each token in the model's dtype, shape (rows, most tokens of a row,
            vocabulary); those after a row's last token mean nothing.
        """
        return self._forward(self._model, 0, tokens).logits

    def keep(self, rows: Sequence[int]) -> None:
        """Makes row ``i`` what row ``rows[i]`` was; only rows that are not in their place move."""
        moved = [(to, row) for to, row in enumerate(rows) if to != row]
        self._lengths = [self._lengths[row] for row in rows]
        if moved:
            to, of = map(list, zip(*moved, strict=True))
            columns = slice(max(self._lengths[row] for row in to) - self.begin)
            for layer in self._cache.layers:
                if not layer.is_initialized:  # nothing was read, or it shares another's
                    continue
                for kept in (layer.keys, layer.values):
                    kept[to, :, columns] = kept[of, :, columns]

    def _forward(self, model: Any, first: int, tokens: Sequence[Sequence[int]]) -> Any:
        """Reads further tokens in the rows from the first on."""
        import torch

        most = max(map(len, tokens))
        device = self._model.device
        padded = [[*row, *[0] * (most - len(row))] for row in tokens]
        lengths = self._lengths[first:]
        self._lengths[first:] = [n + len(row) for n, row in zip(lengths, tokens, strict=True)]
        self._rows = slice(first, len(self._lengths))
        self._seen = max(lengths) + most
        columns = torch.arange(most, device=device)
        self._positions = torch.tensor(lengths, device=device)[:, None] + columns
        last = torch.tensor(self._lengths[first:], device=device)[:, None] - 1
        return model(
            input_ids=torch.tensor(padded, device=device),
            # a model may have no position for padding
            position_ids=self._positions.minimum(last.clamp(min=0)),
            attention_mask=self._masks(),
            past_key_values=self._cache,
            use_cache=True,
            **({"reading": self} if self.shared else {}),
        )

    def _masks(self) -> Any:
        """Additive masks: a position sees the tokens before it, and in a window the near ones."""
        import torch

        config = self._model.config.get_text_config()  # beside one for images, say
        distance = self._positions[:, :, None] - torch.arange(
            self._seen, device=self._positions.device
        )
        window = getattr(config, "sliding_window", None)
        far = self._additive(distance >= 0)
        near = far
        if window and window < self._seen:
            near = self._additive((distance >= 0) & (distance < window))
        layer_types = set(getattr(config, "layer_types", None) or ())
        if not layer_types:
            return near
        return {kind: near if kind == "sliding_attention" else far for kind in layer_types}

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        import torch

        mask = torch.zeros(seen.shape, dtype=self._model.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None]

    def of_start(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of what all rows begin with, shape (1, heads, tokens, size of a head)."""
        assert self.start is not None
        kept = self.start._cache.layers[layer]
        return kept.keys, kept.values


@functools.cache
def _layer_class() -> Any:
    import torch
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):
        """Keys and values of one layer, of shape (rows, heads, room, size of a head)."""

        def __init__(self, reading: SharedPrefixCache, number: int):
            super().__init__()
            self._reading = reading
            self._number = number

        def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
            rows, room = self._reading.rows, self._reading.room
            self.keys, self.values = (
                states.new_zeros(rows, states.shape[1], room, states.shape[3])
                for states in (key_states, value_states)
            )
            self.is_initialized = True

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Writes where the reading is, and gives what its rows have so far."""
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            return self._with(self.keys, key_states, 0), self._with(self.values, value_states, 1)

        def _with(self, kept: Any, states: torch.Tensor, which: int) -> torch.Tensor:
            reading = self._reading
            kept = kept[reading._rows]
            row = torch.arange(len(kept), device=kept.device)[:, None]
            kept[row, :, reading._positions - reading.begin] = states.transpose(1, 2)
            kept = kept[:, :, : reading._seen - reading.begin]
            if reading.start is None or reading.shared:
                return kept
            start = reading.of_start(self._number)[which]
            return torch.cat([start.expand(len(kept), -1, -1, -1), kept], 2)

    return Layer


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    reading: SharedPrefixCache,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of rows that begin alike (Hydragen, arXiv 2402.05099, section 3.1).

    The queries of all rows meet the keys and values of their common beginning in one product, and
    those of a row meet its own in another; so do heads that share keys and values.

    Args:
        query: shape (rows, heads, tokens, size of a head).
        key: what the rows have read after the beginning, shape (rows, groups of heads, own tokens,
            size of a head).
        value: the same.
        attention_mask: shape (rows, 1, tokens, tokens of the beginning and own tokens).
        module: the layer's attention, which knows its number.
        reading: what is kept of the beginning.
        scaling: of the products.
        options: what models pass on besides.

    Returns:
        Shape (rows, tokens, heads, size of a head).

    Raises:
        NotImplementedError: the model has attention of another kind.
    """
    import torch

    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]

    def together(of_rows: torch.Tensor) -> torch.Tensor:
        return of_rows.transpose(0, 1).flatten(1, 2)

    def apart(of_groups: torch.Tensor) -> torch.Tensor:
        return of_groups.unflatten(1, (rows, -1)).transpose(0, 1)

    query = query.reshape(rows, groups, -1, size)
    scores = query @ key.transpose(2, 3)
    if reading.start:
        start_key, start_value = reading.of_start(module.layer_idx)
        of_start = together(query) @ start_key[0].transpose(1, 2)
        scores = torch.cat([apart(of_start), scores], -1)
    scores = scores.view(rows, groups, -1, tokens, scores.shape[-1])
    scaling = size**-0.5 if scaling is None else scaling
    scores = torch.add(attention_mask[:, :, None], scores, alpha=scaling)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype).flatten(2, 3)
    output = weights[..., reading.begin :] @ value
    if reading.start:
        output += apart(together(weights[..., : reading.begin]) @ start_value[0])
    return output.view(rows, heads, tokens, size).transpose(1, 2), None


class UncachedBatch:
    """What any causal model has read so far, as `SharedPrefixCache`: the model is left to itself.

    For models that take no explicit masks, or keep no keys and values. Without a cache that all of
    them share, each row is read again, alone, for each token.
    """

    def __init__(self, model: Any):
        self._model = model
        self._rows: list[list[int]] = []

    def add(self, tokens: Sequence[Sequence[int]]) -> None:
        """Begins further rows."""
        self._rows += map(list, tokens)

    def keep(self, rows: Sequence[int]) -> None:
        """Makes row ``i`` what row ``rows[i]`` was."""
        self._rows = [list(self._rows[row]) for row in rows]

    def read(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Reads on; see `SharedPrefixCache.read`."""
        import torch

        most = max(map(len, tokens))
        logits = []
        for row, new in zip(self._rows, tokens, strict=True):
            row += new
            found = self._forward(row, len(new))
            logits.append(torch.nn.functional.pad(found, (0, 0, 0, most - len(new))))
        return torch.cat(logits)

    def _forward(self, tokens: Sequence[int], keep: int) -> torch.Tensor:
        import torch

        taken = inspect.signature(self._model.forward).parameters  # not all models take this one
        options = {"logits_to_keep": keep} if "logits_to_keep" in taken else {}
        input_ids = torch.tensor([tokens], device=self._model.device)
        return self._model(input_ids=input_ids, use_cache=False, **options).logits[:, -keep:]


def supports_masks(model: Any, prefix: Sequence[int], rests: Sequence[Sequence[int]]) -> bool:
    """Whether padded rows after a shared prefix get the logits that the model gives them alone.

    False for models whose attention does not take explicit masks (ALiBi, recurrent layers). On a
    CPU, the model is left with `_attention`, where that is right.
    """
    import torch
    from transformers import AttentionInterface

    def last(reading: SharedPrefixCache | UncachedBatch, start: Sequence[int] = ()) -> torch.Tensor:
        reading.add([[*start, *rest[:-1]] for rest in rests])
        return reading.read([rest[-1:] for rest in rests])[:, -1].float().softmax(-1)

    expected = last(UncachedBatch(model), prefix)
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.2
    AttentionInterface.register(SHARED, _attention)
    ways = [model.config._attn_implementation]
    if model.device.type == "cpu" and model._supports_attention_backend:
        ways.insert(0, SHARED)
    for way in ways:
        model.set_attn_implementation(way)
        try:
            reading = SharedPrefixCache(
                model, len(rests), max(map(len, rests)), prefilled(model, prefix)
            )
            found = last(reading)
        except Exception:  # what a model raises on masks that it does not know is not ours to list
            continue
        if (found - expected).abs().sum(-1).max() < tolerance:
            return True
    return False


def prefilled(model: Any, prefix: Sequence[int]) -> SharedPrefixCache | None:
    """A reading of what rows begin with, if that is anything."""
    if not prefix:
        return None
    start = SharedPrefixCache(model, 1, len(prefix))
    start.add([prefix])
    return start


def log_probs(
    reading: SharedPrefixCache | UncachedBatch, tokens: Sequence[Sequence[int]], last: Sequence[int]
) -> list[list[float]]:
    """How likely the model holds the last tokens of rows.

    Args:
        reading: one without rows.
        tokens: what the rows read after their beginning.
        last: how many at the end of each row are asked for, at least 1 and fewer than the row has.

    Returns:
        Natural log-probabilities, ``last[i]`` for row ``i``.
    """
    import torch

    pairs = list(zip(tokens, last, strict=True))
    reading.add([row[: -count - 1] for row, count in pairs])
    logits = reading.read([row[-count - 1 : -1] for row, count in pairs])
    return [
        _log_probs(found[:count].float(), torch.tensor(row[-count:], device=found.device)).tolist()
        for found, (row, count) in zip(logits, pairs, strict=True)
    ]


def next_tokens(
    logits: torch.Tensor, sampling: Sampling, generators: Sequence[Any]
) -> list[tuple[int, float]]:
    """The next token of each row and its natural log-probability, some rows at a time.

    Args:
        logits: shape (rows, vocabulary).
        sampling: how a token is chosen.
        generators: one for each row.
    """
    chosen: list[tuple[int, float]] = []
    for piece in logits.split(TOGETHER):
        piece = piece.float()
        tokens = choose(piece, sampling, generators[len(chosen) : len(chosen) + len(piece)])
        chosen += zip(tokens.tolist(), _log_probs(piece, tokens).tolist(), strict=True)
    return chosen


def _log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of one token a row; logits of shape (rows, vocabulary)."""
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)


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
        probabilities, tokens = _nucleus(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(-1)
    numbers = torch.tensor([torch.rand((), generator=g).item() for g in generators])
    threshold = numbers.to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    return (drawn if tokens is None else tokens.gather(1, drawn))[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens, falling, with 0 for those after which ``top_p`` is reached."""
    count = min(LIKELIEST, probabilities.shape[-1])
    ordered, tokens = probabilities.topk(count)
    if ordered.sum(-1).min() < top_p:  # a flat distribution
        ordered, tokens = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return (before < top_p) * ordered, tokens
