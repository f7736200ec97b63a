"""Query generation: documents to synthetic queries."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, as_frame, check_strings, positive_int, with_columns
from pyterrier_inpars.backends.base import Backend, Sampling
from pyterrier_inpars.backends.huggingface import BackendOptions, as_backend
from pyterrier_inpars.backends.pyterrier_rag import PyTerrierRagBackend
from pyterrier_inpars.prompts._truncation import truncate, truncate_to_fit
from pyterrier_inpars.prompts.templates import Prompt, as_prompt
from pyterrier_inpars.queries._resume import pending_documents

if TYPE_CHECKING:
    from typing_extensions import Unpack

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


class QueryGenerator(Stage):
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
    counts both.

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
        text_field: Name of the column with the document text.
        keep_prompt: Whether to add the column ``prompt_text``.
        verbose: Whether to show a progress bar.
        **backend_options: If ``model`` is a name or a path, parameters of `HuggingFaceBackend`:
            ``revision``, ``trust_remote_code``, ``batch_size``, ``dtype``, ``compile``, ``device``
            and ``context``. Documents are truncated further if prompt and query would exceed the
            context.

    Attributes:
        empty: Number of queries that were not generated or were empty.

    Raises:
        ValueError: An argument is out of range, a docno or text is not a string, the model cannot
            be loaded, or the prompt leaves no room for a document.
        TypeError: An argument is unknown or has a wrong type, or ``model`` is a backend object and
            options for it are given.
    """

    schematic = {"label": "QueryGenerator", "help_url": None}

    def __init__(
        self,
        model: str | Path | Backend,
        *,
        prompt: str | Prompt = "three-shot",
        num_queries: int = 1,
        sampling: Sampling | Mapping[str, Any] | None = None,
        max_doc_tokens: int = 256,
        max_new_tokens: int = 64,
        text_field: str = "text",
        keep_prompt: bool = False,
        verbose: bool = False,
        **backend_options: Unpack[BackendOptions],
    ):
        options: dict[str, Any] = dict(backend_options)
        for name in options:
            if name in _MOVED:
                raise TypeError(f"{name} {_MOVED[name]}")
        self._model = model
        self.prompt = as_prompt(prompt)
        self.num_queries = positive_int("num_queries", num_queries)
        self.sampling = sampling
        Sampling.of(sampling).check_num_samples(num_queries)
        self.max_doc_tokens = positive_int("max_doc_tokens", max_doc_tokens)
        self.max_new_tokens = positive_int("max_new_tokens", max_new_tokens)
        self.text_field = text_field
        self.keep_prompt = keep_prompt
        self.verbose = verbose
        self._backend_options = options
        self.empty = 0
        self._backend = as_backend(model, options, type(self))
        if not hasattr(self._backend, "complete"):
            if not hasattr(self._backend, "generate"):
                raise TypeError(
                    "model must be a name, a path, or a backend with the method complete or "
                    f"generate, not {model!r:.200}"
                )
            self._backend = PyTerrierRagBackend(self._backend)

    @property
    def model(self) -> str | Path | Backend:
        """The model as given to the constructor."""
        return self._model

    @property
    def batch_size(self) -> int | None:
        """Number of queries generated together, if given; ``Compose.index`` makes batches of it."""
        return self._backend_options.get("batch_size")

    def _required_columns(self) -> list[str]:
        return ["docno", self.text_field]

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
        check_strings(inp, "docno", self.text_field)
        columns = self._output_columns(list(inp.columns))
        documents = pending_documents(inp, self.settings(), self.text_field)
        rows = self._generate(documents[documents[self.text_field].str.strip() != ""])
        self.empty += len(documents) * self.num_queries - len(rows)
        return as_frame(rows, columns)

    def _generate(self, documents: pd.DataFrame) -> list[dict[str, Any]]:
        """Returns the rows of the queries for documents with text."""
        records = documents.to_dict("records")
        if not records:
            return []
        n = self.num_queries
        sampling = Sampling.of(self.sampling)
        seeds = [_seed(sampling.seed, record["docno"], i) for record in records for i in range(n)]
        prompt = self.prompt.truncated(self._backend.tokenizer, self.max_doc_tokens)
        prompts = self._prompts(prompt, list(documents[self.text_field]))
        with pt.tqdm(total=len(seeds), desc="generate", unit="q", disable=not self.verbose) as bar:
            completions = self._backend.complete(
                prompts,
                prefix=prompt.prefix,
                max_new_tokens=self.max_new_tokens,
                sampling=sampling,
                num_samples=n,
                seeds=seeds,
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
