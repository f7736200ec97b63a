"""What the rerankers over sentence-transformers share: limits, batches, precision, saving."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from pyterrier_inpars._compute.devices import best_dtype, is_int8
from pyterrier_inpars._compute.xla import on_xla, padded_length
from pyterrier_inpars.rerankers._checkpoint import read_json
from pyterrier_inpars.rerankers._first_state import first_state
from pyterrier_inpars.rerankers._vector_cache import weights_state
from pyterrier_inpars.rerankers.base import OPENVINO, TORCH, Reranker

if TYPE_CHECKING:
    import pandas as pd
    import torch

TOKENIZED = 1024
"""Number of inputs that are tokenized together."""

GENERATIVE = ("text-generation", "any-to-any")
"""Tasks of sentence-transformers whose scores are logits of the last token."""
_DTYPE_ERROR = re.compile("dtype|scalar type|bfloat16", re.IGNORECASE)
"""Words of PyTorch's errors about tensors of several dtypes, or of one it cannot compute with."""


class SentenceTransformersReranker(Reranker):
    """A reranker whose network is one of sentence-transformers."""

    _backends = (TORCH, OPENVINO)
    _openvino: Any = None  # the encoders that OpenVINO computes
    # Whether the network does not compute with converted weights; None until it did or did not.
    _only_autocast: bool | None = None

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
        if read_json(self._name, "modules.json", self.revision) is None:
            ignore_chat_template(network)
        pad_after_text(network)
        pad_for_device(network)
        self._own_limit = network.max_seq_length
        self._only_autocast = None
        return network

    def _adapt(self, network: Any) -> None:
        limit, positions = self.max_length, number_of_positions(network)
        if limit is None:
            limit = self._own_limit
            if limit is not None and limit > positions:
                limit = int(positions)
        elif limit > positions:
            raise ValueError(
                f"max_length={limit} is more than the {positions} positions of {str(self.model)!r}"
            )
        if network.max_seq_length != limit:
            network.max_seq_length = limit

    def _input_format(self, network: Any) -> dict[str, Any]:
        return {"max_length": network.max_seq_length}

    def _computed(
        self,
        inputs: Sequence[Any],
        tokenize: Callable[[list[Any]], dict[str, Any]],
        forward: Callable[[dict[str, Any]], torch.Tensor],
        first_state_only: bool,
        counted: bool = True,
    ) -> np.ndarray:
        """Computes inputs without gradients, in the precision of this reranker.

        Args:
            inputs: Texts, or pairs of them.
            tokenize: Returns the network's input for some of them.
            forward: Returns a tensor with one row per row of a network's input on its device.
            first_state_only: Whether only the first token's state is read.
            counted: Whether they count as inputs of this reranker.

        Returns:
            The outputs of all inputs, float32, in order.
        """

        def compute() -> np.ndarray:
            with self._inference(), self._first_state(first_state_only):
                return self._in_chunks(inputs, tokenize, forward, counted)

        before = self.inputs, self.truncated
        if not self._converts_weights() or self._only_autocast:
            return compute()
        earlier = self._only_autocast
        try:
            found = compute()
            self._only_autocast = False
            return found
        except RuntimeError as error:
            if not _DTYPE_ERROR.search(str(error)):
                raise
            first = error
        # Some networks read weights or buffers in float32, which is no error under autocast.
        self.inputs, self.truncated = before
        self._only_autocast = True
        try:
            return compute()
        except RuntimeError:
            self._only_autocast = earlier
            raise first from None
        except BaseException:
            self._only_autocast = earlier
            raise

    def _score_one(self) -> None:
        """Scores a text, which shows whether the network computes with converted weights."""
        raise NotImplementedError

    def _precision_name(self, network: Any) -> str:
        name = super()._precision_name(network)
        if not self._converts_weights():
            return name
        if self._only_autocast is None:
            before = self.inputs, self.truncated, self.verbose
            self.verbose = False
            try:
                self._score_one()
            finally:
                self.inputs, self.truncated, self.verbose = before
        return f"{name} by autocast" if self._only_autocast else name

    def _in_chunks(
        self,
        inputs: Sequence[Any],
        tokenize: Callable[[list[Any]], dict[str, Any]],
        forward: Callable[[dict[str, Any]], torch.Tensor],
        counted: bool,
    ) -> np.ndarray:
        """Computes inputs in batches of similar numbers of tokens.

        Inputs are tokenized many at a time, which takes half the time of small batches, and then
        grouped by their exact lengths, which avoids nearly all padding.
        """
        from sentence_transformers.util import batch_to_device

        network = self.network
        characters = [
            len(text) if isinstance(text, str) else sum(map(len, text)) for text in inputs
        ]
        order = np.argsort(-np.array(characters, dtype=int), kind="stable")
        found = []
        with self._progress(len(inputs)) as bar:
            for i in range(0, len(inputs), TOKENIZED):
                chunk = [inputs[row] for row in order[i : i + TOKENIZED]]
                tokens = tokenize(chunk)
                mask = tokens.get("attention_mask")  # absent without a transformer
                lengths = [1] * len(chunk) if mask is None else mask.sum(dim=1).tolist()
                if counted and mask is not None:
                    self._count_inputs(lengths, network.max_seq_length)

                def compute(rows: list[int], chunk: Any = chunk, tokens: Any = tokens) -> Any:
                    if "attention_mask" in tokens:
                        batch = some_rows(tokens, rows, self._padded_length)
                    else:
                        batch = tokenize([chunk[row] for row in rows])
                    return forward(batch_to_device(batch, network.device))

                found.append(self._in_batches(lengths, compute, bar))
        return np.concatenate(found)[np.argsort(order)]

    def _converts_weights(self) -> bool:
        """Whether scores are computed with the weights converted to bfloat16."""
        import torch

        device = self.network.device
        return not (
            self.backend == OPENVINO
            or best_dtype(self.dtype, device) != torch.bfloat16  # float16 could overflow
            or is_int8(self.dtype)
            or self._compile
            or self.trust_remote_code  # which may expect weights and buffers of one dtype
            or on_xla(device)
        )

    def _precision(self) -> AbstractContextManager:
        import torch

        network = self.network
        if self.backend == OPENVINO:
            return self._in_openvino(network)
        if not self._converts_weights() or self._only_autocast:
            return super()._precision()
        from pyterrier_inpars._compute.lower_precision import converted_weights

        return converted_weights(network, torch.bfloat16, keep=self._heads(network))

    def _in_openvino(self, network: Any) -> AbstractContextManager:
        """Returns a context in which OpenVINO computes the encoders; heads stay in float32."""
        from sentence_transformers.base.modules import Transformer

        from pyterrier_inpars._compute.openvino import OpenVinoEncoders

        if network.device.type != "cpu":
            raise ValueError(
                f"backend='openvino' computes on a CPU, not on {str(network.device)!r}: give "
                f"device='cpu', or backend='torch'"
            )
        parts = [part for part in network.modules() if isinstance(part, Transformer)]
        if any(is_language_model(part.model.config) for part in parts):
            raise ValueError(
                f"backend='openvino' is for encoders, and {str(self.model)!r} is a causal language "
                f"model: give backend='torch'"
            )
        if self._openvino is None:
            self._openvino = OpenVinoEncoders()
        dtype = best_dtype(self.dtype, network.device)
        state = (weights_state(network), self._input_settings(), dtype)
        return self._openvino.instead_of([part.model.base_model for part in parts], dtype, state)

    def _reranked(self, results: pd.DataFrame) -> pd.DataFrame:
        # Weights in training would be converted at each validation.
        backend, self.backend = self.backend, TORCH
        try:
            return super()._reranked(results)
        finally:
            self.backend = backend

    def _first_state(self, alone: bool) -> AbstractContextManager[None]:
        """Computes less in this context if only the first token's state is read."""
        if not alone or self._compile:  # replaced layers would be compiled again
            return nullcontext()
        return first_state(self.network)

    def _padded_length(self, tokens: int) -> int:
        """Returns the length to which a batch is padded, at least 1 for an empty text."""
        limit = self.network.max_seq_length or np.inf
        return max(1, padded_length(tokens, limit, self.network.device))

    def _write(self, path: str) -> None:
        self.network.save_pretrained(path, create_model_card=False)


def some_rows(
    tokens: dict[str, Any], rows: Sequence[int], padded: Callable[[int], int]
) -> dict[str, Any]:
    """Returns rows of a network's input, without the padding that they do not need.

    Args:
        tokens: Input with an ``attention_mask``, padded on one side, and other tensors.
        rows: Row numbers, which may repeat.
        padded: Length of a batch from that of its longest row.
    """
    mask = tokens["attention_mask"]
    length = padded(int(mask[rows].sum(dim=1).max()))
    left = bool((mask[:, 0] < mask[:, -1]).any())
    columns = slice(mask.shape[1] - length, None) if left else slice(length)
    found = dict(tokens)
    for name, value in tokens.items():
        if getattr(value, "shape", ())[:1] == mask.shape[:1]:
            found[name] = value[rows]
            if value.shape[:2] == mask.shape:
                found[name] = found[name][:, columns]
    return found


def is_language_model(config: Any) -> bool:
    """Returns whether a configuration is of a causal language model, and of no encoder."""
    import transformers

    kind = type(config)
    encoders = transformers.MODEL_FOR_MASKED_LM_MAPPING
    return kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and kind not in encoders


def number_of_positions(network: Any) -> float:
    """Returns the maximum number of tokens of an input by the network's position embeddings.

    Infinite for a network without any. Models of the RoBERTa family number positions from the one
    after the padding token's, so that ``max_position_embeddings`` is more than they can read.
    """
    positions = getattr(network.config, "max_position_embeddings", None) or 0
    limits = [positions] if positions > 0 else []
    for name, layer in network.named_modules():
        padding = getattr(layer, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            limits.append(layer.num_embeddings - padding - 1)
    return min(limits, default=np.inf)


def ignore_chat_template(network: Any) -> None:
    """Makes a network read texts as they are, unless its chat template has a place for documents.

    sentence-transformers would put each text into the template of an instruct model, as the turn
    of a user.
    """
    from sentence_transformers.base.modules import Transformer

    for part in network.modules():
        if not isinstance(part, Transformer) or "text" not in part.modality_config:
            continue
        if "document" not in str(getattr(part.processor, "chat_template", None)):
            part.modality_config.pop("message", None)
            part.input_formatter.supported_modalities = list(part.modality_config)


def pad_after_text(network: Any) -> None:
    """Makes all tokenizers of a network pad on the right, so that no score depends on its batch.

    On the left, padding would shift the absolute positions of the text. A language model whose
    scores are logits of the last position keeps the left. A tokenizer without a padding token gets
    one, which the attention mask hides.
    """
    from sentence_transformers.base.modules import Transformer

    for part in network.modules():
        if not isinstance(part, Transformer) or part.tokenizer is None:
            continue
        if part.transformer_task not in GENERATIVE:
            part.tokenizer.padding_side = "right"
        if part.tokenizer.pad_token is None:
            part.tokenizer.pad_token = _unused_at_the_end(part.tokenizer)
        config = part.model.config.get_text_config()
        if config.pad_token_id is None or hasattr(part.model, "score"):
            # The head of a decoder reads the last token that is not padding.
            config.pad_token_id = part.tokenizer.pad_token_id


def _unused_at_the_end(tokenizer: Any) -> str:
    """Returns a special token to pad with: the end token, unless the tokenizer appends it."""
    tokens = [tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token]
    last = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])[-1:]
    return next((token for token in tokens if token and token not in last), tokenizer.eos_token)


def append_end_token(tokenizer: Any) -> None:
    """Makes a tokenizer append its end token, also to a truncated text.

    A tokenizer that appends a token already, or puts others than the start token before a text,
    stays unchanged.
    """
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"] != alone else []
    if tokenizer.eos_token is not None and tokenizer("a")["input_ids"] == start + alone:
        tokenizer.add_bos_token = bool(start)
        tokenizer.add_eos_token = True


def pad_for_device(network: Any) -> None:
    """Pads the input of a sentence-transformers network to the lengths of ``padded_length``."""
    preprocess = network.preprocess

    def padded(*args: Any, **options: Any) -> Any:
        batch = preprocess(*args, **options)
        if "attention_mask" in batch:  # absent without a transformer
            tokens = batch["attention_mask"].shape[1]
            length = padded_length(tokens, network.max_seq_length or np.inf, network.device)
            length = max(1, length)  # a language model may read no token of an empty text
            if length > tokens:
                parts = {k: batch[k] for k in network.tokenizer.model_input_names if k in batch}
                batch |= network.tokenizer.pad(
                    parts, padding="max_length", max_length=length, return_tensors="pt"
                )
        return batch

    network.preprocess = padded
