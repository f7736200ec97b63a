"""Base class of runtimes in this process: prompts to token IDs, and token IDs to completions."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._compute.garbage_collection import paused_garbage_collection
from pyterrier_inpars._hub import adapter_remedy, resolved
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.backends._chat import (
    check_fast,
    encode,
    turn_end,
    with_template_options,
)
from pyterrier_inpars.backends._reasoning import begins_with_tag, is_tag
from pyterrier_inpars.backends.base import (
    CUT,
    NEWLINE,
    Completion,
    Messages,
    NotANumberError,
)

TAG_TOKENS = 8
"""Number of tokens in which a model writes the tag of a reasoning."""


class TokenizedBackend:
    """Base class of a backend whose runtime takes and returns token IDs.

    Tokenization, chat templates and the extraction of completions are thus the same in all of
    them.

    Args:
        model: Name on the Hugging Face hub, local folder, or ``.gguf`` file.
        revision: Branch, tag or commit of the model on the hub; None for its main branch.
        trust_remote_code: Whether code from the model's repository is executed.
        context: Maximum number of tokens of a prompt and its completion together; None for the
            number of positions of the model.
        template_options: Variables of the model's chat template.
    """

    complete: Callable[..., list[Completion]]

    def __init__(
        self,
        model: str | Path,
        revision: str | None,
        trust_remote_code: bool,
        context: int | None,
        template_options: Mapping[str, Any] | None,
    ):
        self.name = str(model)
        self.revision = revision
        self._context = None if context is None else positive_int("context", context)
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.template_options = _checked_options(template_options)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the parameters alone: a loaded model cannot be pickled or copied."""
        loaded = [
            name
            for kind in type(self).__mro__
            for name, value in vars(kind).items()
            if isinstance(value, functools.cached_property)
        ]
        return {name: value for name, value in vars(self).items() if name not in loaded}

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the model, loaded on first use.

        Raises:
            ValueError: It is not of the tokenizers library.
        """
        tokenizer = self._load("AutoTokenizer", mistral_format=False)  # mistral-common knows none
        check_fast(tokenizer, self.name, "use OpenAIBackend and a server that runs the model")
        return with_template_options(tokenizer, self.template_options)

    @functools.cached_property
    def _config(self) -> Any:
        """Configuration of the model, which can be read without its weights."""
        return self._load("AutoConfig")

    @functools.cached_property
    def context(self) -> int | None:
        """Maximum number of tokens of a prompt and its completion; None if there is no limit."""
        config = self._config.get_text_config()  # of a multimodal model, the text part
        limits = [self._context, getattr(config, "max_position_embeddings", None)]
        return min((limit for limit in limits if limit is not None), default=None)

    @functools.cached_property
    def chat(self) -> bool:
        """Whether this is an instruct model: its chat template ends answers with an end token.

        A tokenizer with a chat template is not enough: some base models have one too.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            return False
        ends = self._config.get_text_config().eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id}
        return turn_end(self.tokenizer) in {*ends, None}

    @functools.cached_property
    def begins_reasoning(self) -> bool:
        """Whether the model begins its answer to a message with the tag of a reasoning."""
        question: Messages = [{"role": "user", "content": "Is 7 a prime number? Answer yes or no."}]
        (answer,) = self.complete([question], max_new_tokens=TAG_TOKENS, stop=())
        return begins_with_tag(answer.text)

    def _describe(self, dtype: str, versions: Mapping[str, str], **more: Any) -> dict[str, Any]:
        """Returns the settings that determine the output; see `Backend.describe`."""
        return {
            "model": self.name,
            "revision": getattr(self._config, "_commit_hash", None) or self.revision,
            "dtype": dtype,
            **more,
            **({"context": self._context} if self._context is not None else {}),
            **({"template_options": self.template_options} if self.template_options else {}),
            "versions": dict(versions),
        }

    def log_likelihood(
        self,
        prompts: Sequence[str | Messages],
        continuations: Sequence[str],
        *,
        prefix: str | Messages = "",
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> list[list[float]]:
        """Scores the continuation of each prompt; see `LikelihoodBackend.log_likelihood`."""
        raise NotImplementedError

    def _one_token_choices(
        self, prompts: Sequence[str | Messages], choices: Sequence[str]
    ) -> tuple[list[list[int]], list[int]] | None:
        """Returns the tokens of each prompt, and the token of each choice after them.

        None if choices have more than one token, the same one, or tokens that depend on the prompt.
        """
        encoded = [self._encode(prompts, 0, [choice] * len(prompts)) for choice in choices]
        rows = [row[:-1] for row in encoded[0]]
        tokens = [ids[0][-1] for ids in encoded]
        expected = [[[*row, token] for row in rows] for token in tokens]
        if encoded != expected or len(set(tokens)) < len(tokens) or not all(rows):
            return None
        return rows, tokens

    def _choices_one_by_one(
        self,
        prompts: Sequence[str | Messages],
        choices: Sequence[str],
        prefix: str | Messages,
        progress: Callable[[int], object],
    ) -> list[list[float]]:
        """Returns the log-probabilities of choices by computing each prompt once per choice."""
        columns = [
            self.log_likelihood(prompts, [choice] * len(prompts), prefix=prefix)
            for choice in choices
        ]
        progress(len(prompts))
        return [[sum(tokens) for tokens in row] for row in zip(*columns, strict=True)]

    def _check_numbers(self, log_probs: Sequence[float], row: int, dtype: str) -> None:
        """Checks that the log-probabilities of a prompt are numbers.

        Raises:
            NotANumberError: One is NaN.
        """
        if any(map(math.isnan, log_probs)):
            raise NotANumberError(f"{self.name!r} in {dtype}", row)

    # -- Loading -----------------------------------------------------------------------------

    @functools.cached_property
    def _source(self) -> tuple[str, dict[str, Any]]:
        """Name or folder for ``from_pretrained``, and its arguments."""
        path = Path(source := resolved(self.name))
        if path.suffix.lower() == ".gguf":
            return str(path.parent), {**self._hub, "gguf_file": path.name}
        return source, self._hub

    def _load(self, auto_class: str, **options: Any) -> Any:
        """Loads what a class of transformers, given by its name, makes of the model."""
        try:
            with paused_garbage_collection(), quiet():
                import transformers

                source, own = self._source
                return getattr(transformers, auto_class).from_pretrained(source, **own, **options)
        except Exception as error:  # a damaged file can raise any error
            raise self._not_loaded(error) from error

    def _not_loaded(self, error: Exception) -> ValueError:
        if remedy := adapter_remedy(self.name, self.revision):
            return ValueError(f"cannot load a causal language model from {self.name!r}: {remedy}")
        return ValueError(
            f"cannot load a causal language model from {self.name!r}: give a name on the "
            f"Hugging Face hub, a folder or a .gguf file ({error})"
        )

    # -- Prompts to tokens -------------------------------------------------------------------

    def _encode(
        self,
        prompts: Sequence[str | Messages],
        max_new_tokens: int,
        continuations: Sequence[str] | None = None,
    ) -> list[list[int]]:
        """Tokenizes prompts; special tokens that are written out in a text stay plain text.

        Raises:
            ValueError: A prompt and the new tokens exceed the context, or messages are given and
                the model has no chat template.
        """
        encoded = encode(self.tokenizer, prompts, continuations)
        if isinstance(prompts[0], str):
            encoded = [ids[: len(ids) - self._appended] for ids in encoded]
        for ids in encoded:
            if self.context is not None and len(ids) + max_new_tokens > self.context:
                raise ValueError(
                    f"a prompt of {len(ids)} tokens and {max_new_tokens} new tokens exceed the "
                    f"context of {self.context} tokens of {self.name}: lower max_doc_tokens or "
                    "max_new_tokens"
                )
        return encoded

    def _encode_pairs(
        self, prompts: Sequence[str | Messages], continuations: Sequence[str]
    ) -> tuple[list[list[int]], list[int]]:
        """Tokenizes prompts with their continuations; see `HuggingFaceBackend.log_likelihood`.

        Returns:
            The tokens of each pair, and how many at its end are those of the continuation.

        Raises:
            ValueError: See `_encode`, or there are not as many continuations as prompts.
        """
        if len(prompts) != len(continuations):
            raise ValueError(
                f"there are {len(prompts)} prompts, but {len(continuations)} continuations: give "
                "one continuation per prompt"
            )
        if not prompts:
            return [], []
        ids = self._encode(prompts, 0, continuations)
        alone = self._encode(prompts, 0)
        starts = [max(1, _common_length(*pair)) for pair in zip(alone, ids, strict=True)]
        return ids, [max(0, len(row) - start) for row, start in zip(ids, starts, strict=True)]

    @functools.cached_property
    def _appended(self) -> int:
        """Number of tokens, such as an end token, that the tokenizer appends to a text."""
        whole, plain = (
            self.tokenizer(NEWLINE, add_special_tokens=added)["input_ids"]
            for added in (True, False)
        )
        ends = [n for n in range(len(whole) + 1) if whole[:n][-len(plain) :] == plain]
        return len(whole) - ends[-1] if plain and ends else 0

    # -- Tokens to completions ---------------------------------------------------------------

    @functools.cached_property
    def _special_tokens(self) -> set[int]:
        """Tokens that are no part of a text."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {*self.tokenizer.all_special_ids, *(i for i, token in added if token.special)}

    @functools.cached_property
    def _special_tokens_but_tags(self) -> set[int]:
        """Tokens that are no part of an answer: the tags of reasoning show where it ends."""
        names = self.tokenizer.convert_ids_to_tokens
        return {token for token in self._special_tokens if not is_tag(names(token))}

    @functools.cached_property
    def _generation_config(self) -> Any:
        """The model's own generation settings, None if it has none."""
        raise NotImplementedError

    @functools.cached_property
    def _end_tokens(self) -> set[int]:
        ends = getattr(self._generation_config, "eos_token_id", None)
        ends = set(ends) if isinstance(ends, list) else {ends}
        return (ends | {self.tokenizer.eos_token_id}) - {None}

    @functools.cached_property
    def _text_of(self) -> Callable[[int], str]:
        """Function that returns the text of one token."""
        return functools.cache(lambda token: self.tokenizer.decode([token]))

    def _has_ended(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Returns whether the last token ends a completion, as an end token or by a stop string."""
        if tokens[-1] in self._end_tokens or not stop:
            return tokens[-1] in self._end_tokens
        width = max(len(text.encode()) for text in stop)  # in tokens, at most
        last = self._text_of(tokens[-1]) if width == 1 else self.tokenizer.decode(tokens[-width:])
        return any(text in last for text in stop)

    def _completion(
        self,
        tokens: Sequence[int],
        log_probs: Sequence[float],
        stop: Sequence[str] = (NEWLINE,),
        is_chat: bool = False,
    ) -> Completion:
        """Returns the completion of generated tokens, up to the first stop string.

        Args:
            tokens: The tokens, at least one, up to one that ends the completion.
            log_probs: Their natural log-probabilities.
            stop: Stop strings.
            is_chat: Whether this is the answer to messages, in which tags of reasoning stay.
        """
        ended = self._has_ended(tokens, stop)
        count = len(tokens) - (tokens[-1] in self._end_tokens)
        left_out = self._special_tokens_but_tags if is_chat else self._special_tokens
        kept = [i for i in range(count) if tokens[i] not in left_out]
        tokens, log_probs = [tokens[i] for i in kept], [log_probs[i] for i in kept]
        whole = self.tokenizer.decode(tokens)
        cut = min((i for i in map(whole.find, stop) if i >= 0), default=len(whole))
        text = whole[:cut]
        if not ended and text.endswith(CUT):  # a character whose last bytes are missing
            text = text.rstrip(CUT)
            while tokens and self.tokenizer.decode(tokens[:-1]).rstrip(CUT) == text:
                tokens, log_probs = tokens[:-1], log_probs[:-1]
        ends = self._token_ends(tokens)
        while ends and ends[-1] > cut and not whole[max([0, *ends[-2:-1]]) : cut].strip():
            ends.pop()  # a token of the stop string, with no part of the text
        space = len(text) - len(text.lstrip())
        text = text.strip()
        return Completion(
            text,
            log_probs[: len(ends)],
            "stop" if ended else "length",
            [min(max(0, end - space), len(text)) for end in ends],
        )

    def _token_ends(self, tokens: Sequence[int]) -> list[int]:
        """Returns the position in the text of tokens at which each token ends."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        texts = (stream.step(self.tokenizer.backend_tokenizer, token) for token in tokens)
        return list(itertools.accumulate(len(text or "") for text in texts))


def _common_length(a: list[int], b: list[int]) -> int:
    """Returns the number of tokens at the beginning of both sequences that are equal."""
    differ = (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(a), len(b)))


def _checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns variables of a chat template as a dict.

    Raises:
        TypeError: They are not a mapping from names to values that JSON can represent.
    """
    try:
        given = dict(options or {})
        checked: dict[str, Any] | None = json.loads(json.dumps(given))
    except (TypeError, ValueError):
        checked = None
    if checked is None or not all(isinstance(name, str) and name.isidentifier() for name in given):
        raise TypeError(
            "template_options must be a dict of variables of the chat template, such as "
            f"{{'enable_thinking': False}}, not {options!r:.200}"
        )
    return checked
