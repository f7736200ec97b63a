"""Query likelihood: a language model scores a document by the probability of the query after it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._stage import check_strings, fields_of, joined_text
from pyterrier_inpars.backends._model_stage import ModelStage
from pyterrier_inpars.backends.base import LikelihoodBackend, NotANumberError
from pyterrier_inpars.backends.huggingface import BackendOptions
from pyterrier_inpars.backends.loading import as_backend
from pyterrier_inpars.prompts._truncation import truncate, truncate_to_fit
from pyterrier_inpars.prompts.templates import Prompt, StaticPrompt, as_prompt

if TYPE_CHECKING:
    from typing_extensions import Unpack

TOPIC = "Document: {document}\nThe topic of this document is: {query}"
"""Template of the default prompt."""


def _as_prompt(prompt: str | Prompt | None) -> Prompt:
    return StaticPrompt(TOPIC) if prompt is None else as_prompt(prompt)


class QueryLikelihood(ModelStage):
    """Scores documents by the mean log-probability of the query's tokens after the document.

    This is UPR (arXiv 2204.07496, section 2) with any causal language model, without training. The
    scores can rerank results, filter synthetic queries, or find mined negatives that are
    relevant::

        bm25 % 30 >> text >> QueryLikelihood(model)
        (QueryLikelihood(model) >> ScoreFilter(10_000))(queries.get_results())
        NegativeMiner(bm25, num_negatives=8) >> QueryLikelihood(model) >> FalseNegativeFilter()

    Input: results ``qid, query, docno, text``. Output: the same rows in the same order, with
    ``score`` (float, mean natural log-probability, at most 0) and ``rank``. An empty document is
    scored by the prompt alone. An empty query has the score minus infinity.

    Args:
        model: Name on the Hugging Face hub, local folder, ``.gguf`` file, or a backend object with
            the method ``log_likelihood``, for example a `HuggingFaceBackend` that a
            `QueryGenerator` uses too.
        prompt: A `Prompt`, or a name for `load_prompt`. None for a prompt that introduces the
            document's topic. The query follows the prompt after a space; with a `ChatPrompt`, it
            is the answer.
        max_doc_tokens: Maximum number of tokens of a document; longer documents are truncated, and
            further if prompt and query would exceed the context. Documents in few-shot examples
            have the same limit.
        max_query_tokens: Maximum number of tokens of a query; longer queries are truncated.
        text_field: Name of the column with the document text, or a list of names, whose texts are
            joined by spaces.
        verbose: Whether to show a progress bar.
        **backend_options: If ``model`` is a name or a path, parameters of `HuggingFaceBackend`:
            ``revision``, ``trust_remote_code``, ``batch_size``, ``dtype``, ``compile``, ``device``
            and ``context``.

    Raises:
        ValueError: An argument is out of range, a query or text is not a string, the model cannot
            be loaded, or prompt and query leave no room for a document.
        TypeError: An argument is unknown or has a wrong type, ``model`` is a backend object and
            options for it are given, or the backend cannot score given texts.
    """

    schematic = {"label": "QueryLikelihood", "help_url": None}
    _converters = {
        "prompt": _as_prompt,
        "max_doc_tokens": partial(positive_int, "max_doc_tokens"),
        "max_query_tokens": partial(positive_int, "max_query_tokens"),
    }

    def __init__(
        self,
        model: str | Path | LikelihoodBackend,
        *,
        prompt: str | Prompt | None = None,
        max_doc_tokens: int = 256,
        max_query_tokens: int = 200,
        text_field: str | list[str] = "text",
        verbose: bool = False,
        **backend_options: Unpack[BackendOptions],
    ):
        self.prompt = _as_prompt(prompt)
        self.max_doc_tokens = max_doc_tokens
        self.max_query_tokens = max_query_tokens
        self.text_field = text_field
        self.verbose = verbose
        self._connect(model, dict(backend_options))

    def _make_backend(self, model: Any, options: dict[str, Any]) -> Any:
        backend = as_backend(model, options, type(self))
        if not hasattr(backend, "log_likelihood"):
            raise TypeError(
                f"model must be a name, a path, or a backend with log_likelihood, not {model!r}: "
                "only a backend that returns the log-probabilities of a given text can score it"
            )
        return backend

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", *fields_of(self.text_field)]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [c for c in columns if c not in ("score", "rank")] + ["score", "rank"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "query")
        texts = joined_text(inp, self.text_field)
        try:
            scores = self._score(inp["query"].tolist(), texts)
        except NotANumberError as error:
            row = inp.iloc[error.row]
            raise error.at(f"qid {row['qid']!r}, docno {row['docno']!r}") from None
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=scores))

    def _score(self, queries: list[str], documents: list[str]) -> list[float]:
        tokenizer, context = self._backend.tokenizer, self._backend.context
        queries = truncate(queries, tokenizer, self.max_query_tokens)
        prompt = self.prompt.truncated(tokenizer, self.max_doc_tokens)
        continuations = [query and prompt.continuation(query) for query in queries]
        texts = truncate_to_fit(
            truncate(documents, tokenizer, self.max_doc_tokens),
            lambda _, text: prompt.build(text),
            tokenizer,
            math.inf if context is None else context,
            f"the context of {context} tokens",
            continuations,
        )
        with Progress(
            title="likelihood", total=len(texts), unit="pairs", verbose=self.verbose
        ) as bar:
            log_probs = self._backend.log_likelihood(
                [prompt.build(text) for text in texts],
                continuations,
                prefix=prompt.prefix,
                progress=bar.update,
            )
        for i, row in enumerate(log_probs):
            if any(map(math.isnan, row)):  # not every backend checks it
                raise NotANumberError(repr(self.model)[:200], i)
        return [sum(row) / len(row) if row else -math.inf for row in log_probs]
