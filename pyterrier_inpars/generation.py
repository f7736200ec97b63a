"""Documents to synthetic queries."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import (
    Stage,
    as_frame,
    check_strings,
    finite,
    positive_int,
    with_columns,
)
from pyterrier_inpars.backends.base import Backend, Sampling
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.backends.pyterrier_rag import PyTerrierRagBackend
from pyterrier_inpars.prompts.templates import Prompt, as_prompt, cut_to_fit, truncate
from pyterrier_inpars.queries import _resume as resume

if TYPE_CHECKING:
    import torch


class QueryGenerator(Stage):
    """Writes queries for documents with a language model (InPars, arXiv 2202.05144, section 3).

    In: documents ``docno, text``. Out: synthetic queries, one row each, in the order of the
    documents, which keep their other columns:

    - ``qid`` (str): the docno and the number of the query, ``docno-1``, ``docno-2``, ...
    - ``query`` (str): what the model wrote, up to a newline.
    - ``score`` (float): mean of ``log_probs``.
    - ``log_probs`` (list of float): natural log-probability of each generated token.
    - ``finish_reason`` (str): ``stop`` if the model ended the query, ``length`` if the limit did.
    - ``prompt_text`` (str): what the model was shown, if ``keep_prompt``.

    A document without text gets no query, and an empty query gives no row: ``self.empty`` counts
    them.

    Args:
        model: name on the Hugging Face hub, local folder, ``.gguf`` file, or a backend object.
        prompt: a ``Prompt``, or the name of one for ``load_prompt``.
        num_queries: queries for each document; more than one needs a temperature.
        temperature: 0 is greedy; above it, queries are sampled.
        top_p: sample only from the likeliest tokens that hold this share of the probability.
        max_doc_tokens: longer documents are cut after as many of the model's tokens, those of a
            few-shot prompt's examples too.
        max_query_tokens: the same for the queries of a few-shot prompt's examples.
        max_prompt_tokens: most tokens of a prompt and its query together; None is as many as the
            model has positions. Where they would be more, the document is cut further.
        max_new_tokens: longest query in tokens.
        revision: branch, tag or commit of the model on the hub.
        batch_size: queries written together; None is 64.
        dtype: ``"auto"`` is bfloat16 where the processor has it, else float32; ``"int8"`` keeps the
            weights in a byte each.
        compile: compile the model with ``torch.compile`` first.
        device: None is the best there is.
        seed: of the sampling. A query depends on the seed, its docno and its number alone.
        text_field: column that holds the document.
        keep_prompt: add the column ``prompt_text``.
        verbose: show progress.
        backend: an object that completes prompts, instead of a model: a ``backends.base.Backend``,
            or one with pyterrier_rag's ``generate``.

    Raises:
        ValueError: an argument is out of range, a docno or text is no string, the model cannot be
            loaded, or the prompt leaves no room for a document.
    """

    schematic = {"label": "QueryGenerator", "help_url": None}

    def __init__(
        self,
        model: str | Path | Backend | None = None,
        *,
        prompt: str | Prompt = "three-shot",
        num_queries: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_doc_tokens: int = 256,
        max_query_tokens: int = 200,
        max_prompt_tokens: int | None = None,
        max_new_tokens: int = 64,
        revision: str | None = None,
        batch_size: int | None = None,
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        device: str | torch.device | None = None,
        seed: int = 0,
        text_field: str = "text",
        keep_prompt: bool = False,
        verbose: bool = False,
        backend: Backend | None = None,
    ):
        if (model is None) == (backend is None):
            raise ValueError("give QueryGenerator either a model or a backend")
        self.model = model
        self.prompt = as_prompt(prompt)
        self.num_queries = positive_int("num_queries", num_queries)
        self.temperature = finite("temperature", temperature)
        self.top_p = finite("top_p", top_p)
        self.max_doc_tokens = positive_int("max_doc_tokens", max_doc_tokens)
        self.max_query_tokens = positive_int("max_query_tokens", max_query_tokens)
        self.max_prompt_tokens = max_prompt_tokens
        if max_prompt_tokens is not None:
            positive_int("max_prompt_tokens", max_prompt_tokens)
        self.max_new_tokens = positive_int("max_new_tokens", max_new_tokens)
        self.revision = revision
        self.batch_size = batch_size
        if batch_size is not None:
            positive_int("batch_size", batch_size)
        self.dtype = dtype
        self._compile = compile  # compile() is a method of every transformer
        self.device = device
        self.seed = positive_int("seed", seed, least=0)
        self.text_field = text_field
        self.keep_prompt = keep_prompt
        self.verbose = verbose
        self.backend = backend
        self.empty = 0
        Sampling(temperature, top_p, num_queries)  # an error now rather than after loading a model
        self._completes: Any = model if backend is None else backend
        if isinstance(model, str | Path):
            self._completes = HuggingFaceBackend(
                model,
                revision=revision,
                batch_size=batch_size,
                dtype=dtype,
                compile=compile,
                device=device,
            )
        elif not hasattr(self._completes, "complete"):
            self._completes = PyTerrierRagBackend(self._completes)

    def _required_columns(self) -> list[str]:
        return ["docno", self.text_field]

    def _output_columns(self, columns: list[str]) -> list[str]:
        new = ["score", "log_probs", "finish_reason"] + ["prompt_text"] * self.keep_prompt
        return with_columns(["qid", "query"], *columns, *new)

    def settings(self) -> dict[str, Any]:
        """What decides the queries: model, prompt, limits, sampling; the few-shot topics shown."""
        return {
            **self._completes.describe(),
            "prompt": self.prompt.build("{document}"),
            **({"fewshot_topics": self.prompt.topics} if self.prompt.topics else {}),
            "num_queries": self.num_queries,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_doc_tokens": self.max_doc_tokens,
            "max_query_tokens": self.max_query_tokens,
            "max_prompt_tokens": self.max_prompt_tokens,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno", self.text_field)
        columns = self._output_columns(list(inp.columns))
        documents = resume.pending_documents(inp, self.settings(), self.text_field)
        rows = self._queries(documents[documents[self.text_field].str.strip() != ""])
        self.empty += len(documents) * self.num_queries - len(rows)
        return as_frame(rows, columns)

    def _queries(self, documents: pd.DataFrame) -> list[dict[str, Any]]:
        records = documents.to_dict("records")
        if not records:
            return []
        n = self.num_queries
        seeds = [_seed(self.seed, record["docno"], i) for record in records for i in range(n)]
        prompts = self._prompts(documents[self.text_field])
        with pt.tqdm(total=len(seeds), desc="generate", unit="q", disable=not self.verbose) as bar:
            completions = self._completes.complete(
                prompts,
                prefix=self._shown.prefix,
                max_new_tokens=self.max_new_tokens,
                sampling=Sampling(self.temperature, self.top_p, n, seeds),
                progress=bar.update,
            )
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

    @functools.cached_property
    def _shown(self) -> Prompt:
        """The prompt with its examples cut."""
        return self.prompt.shortened(
            self._completes.tokenizer, self.max_doc_tokens, self.max_query_tokens
        )

    def _prompts(self, documents: Iterable[str]) -> list[str]:
        """The prompts, their documents cut so that each fits into the limits with its query."""
        tokenizer, context = self._completes.tokenizer, self._completes.context
        limits = [limit for limit in (self.max_prompt_tokens, context) if limit is not None]
        texts = cut_to_fit(
            truncate(documents, tokenizer, self.max_doc_tokens),
            lambda i, text: self._shown.build(text),
            tokenizer,
            min(limits, default=math.inf) - self.max_new_tokens,
            f"max_prompt_tokens={self.max_prompt_tokens} and the model's {context} positions, of "
            f"which max_new_tokens={self.max_new_tokens} are kept for the query",
        )
        return [self._shown.build(text) for text in texts]


def _seed(seed: int, docno: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}\0{number}\0{docno}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
