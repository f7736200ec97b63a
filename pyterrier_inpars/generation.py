"""Query generation: documents to synthetic queries."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import (
    as_frame,
    check_strings,
    fields_of,
    joined_text,
    positive_int,
    with_columns,
)
from pyterrier_inpars.backends._chat import as_text
from pyterrier_inpars.backends._model_stage import ModelStage
from pyterrier_inpars.backends.base import (
    Backend,
    Completion,
    Messages,
    NotANumberError,
    PromptError,
    Sampling,
)
from pyterrier_inpars.backends.huggingface import BackendOptions, as_backend
from pyterrier_inpars.backends.pyterrier_rag import PyTerrierRagBackend
from pyterrier_inpars.prompts._truncation import truncate, truncate_to_fit
from pyterrier_inpars.prompts.extraction import (
    Extract,
    Query,
    check_extract,
    describe_extract,
    log_probs_of,
    queries_of,
)
from pyterrier_inpars.prompts.templates import Prompt, as_prompt, load_prompt
from pyterrier_inpars.queries._resume import DocumentStage

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)

AUTO = "auto"
"""Prompt that depends on the model."""
_DEFAULTS = {True: "chat", False: "three-shot"}
"""Names of the default prompts of instruct models and of base models."""
MANY_COPIES = (5, 0.05)
"""Number and share of queries that repeat the prompt from which there is a warning."""
MANY_CUT = (5, 0.2)
"""Number and share of answers that end before the query from which there is a warning."""
_MOVED = {
    "temperature": "is a field of sampling: give sampling={'temperature': 0.7}",
    "top_p": "is a field of sampling: give sampling={'temperature': 0.7, 'top_p': 0.9}",
    "seed": "is a field of sampling: give sampling={'temperature': 0.7, 'seed': 1}",
    "max_query_tokens": (
        "is a parameter of FewShotPrompt: give prompt=FewShotPrompt(examples, max_query_tokens=200)"
    ),
    "max_prompt_tokens": "is now called context: give context=1024",
    "backend": "is no longer a parameter: give the backend object as model",
}
"""Parameters of version 0.1, with their place in this version."""


class QueryGenerator(ModelStage, DocumentStage):
    """Generates queries for documents with a language model (InPars, arXiv 2202.05144, section 3).

    Input: documents ``docno, text``. Output: synthetic queries, one row each, in the order of the
    documents, with all columns of the input and:

    - ``qid`` (str): The docno and the number of the query: ``docno-1``, ``docno-2``, ...
    - ``query`` (str): The generated text up to a newline.
    - ``score`` (float): Mean of ``log_probs``.
    - ``log_probs`` (list of float): Natural log-probability of each generated token.
    - ``finish_reason`` (str): ``stop`` if the model ended the query, ``length`` if the token limit
      did.
    - ``prompt_text`` (str): The prompt, if ``keep_prompt`` is set.

    A document without text gets no query, and an empty query gives no row. The attribute ``empty``
    counts both. Small models often repeat an example of the prompt, with high log-probabilities.
    Queries that equal an example, or nearly do, are dropped (see `Prompt.copies`) and counted by
    the attribute ``copied``.

    Args:
        model: Name on the Hugging Face hub, local folder, ``.gguf`` file, or a backend object: a
            `backends.Backend`, or an object with pyterrier_rag's ``generate`` method.
        prompt: A `Prompt`, or a name for `load_prompt`.
        num_queries: Number of queries per document. More than one requires a temperature.
        sampling: A `Sampling`, or a dict of its fields: ``{"temperature": 0.7, "top_p": 0.9,
            "seed": 1}``. None for greedy decoding.
        max_doc_tokens: Maximum number of tokens of a document; longer documents are truncated.
            Documents in few-shot examples have the same limit.
        max_new_tokens: Maximum number of tokens of a query.
        text_field: Name of the column with the document text, or a list of names, whose texts are
            joined by spaces: ``["title", "text"]``.
        keep_prompt: Whether to add the column ``prompt_text``.
        verbose: Whether to show a progress bar.
        **backend_options: If ``model`` is a name or a path, parameters of `HuggingFaceBackend`:
            ``revision``, ``trust_remote_code``, ``batch_size``, ``dtype``, ``compile``, ``device``
            and ``context``. Documents are truncated further if prompt and query would exceed the
            context.

    Attributes:
        empty: Number of queries that were not generated or were empty.
        copied: Number of queries that were dropped because they repeat an example of the prompt.

    Raises:
        ValueError: An argument is out of range, a docno or text is not a string, the model cannot
            be loaded, or the prompt leaves no room for a document.
        TypeError: An argument is unknown or has a wrong type, or ``model`` is a backend object and
            options for it are given.
    """

    schematic = {"label": "QueryGenerator", "help_url": None}
    _counters = ("empty", "copied")
    _converters = {
        "prompt": as_prompt,
        "num_queries": partial(positive_int, "num_queries"),
        "max_doc_tokens": partial(positive_int, "max_doc_tokens"),
        "max_new_tokens": partial(positive_int, "max_new_tokens"),
    }

    def __init__(
        self,
        model: str | Path | Backend,
        *,
        prompt: str | Prompt = "three-shot",
        num_queries: int = 1,
        sampling: Sampling | Mapping[str, Any] | None = None,
        max_doc_tokens: int = 256,
        max_new_tokens: int = 64,
        text_field: str | list[str] = "text",
        keep_prompt: bool = False,
        verbose: bool = False,
        **backend_options: Unpack[BackendOptions],
    ):
        options: dict[str, Any] = dict(backend_options)
        for name in options:
            if name in _MOVED:
                raise TypeError(f"{name} {_MOVED[name]}")
        self.prompt = as_prompt(prompt)
        self.num_queries = num_queries
        self.sampling = sampling
        Sampling.of(sampling).check_num_samples(num_queries)
        self.max_doc_tokens = max_doc_tokens
        self.max_new_tokens = max_new_tokens
        self.text_field = text_field
        self.keep_prompt = keep_prompt
        self.verbose = verbose
        self.empty = 0
        self.copied = 0
        self._queries = 0
        self._warned = False
        self._title_seen = False
        self._connect(model, options)

    def _make_backend(self, model: Any, options: dict[str, Any]) -> Any:
        backend = as_backend(model, options, type(self))
        if hasattr(backend, "complete"):
            return backend
        if not hasattr(backend, "generate"):
            raise TypeError(
                "model must be a name, a path, or a backend with the method complete or "
                f"generate, not {model!r:.200}"
            )
        return PyTerrierRagBackend(backend)

    def _required_columns(self) -> list[str]:
        return ["docno", *fields_of(self.text_field)]

    def _output_columns(self, columns: list[str]) -> list[str]:
        new = ["score", "log_probs", "finish_reason"] + ["prompt_text"] * self.keep_prompt
        return with_columns(["qid", "query"], *columns, *new)

    def settings(self) -> dict[str, Any]:
        """Returns the settings that determine the queries, as stored in a manifest.

        They include model, prompt, limits and sampling, the topics of few-shot examples, and
        package versions under the key ``versions``.
        """
        described = self._backend.describe()
        context = described.pop("context", None)
        sampling = Sampling.of(self.sampling)
        # Keys and values are those of version 0.1, so that its artifacts can be resumed.
        return {
            **described,
            "prompt": self.prompt.build("{document}"),
            **({"fewshot_topics": self.prompt.topics} if self.prompt.topics else {}),
            "num_queries": self.num_queries,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_doc_tokens": self.max_doc_tokens,
            "max_query_tokens": self.prompt.max_query_tokens,
            "max_prompt_tokens": context,
            "max_new_tokens": self.max_new_tokens,
            "seed": sampling.seed,
        }

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno")
        texts = pd.Series(joined_text(inp, self.text_field), dtype=object)
        self._warn_of_title(inp, texts)
        columns = self._output_columns(list(inp.columns))
        rows = self._generate(inp[texts.str.strip() != ""], texts)
        prompt = self.prompt.truncated(self._backend.tokenizer, self.max_doc_tokens)
        copies = prompt.copies(row["query"] for row in rows) if rows else []
        self.empty += len(inp) * self.num_queries - len(rows)
        self._count_copies(sum(copies), len(rows))
        rows = [row for row, is_copy in zip(rows, copies, strict=True) if not is_copy]
        return as_frame(rows, columns)

    def _warn_of_title(self, documents: pd.DataFrame, texts: pd.Series) -> None:
        """Warns once if documents have titles that are not part of their texts."""
        if self._title_seen or "title" not in documents:
            return
        pairs = zip(documents["title"], texts, strict=True)
        if any(isinstance(title, str) and title.strip() not in text for title, text in pairs):
            self._title_seen = True
            warnings.warn(
                "the documents' titles are not used: give text_field=['title', 'text'] to include "
                "them",
                stacklevel=4,
            )

    def _count_copies(self, copied: int, queries: int) -> None:
        """Counts dropped queries, and warns once if they are many."""
        self.copied += copied
        self._queries += queries
        if self.copied >= MANY_COPIES[0] and self.copied > MANY_COPIES[1] * self._queries:
            if not self._warned:
                warnings.warn(
                    f"{self.copied:,} of {self._queries:,} queries repeat an example of the prompt "
                    "and were dropped, as small models often do: give another prompt, or a larger "
                    "model",
                    stacklevel=4,
                )
            self._warned = True

    def _generate(self, documents: pd.DataFrame, texts: pd.Series) -> list[dict[str, Any]]:
        """Returns the rows of the queries for documents with text.

        Args:
            documents: Some of the documents.
            texts: Texts of all documents.
        """
        records = documents.to_dict("records")
        if not records:
            return []
        n = self.num_queries
        sampling = Sampling.of(self.sampling)
        seeds = [_seed(sampling.seed, record["docno"], i) for record in records for i in range(n)]
        prompt = self.prompt.truncated(self._backend.tokenizer, self.max_doc_tokens)
        prompts = self._prompts(prompt, list(texts[documents.index]))
        with pt.tqdm(total=len(seeds), desc="generate", unit="q", disable=not self.verbose) as bar:
            try:
                completions = self._backend.complete(
                    prompts,
                    prefix=prompt.prefix,
                    max_new_tokens=self.max_new_tokens,
                    sampling=sampling,
                    num_samples=n,
                    seeds=seeds,
                    progress=bar.update,
                )
            except NotANumberError as error:
                raise error.at(f"docno {records[error.row]['docno']!r}") from None
        for i, completion in enumerate(completions):
            if any(map(math.isnan, completion.log_probs)):  # not every backend checks it
                place = f"docno {records[i // n]['docno']!r}"
                raise NotANumberError(repr(self.model)[:200], i // n, place)
        return [
            {
                **records[i // n],
                "qid": f"{records[i // n]['docno']}-{i % n + 1}",
                "query": completion.text,
                "score": sum(completion.log_probs) / len(completion.log_probs),
                "log_probs": completion.log_probs,
                "finish_reason": completion.finish_reason,
                **({"prompt_text": prompts[i // n]} if self.keep_prompt else {}),
            }
            for i, completion in enumerate(completions)
            if completion.text
        ]

    def _prompts(self, prompt: Prompt, documents: list[str]) -> list[str]:
        """Returns the prompts, with documents truncated so that prompt and query fit."""
        tokenizer, context = self._backend.tokenizer, self._backend.context
        texts = truncate_to_fit(
            truncate(documents, tokenizer, self.max_doc_tokens),
            lambda i, text: prompt.build(text),
            tokenizer,
            math.inf if context is None else context - self.max_new_tokens,
            f"the context of {context} tokens, of which max_new_tokens={self.max_new_tokens} are "
            "reserved for the query",
        )
        return [prompt.build(text) for text in texts]


def _seed(seed: int, docno: str, number: int) -> int:
    """Returns the seed of one query, which does not depend on its batch."""
    digest = hashlib.sha256(f"{seed}\0{number}\0{docno}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
