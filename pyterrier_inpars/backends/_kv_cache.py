"""KV caches for batches of sequences that share a prefix; padding does not change the results."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from more_itertools import chunked

from pyterrier_inpars._compute.cpu_memory import available_memory
from pyterrier_inpars._compute.devices import CPU_TOKENS
from pyterrier_inpars._compute.memory_limit import is_out_of_memory

if TYPE_CHECKING:
    import torch

PREFILL_TOKENS = 256
"""Tokens of a sequence that are prefilled in one forward pass, which limits attention memory."""
MAX_WINDOW = 2048
"""Longest window of local attention that the check of the masks exceeds."""
WINDOW_MARGIN = 16
"""Tokens by which the check of the masks exceeds a window."""
OTHER_TOKENS = 256
"""First tokens of the vocabulary whose probabilities the check of the masks compares too."""
ATTENTION = "pyterrier_inpars"
"""Name under which `_attention` is registered with transformers."""


class SharedPrefixCache:
    """KV cache for a batch of sequences that share a prefix.

    Keys and values of the prefix are stored once. Each sequence has its own slots for further
    tokens, filled from the left, so that a slot is a position. Shorter sequences are padded on the
    right. Masks hide the padding, and the next tokens of a sequence overwrite it. Each sequence
    therefore gets the logits it would get alone, also in models with sliding windows. Sequences can
    be added and removed between forward passes.

    Args:
        model: Causal language model of transformers.
        batch_size: Maximum number of sequences.
        max_tokens: Maximum number of tokens of a sequence after the prefix, including padding.
        prefix: Cache of one sequence, the shared prefix. None if there is no shared prefix.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int,
        max_tokens: int,
        prefix: SharedPrefixCache | None = None,
    ):
        from transformers import Cache

        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.prefix = prefix
        self._model = model
        self.own_attention = model.config._attn_implementation == ATTENTION
        layers = range(model.config.get_text_config().num_hidden_layers)
        self._cache: Any = Cache([_layer_class()(self, layer) for layer in layers])
        self._lengths: list[int] = []

    @property
    def prefix_length(self) -> int:
        """Number of tokens of the shared prefix."""
        return self.prefix._lengths[0] if self.prefix else 0

    def prefill(self, tokens: Sequence[Sequence[int]]) -> None:
        """Adds sequences to the batch and computes keys and values of their tokens.

        Args:
            tokens: Tokens of each sequence after the shared prefix; may be empty.
        """
        width = max(1, min(PREFILL_TOKENS, max(map(len, tokens), default=0)))
        count = CPU_TOKENS // width if self._model.device.type == "cpu" else len(tokens)
        for chunk in chunked(tokens, max(1, count)):
            first = len(self._lengths)
            self._lengths += [self.prefix_length] * len(chunk)
            for start in range(0, max(map(len, chunk)), PREFILL_TOKENS):
                pieces = [row[start : start + PREFILL_TOKENS] for row in chunk]
                self._forward(self._model.base_model, first, pieces)

    def forward(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feeds further tokens to all sequences.

        Args:
            tokens: At least one token for each sequence.

        Returns:
            Logits after each token in the model's dtype, shape (sequences, maximum number of
            tokens, vocabulary). Logits after the last token of a shorter sequence are undefined.
        """
        return self._forward(self._model, 0, tokens).logits

    def select(self, rows: Sequence[int]) -> None:
        """Keeps only some sequences: row ``i`` becomes the former row ``rows[i]``.

        Only rows that change their place are copied.
        """
        import torch

        moved = [(to, row) for to, row in enumerate(rows) if to != row]
        self._lengths = [self._lengths[row] for row in rows]
        if moved:
            slots = slice(max(self._lengths[to] for to, _ in moved) - self.prefix_length)
            # once for all layers: each list would be sent to a GPU again
            targets, sources = torch.tensor(moved, device=self._model.device).unbind(1)
            for layer in self._cache.layers:
                if not layer.is_initialized:  # no tokens yet, or the layer shares another's cache
                    continue
                for states in (layer.keys, layer.values):
                    states[targets, :, slots] = states[sources, :, slots]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Removes tokens from the end of sequences.

        Args:
            lengths: New number of tokens of each sequence, with the shared prefix.
        """
        self._lengths = list(lengths)  # masks hide the removed tokens; the next ones overwrite them

    def prefix_states(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values of the prefix, each of shape (1, heads, tokens, head size)."""
        assert self.prefix is not None
        states = self.prefix._cache.layers[layer]
        return states.keys, states.values

    def _forward(self, model: Any, first: int, tokens: Sequence[Sequence[int]]) -> Any:
        """Feeds tokens to the rows from ``first`` on."""
        import torch

        width = max(map(len, tokens))
        device = self._model.device
        padded = [[*row, *[0] * (width - len(row))] for row in tokens]
        lengths = self._lengths[first:]
        self._lengths[first:] = [n + len(row) for n, row in zip(lengths, tokens, strict=True)]
        self._rows = slice(first, len(self._lengths))
        self._total_length = max(lengths) + width
        columns = torch.arange(width, device=device)
        self._positions = torch.tensor(lengths, device=device)[:, None] + columns
        last = torch.tensor(self._lengths[first:], device=device)[:, None] - 1
        return model(
            input_ids=torch.tensor(padded, device=device),
            # padding may exceed the positions of the model
            position_ids=self._positions.minimum(last.clamp(min=0)),
            attention_mask=self._masks(),
            past_key_values=self._cache,
            use_cache=True,
            **({"shared_prefix": self} if self.own_attention else {}),
        )

    def _masks(self) -> Any:
        """Returns additive causal masks, for sliding-window layers limited to their window."""
        import torch

        config = self._model.config.get_text_config()  # of a multimodal model, the text part
        distance = self._positions[:, :, None] - torch.arange(
            self._total_length, device=self._positions.device
        )
        window = getattr(config, "sliding_window", None)
        full = self._additive(distance >= 0)
        sliding = full
        if window and window < self._total_length:
            sliding = self._additive((distance >= 0) & (distance < window))
        layer_types = set(getattr(config, "layer_types", None) or ())
        if not layer_types:
            return sliding
        return {kind: sliding if kind == "sliding_attention" else full for kind in layer_types}

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        import torch

        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(mask.dtype).min)[:, None]


@functools.cache
def _layer_class() -> Any:
    import torch
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):
        """Keys and values of one layer, of shape (batch size, heads, slots, head size)."""

        def __init__(self, cache: SharedPrefixCache, number: int):
            super().__init__()
            self._cache = cache
            self._number = number

        def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
            rows, slots = self._cache.batch_size, self._cache.max_tokens
            self.keys, self.values = (
                states.new_zeros(rows, states.shape[1], slots, states.shape[3])
                for states in (key_states, value_states)
            )
            self.is_initialized = True

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Stores new states and returns all states of the current rows."""
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            return self._store(self.keys, key_states, 0), self._store(self.values, value_states, 1)

        def _store(self, stored: Any, new: torch.Tensor, which: int) -> torch.Tensor:
            cache = self._cache
            stored = stored[cache._rows]
            row = torch.arange(len(stored), device=stored.device)[:, None]
            stored[row, :, cache._positions - cache.prefix_length] = new.transpose(1, 2)
            stored = stored[:, :, : cache._total_length - cache.prefix_length]
            if cache.prefix is None or cache.own_attention:
                return stored
            prefix = cache.prefix_states(self._number)[which]
            return torch.cat([prefix.expand(len(stored), -1, -1, -1), stored], 2)

    return Layer


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    shared_prefix: SharedPrefixCache,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with a shared prefix (Hydragen, arXiv 2402.05099, section 3.1).

    One product computes the attention of all sequences to the shared prefix, and another one that
    of each sequence to its own tokens. Heads that share keys and values are grouped likewise.

    Args:
        module: Attention module of the layer, which knows the layer's number.
        query: Shape (sequences, heads, tokens, head size).
        key: Keys after the prefix, shape (sequences, key-value heads, own tokens, head size).
        value: Values after the prefix, of the same shape.
        attention_mask: Shape (sequences, 1, tokens, prefix tokens and own tokens).
        shared_prefix: Cache of the batch.
        scaling: Factor of the products; None for the inverse square root of the head size.
        options: Further options that transformers passes to attention functions.

    Returns:
        Output of shape (sequences, tokens, heads, head size), and None for the attention weights.

    Raises:
        NotImplementedError: The model needs another form of attention.
    """
    import torch

    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]

    def merge_rows(states: torch.Tensor) -> torch.Tensor:
        return states.transpose(0, 1).flatten(1, 2)

    def split_rows(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(1, (rows, -1)).transpose(0, 1)

    query = query.reshape(rows, groups, -1, size)
    # PyTorch would copy the keys for query @ key.transpose(2, 3)
    scores = (key @ query.transpose(2, 3)).transpose(2, 3)
    if shared_prefix.prefix:
        prefix_key, prefix_value = shared_prefix.prefix_states(module.layer_idx)
        prefix_scores = merge_rows(query) @ prefix_key[0].transpose(1, 2)
        scores = torch.cat([split_rows(prefix_scores), scores], -1)
    scores = scores.reshape(rows, groups, -1, tokens, scores.shape[-1])
    scaling = size**-0.5 if scaling is None else scaling
    scores = torch.add(attention_mask[:, :, None], scores, alpha=scaling)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype).flatten(2, 3)
    output = weights[..., shared_prefix.prefix_length :] @ value
    if shared_prefix.prefix:
        prefix_weights = merge_rows(weights[..., : shared_prefix.prefix_length])
        output += split_rows(prefix_weights @ prefix_value[0])
    return output.view(rows, heads, tokens, size).transpose(1, 2), None


class SequentialBatch:
    """Batch with the interface of `SharedPrefixCache` that runs the unchanged model.

    It serves models that accept no explicit masks or have no keys and values. Sequences are
    computed one at a time, without padding. Where the model has a cache, each sequence keeps its
    own, and only new tokens are computed.

    Args:
        model: Causal language model of transformers.
    """

    def __init__(self, model: Any):
        parameters = inspect.signature(model.forward).parameters
        self._model = model
        self._keeps_logits = "logits_to_keep" in parameters
        self._has_cache = "past_key_values" in parameters
        self._rows: list[tuple[list[int], Any]] = []  # tokens to feed, and the cache of the others

    def prefill(self, tokens: Sequence[Sequence[int]]) -> None:
        """Adds sequences to the batch."""
        self._rows += [(list(row), None) for row in tokens]

    def select(self, rows: Sequence[int]) -> None:
        """Keeps only some sequences: row ``i`` becomes the former row ``rows[i]``."""
        seen: set[int] = set()
        selected = []
        for row in rows:
            tokens, cache = self._rows[row]
            selected.append((list(tokens), copy.deepcopy(cache) if row in seen else cache))
            seen.add(row)
        self._rows = selected

    def forward(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feeds further tokens to all sequences; see `SharedPrefixCache.forward`."""
        import torch

        width = max(map(len, tokens))
        logits = []
        for row, new in enumerate(tokens):
            found = self._forward(row, new)
            logits.append(torch.nn.functional.pad(found, (0, 0, 0, width - len(new))))
        return torch.cat(logits)

    def _forward(self, row: int, new: Sequence[int]) -> torch.Tensor:
        """Returns the logits after each new token of one sequence."""
        import torch

        tokens, cache = self._rows[row]
        tokens = [*tokens, *new]
        output = self._model(
            input_ids=torch.tensor([tokens], device=self._model.device),
            use_cache=self._has_cache,
            **({"past_key_values": cache} if self._has_cache else {}),
            **({"logits_to_keep": len(new)} if self._keeps_logits else {}),
        )
        cache = output.past_key_values if self._has_cache else None
        self._rows[row] = ([] if cache is not None else tokens, cache)
        return output.logits[:, -len(new) :]


def supports_masks(
    model: Any, prefix: Sequence[int], rests: Sequence[Sequence[int]]
) -> bool | None:
    """Returns whether a model gives the same logits in a `SharedPrefixCache` as alone.

    Models that accept no explicit masks (ALiBi, recurrent layers) do not, and neither do models
    that build the masks of local attention themselves. The sequences are therefore extended beyond
    the window of such models, and compared in float32, or in the model's dtype if it is quantized,
    or float32 weights do not fit into memory, or a layer does not compute with them. The vocabulary
    is restricted to the tokens of the sequences and a few
    others: in a small model, embeddings are most of the weights. On a CPU, the model's attention is
    replaced by `_attention` if the results are equal.

    Args:
        model: Causal language model of transformers.
        prefix: Tokens of the shared prefix.
        rests: Further tokens of the sequences to compare.

    Returns:
        None if the model's logits are NaN.
    """
    import torch
    from transformers import AttentionInterface

    def last_token_probs(
        batch: SharedPrefixCache | SequentialBatch, start: Sequence[int] = ()
    ) -> torch.Tensor:
        batch.prefill([[*start, *rest[:-1]] for rest in rests])
        return batch.forward([rest[-1:] for rest in rests])[:, -1].float().softmax(-1)

    missing = _longest_window(model) + WINDOW_MARGIN - len(prefix) - min(map(len, rests))
    rests = [[*_repeated(rest, missing), *rest] for rest in rests]
    AttentionInterface.register(ATTENTION, _attention)
    implementations = [model.config._attn_implementation]
    if model.device.type == "cpu" and model._supports_attention_backend:
        implementations.insert(0, ATTENTION)

    def compared() -> bool | None:
        expected = last_token_probs(SequentialBatch(model), prefix)
        if expected.isnan().any():
            return None
        tolerance = 1e-3 if model.dtype == torch.float32 else 0.2
        for implementation in implementations:
            model.set_attn_implementation(implementation)
            try:
                batch = SharedPrefixCache(
                    model, len(rests), max(map(len, rests)), prefilled(model, prefix)
                )
                found = last_token_probs(batch)
            except Exception as error:  # models reject unknown masks with errors of any type
                if is_out_of_memory(error):
                    raise
                continue
            if (found - expected).abs().sum(-1).max() < tolerance:
                return True
        return False

    with _restricted_vocabulary(model, itertools.chain(prefix, *rests)) as numbers:
        prefix, *rests = [[numbers[token] for token in row] for row in (prefix, *rests)]
        half = _half_precision_tensors(model)
        if half:
            try:
                with _float32(half):
                    return compared()
            except Exception:  # out of memory, or of a kernel for half precision
                model.set_attn_implementation(implementations[-1])
        return compared()


def _longest_window(model: Any) -> int:
    """Returns the longest window of local attention for which the model builds the masks itself.

    That of ``sliding_window`` is in the masks of `SharedPrefixCache`.
    """
    config = model.config.get_text_config()
    windows = [
        value
        for name, value in config.to_dict().items()
        if ("window" in name or "chunk" in name) and "sliding" not in name
        if type(value) is int and value <= MAX_WINDOW
    ]
    positions = getattr(config, "max_position_embeddings", None) or math.inf
    return max([w for w in windows if w + WINDOW_MARGIN < positions], default=0)


def _repeated(tokens: Sequence[int], count: int) -> list[int]:
    return list(itertools.islice(itertools.cycle(tokens), max(0, count)))


@contextmanager
def _restricted_vocabulary(model: Any, tokens: Iterable[int]) -> Iterator[dict[int, int]]:
    """Restricts the vocabulary of a model to some tokens and `OTHER_TOKENS` until the block ends.

    That of a compiled model, or with quantized weights or layers of another form, stays as it is.

    Yields:
        The number of each token in the restricted vocabulary.
    """
    import torch

    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [layer for layer in (embeddings, head) if layer is not None]
    weights = list(dict.fromkeys(weight for layer in layers for weight in layer.parameters()))
    sizes = {len(weight) if type(weight) is torch.nn.Parameter else None for weight in weights}
    compiled = model._compiled_call_impl is not None  # it would be compiled for both vocabularies
    plain = isinstance(embeddings, torch.nn.Embedding) and sizes == {embeddings.num_embeddings}
    if compiled or not plain:
        yield {token: token for token in tokens}
        return
    kept = sorted({*tokens, *range(min(OTHER_TOKENS, embeddings.num_embeddings))})
    whole = [weight.data for weight in weights]
    padding = embeddings.padding_idx
    try:
        embeddings.padding_idx = None  # may be none of these tokens
        for weight in weights:
            weight.data = weight.data[kept]
        yield {token: number for number, token in enumerate(kept)}
    finally:
        embeddings.padding_idx = padding
        for weight, data in zip(weights, whole, strict=True):
            weight.data = data


def _half_precision_tensors(model: Any) -> list[torch.Tensor]:
    """Returns the weights and buffers in half precision, if all of them can be in float32.

    None of a quantized model can, whose kernels take half precision only, nor any on a CPU without
    the memory.
    """
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    plain = all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)
    if not plain or getattr(model, "hf_quantizer", None) is not None:
        return []
    half = [t for t in tensors if t.dtype in (torch.bfloat16, torch.float16)]
    size = sum(4 * t.numel() for t in half)
    return [] if model.device.type == "cpu" and size > available_memory() else half


@contextmanager
def _float32(half: Sequence[torch.Tensor]) -> Iterator[None]:
    """Converts tensors to float32 until the block ends."""
    dtypes = [t.dtype for t in half]
    try:
        for tensor in half:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(half, dtypes, strict=True):
            device = tensor.device
            try:
                tensor.data = tensor.data.to(dtype)
            except RuntimeError:  # a full GPU has no room for a copy
                tensor.data = tensor.data.cpu()
                tensor.data = tensor.data.to(device, dtype)


def prefilled(model: Any, prefix: Sequence[int]) -> SharedPrefixCache | None:
    """Returns the cache of a shared prefix; None if it has no tokens."""
    if not prefix:
        return None
    cache = SharedPrefixCache(model, 1, len(prefix))
    cache.prefill([prefix])
    return cache
