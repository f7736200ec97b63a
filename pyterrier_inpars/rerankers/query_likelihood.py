"""QueryLikelihood: a language model scores a document by how likely it holds the query after it."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, check_strings, positive_int
from pyterrier_inpars.backends.base import LikelihoodBackend
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.prompts.templates import Prompt, StaticPrompt, as_prompt, cut_to_fit, truncate

if TYPE_CHECKING:
    import torch

TOPIC = "Document: {document}\nThe topic of this document is: {query}"


class QueryLikelihood(Stage):
    """Scores documents by the mean log-probability of the query's tokens after the document.

    This is UPR (arXiv 2204.07496, section 2) with any causal language model, as it is: nothing is
    trained. The scores serve to rerank, to filter synthetic queries, and to tell which of the
    negatives mined for a query may answer it::

        bm25 % 30 >> text >> QueryLikelihood(model)
        queries >> QueryLikelihood(model) >> ScoreFilter(10_000)
        NegativeMiner(bm25, num_negatives=8) >> QueryLikelihood(model) >> FalseNegativeFilter()

    Needs ``qid, query, docno, text``. Gives the columns of the input with ``score`` (float, natural
    log, at most 0) and ``rank``, the rows in their order. An empty document is scored by the prompt
    alone; an empty query has minus infinity, below any other.

    Args:
        model: name on the Hugging Face hub, local folder, ``.gguf`` file, or a backend object with
            ``log_likelihood``, such as the ``HuggingFaceBackend`` of a ``QueryGenerator``.
        prompt: a ``Prompt``, the name of one for ``load_prompt``, or None for one that asks for the
            document's topic. The query follows it after a space.
        max_doc_tokens: longer documents are cut after as many of the model's tokens, those of a
            few-shot prompt's examples too; and further where prompt and query would be longer than
            the model has positions.
        max_query_tokens: the same for queries, and those of a few-shot prompt's examples.
        revision: branch, tag or commit of the model on the hub.
        batch_size: pairs scored together; None is 64.
        dtype: ``"auto"`` is bfloat16 where the processor has it, else float32; ``"int8"`` keeps the
            weights in a byte each.
        compile: compile the model with ``torch.compile`` first.
        device: None is the best there is.
        text_field: column that holds the document.
        verbose: show progress.

    Raises:
        ValueError: an argument is out of range, a query or text is no string, the model cannot be
            loaded, or prompt and query leave no room for a document.
        TypeError: a backend does not tell log-probabilities of a given text.
    """

    schematic = {"label": "QueryLikelihood", "help_url": None}

    def __init__(
        self,
        model: str | Path | LikelihoodBackend,
        *,
        prompt: str | Prompt | None = None,
        max_doc_tokens: int = 256,
        max_query_tokens: int = 200,
        revision: str | None = None,
        batch_size: int | None = None,
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        device: str | torch.device | None = None,
        text_field: str = "text",
        verbose: bool = False,
    ):
        self.model = model
        if prompt is None:
            prompt = StaticPrompt(TOPIC)
        self.prompt = as_prompt(prompt)
        self.max_doc_tokens = positive_int("max_doc_tokens", max_doc_tokens)
        self.max_query_tokens = positive_int("max_query_tokens", max_query_tokens)
        self.revision = revision
        self.batch_size = batch_size
        self.dtype = dtype
        self._compile = compile  # compile() is a method of every transformer
        self.device = device
        self.text_field = text_field
        self.verbose = verbose
        self._backend: Any = model
        if isinstance(model, str | Path):
            self._backend = HuggingFaceBackend(
                model,
                revision=revision,
                batch_size=batch_size,
                dtype=dtype,
                compile=compile,
                device=device,
            )
        elif not hasattr(model, "log_likelihood"):
            raise TypeError(
                f"model must be a name, a path, or a backend with log_likelihood, not {model!r}: "
                f"only a model that runs here tells how likely it holds a given text"
            )

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", self.text_field]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [c for c in columns if c not in ("score", "rank")] + ["score", "rank"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "query", self.text_field)
        scores = self._score(inp["query"].tolist(), inp[self.text_field].tolist())
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=scores))

    def _score(self, queries: list[str], documents: list[str]) -> list[float]:
        tokenizer = self._backend.tokenizer
        queries = truncate(queries, tokenizer, self.max_query_tokens)
        continuations = [query and f" {query}" for query in queries]
        shown = self._shown
        texts = cut_to_fit(
            truncate(documents, tokenizer, self.max_doc_tokens),
            lambda i, text: shown.build(text) + continuations[i],
            tokenizer,
            math.inf if self._backend.context is None else self._backend.context,
            f"the model's {self._backend.context} positions",
        )
        with pt.tqdm(
            total=len(texts), desc="likelihood", unit="pair", disable=not self.verbose
        ) as bar:
            log_probs = self._backend.log_likelihood(
                [shown.build(text) for text in texts],
                continuations,
                prefix=shown.prefix,
                progress=bar.update,
            )
        return [sum(row) / len(row) if row else -math.inf for row in log_probs]

    @functools.cached_property
    def _shown(self) -> Prompt:
        """The prompt with its examples cut."""
        return self.prompt.shortened(
            self._backend.tokenizer, self.max_doc_tokens, self.max_query_tokens
        )
