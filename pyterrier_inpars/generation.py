"""Query generation: documents to synthetic queries."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from more_itertools import chunked

from pyterrier_inpars import _html
from pyterrier_inpars._arguments import one_of, positive_int
from pyterrier_inpars._counted import are_many
from pyterrier_inpars._fingerprint import digest
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._retrieval import words_of
from pyterrier_inpars._stage import (
    DROPPED_BY,
    as_frame,
    check_columns,
    check_strings,
    fields_of,
    joined_text,
    with_columns,
)
from pyterrier_inpars.backends._chat import as_text
from pyterrier_inpars.backends._estimate import Estimate, estimate
from pyterrier_inpars.backends._model_stage import ModelStage
from pyterrier_inpars.backends._streaming import collect, request
from pyterrier_inpars.backends.base import (
    LEAST_LOG_PROB,
    Backend,
    Completion,
    Messages,
    NotANumberError,
    PromptError,
    Sampling,
)
from pyterrier_inpars.backends.loading import ModelOptions, as_backend
from pyterrier_inpars.backends.pyterrier_rag import PyTerrierRagBackend
from pyterrier_inpars.prompts._truncation import Room, truncate_documents, truncation_warnings
from pyterrier_inpars.prompts.extraction import (
    Extract,
    Query,
    answer_of,
    begun_reasoning,
    check_extract,
    describe_extract,
    log_probs_of,
    queries_of,
)
from pyterrier_inpars.prompts.templates import Prompt, as_prompt, load_prompt
from pyterrier_inpars.queries._pipeline import records_of
from pyterrier_inpars.queries._resume import DocumentStage, ResumeState, active_state

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)

AUTO = "auto"
"""Prompt that depends on the model."""
_DEFAULTS = {True: "chat", False: "three-shot"}
"""Names of the default prompts of instruct models and of base models."""
MANY_COPIES = (5, 0.05)
"""Number and share of queries that repeat the prompt from which there is a warning."""
DOC_TOKENS = 256
"""Default of ``max_doc_tokens``."""
MANY_CUT = (5, 0.2)
"""Number and share of answers that end before the query from which there is a warning."""
ESTIMATE_BATCH = 1_000
"""Number of documents of a corpus that `QueryGenerator.estimate` holds in memory."""
_OF_QUERIES = ("score", "log_probs", "rank", "label", "grade", DROPPED_BY)
"""Columns that later stages read as those of a query, so a query gets none from its document."""
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


def _as_prompts(prompt: str | Prompt | Mapping[str, str | Prompt]) -> Any:
    """Returns a prompt, a dict of prompts by type, or ``"auto"``."""
    if isinstance(prompt, str) and prompt == AUTO:
        return AUTO
    if not isinstance(prompt, Mapping):
        return as_prompt(prompt)
    if not prompt:
        raise ValueError('prompt must not be an empty dict: give {"question": "question", ...}')
    for name in prompt:
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise ValueError(
                "the type of a prompt must be a word of letters, digits and underscores, as it is "
                f"a part of qids, not {name!r:.200}"
            )
    return {name: as_prompt(value) for name, value in prompt.items()}


def _as_stop(stop: str | Sequence[str] | None) -> list[str] | None:
    strings = [stop] if isinstance(stop, str) else stop
    if strings is None:
        return None
    if not isinstance(strings, Sequence) or not all(isinstance(s, str) and s for s in strings):
        raise ValueError(f"stop must be a string or several, none of them empty, not {stop!r:.200}")
    return list(strings)


class _Batch(NamedTuple):
    """Documents that get queries of one type, with their prompts.

    Attributes:
        type: Type of the queries, ``""`` if there is only one.
        prompt: Its prompt, with truncated examples.
        documents: Documents with text, at least one.
        prompts: Prompt of each document.
        long: Whether each document is longer than ``max_doc_tokens``.
        squeezed: Whether each document was cut so that prompt and query fit the context.
    """

    type: str
    prompt: Prompt
    documents: pd.DataFrame
    prompts: list[str | Messages]
    long: list[bool]
    squeezed: list[bool]

    @property
    def docnos(self) -> list[str]:
        """Docno of each document."""
        return self.documents["docno"].tolist()


class QueryGenerator(ModelStage, DocumentStage):
    """Generates queries for documents with a language model (InPars, arXiv 2202.05144, section 3).

    Input: documents ``docno, text``. Output: synthetic queries, one row each, in the order of the
    documents, with the columns of the input and those below. Columns of the input that would be
    read as those of a query are left out: ``label``, ``grade``, ``rank``, ``score``, ``log_probs``
    and ``dropped_by``. A class or a label of the documents needs another name.

    - ``qid`` (str): The docno and the number of the query: ``docno-1``, ``docno-2``, ... With
      several types of queries ``docno-TYPE-1``, and ``docno-1.2`` for the second query of the first
      answer.
    - ``query`` (str): The generated text up to a newline, or what ``extract`` finds in the answer.
    - ``type`` (str): The name of the prompt, if ``prompt`` is a dict.
    - ``score`` (float): Mean of ``log_probs``.
    - ``log_probs`` (list of float): Natural log-probability of each generated token of the query,
      at least -9999, which stands for a probability that is 0 or too low to be known. This column
      and ``score`` are absent if the runtime gives no log-probabilities. Both are missing for a
      query whose place in the answer is unknown: a function as ``extract`` changed it, or returned
      a text that occurs in the answer several times.
    - ``finish_reason`` (str): ``stop`` if the model ended its text, ``length`` if the token limit
      did.
    - ``answer`` (str): The whole text of the model, if ``keep_answer`` is set.
    - ``prompt_text`` (str): The prompt, if ``keep_prompt`` is set.
    - ``text`` (str): The text of ``text_field``, if the document has no field ``text``.

    An instruct model gets a `ChatPrompt`, a base model a text to complete (``prompt="auto"``). The
    prompt that is used is in `settings`, in the manifest of the queries, and in the log. A text
    prompt becomes the message of a user at the chat endpoint of a server. Its answer is read as
    that to a `ChatPrompt`.

    A document without text gets no query, and an empty query gives no row. The attribute ``empty``
    counts both. Small models often repeat an example of the prompt, with high log-probabilities.
    Queries that equal an example, or nearly do, are dropped (see `Prompt.copies`) and counted by
    the attribute ``copied``.

    Args:
        model: Name on the Hugging Face hub, local folder, ``.gguf`` file, address of an
            OpenAI-compatible server (``http://127.0.0.1:8000/v1``), or a backend object: a
            `backends.Backend`, or an object with pyterrier_rag's ``generate`` method.
        prompt: A `Prompt`, or a name for `load_prompt`. ``"auto"`` is ``"chat"`` for an instruct
            model and ``"three-shot"`` for a base model. A dict of prompts writes several types of
            queries: ``{"question": "question", "keywords": "keywords"}``.
        types: With a dict of prompts, whether a document gets queries of ``"all"`` types, or of
            ``"one"``, which is drawn from the seed and the docno.
        num_queries: Number of queries per document and type. More than one requires a temperature.
        sampling: A `Sampling`, or a dict of its fields: ``{"temperature": 0.7, "top_p": 0.9,
            "seed": 1}``. None for greedy decoding.
        max_doc_tokens: Maximum number of tokens of a document; longer documents are truncated.
            Documents in few-shot examples have the same limit.
        max_new_tokens: Maximum number of tokens of a query, or of the whole answer it is a part of.
        stop: String, or several, that end the model's text. None for a newline, or for none if the
            model answers messages, or with ``extract``.
        extract: Where the queries are in an answer. A marker, such as ``"Query:"``: the rest of the
            line after its last occurrence. A compiled regular expression: its first group, or the
            whole match; each match is a query. ``{"json": "query"}``: a string, or a list of
            strings, in this field of a JSON object or of a list of objects. A function from the
            answer to a query, or a list of queries; a resumed run compares its code, and needs the
            same version of Python. None for that of the prompt, or else the first line. The answer
            to a `ChatPrompt` begins with its ``prefill``, reasoning (``<think>``) is left out, a
            marker may be emphasized (``**Query:**``) and the query on the next line, and quotation
            marks and asterisks around a query are removed. With a marker or None, so are Markdown
            (``-``, ``1.``, code fences) and labels (``Search query:``).
        keep_answer: Whether to add the column ``answer``.
        text_field: Name of the column with the document text, or a list of names, whose texts are
            joined by spaces: ``["title", "text"]``.
        keep_prompt: Whether to add the column ``prompt_text``.
        verbose: Whether to show a progress bar.
        **backend_options: If ``model`` is a name or a path, parameters of `HuggingFaceBackend`:
            ``revision``, ``trust_remote_code``, ``batch_size``, ``dtype``, ``compile``, ``device``
            and ``context``. Documents are truncated further if prompt and query would exceed the
            context. If it is an address, parameters of `OpenAIBackend`, with ``served_model`` for
            the name of its model.

    Attributes:
        truncated: Number of documents that the model did not see to the end, because of
            ``max_doc_tokens`` or ``context``.
        empty: Number of queries that were not generated or were empty.
        copied: Number of queries that were dropped because they repeat an example of the prompt.
        failed: Errors by docno, of prompts that failed for good on a runtime that skips them.

    Raises:
        ValueError: An argument is out of range, a docno or text is not a string, the model cannot
            be loaded, or the prompt leaves no room for a document.
        TypeError: An argument is unknown or has a wrong type, or ``model`` is a backend object and
            options for it are given.
    """

    schematic = {"label": "QueryGenerator", "help_url": None}
    _counters = ("empty", "copied", "_queries", "truncated", "_long", "_squeezed", "_documents")
    _converters = {
        "prompt": _as_prompts,
        "types": partial(one_of, "types", known=("all", "one")),
        "stop": _as_stop,
        "extract": check_extract,
        "num_queries": partial(positive_int, "num_queries"),
        "max_doc_tokens": partial(positive_int, "max_doc_tokens"),
        "max_new_tokens": partial(positive_int, "max_new_tokens"),
    }

    def __init__(
        self,
        model: str | Path | Backend,
        *,
        prompt: str | Prompt | Mapping[str, str | Prompt] = AUTO,
        types: str = "all",
        num_queries: int = 1,
        sampling: Sampling | Mapping[str, Any] | None = None,
        max_doc_tokens: int = DOC_TOKENS,
        max_new_tokens: int = 64,
        stop: str | Sequence[str] | None = None,
        extract: Extract | None = None,
        keep_answer: bool = False,
        text_field: str | list[str] = "text",
        keep_prompt: bool = False,
        verbose: bool = False,
        **backend_options: Unpack[ModelOptions],
    ):
        options: dict[str, Any] = dict(backend_options)
        for name in options:
            if name in _MOVED:
                raise TypeError(f"{name} {_MOVED[name]}")
        self.prompt: Any = prompt
        self.types = types
        self.num_queries = num_queries
        self.sampling = sampling
        Sampling.of(sampling).check_num_samples(num_queries)
        self.max_doc_tokens = max_doc_tokens
        self.max_new_tokens = max_new_tokens
        self.stop = stop
        self.extract = extract
        self.keep_answer = keep_answer
        self.text_field = text_field
        self.keep_prompt = keep_prompt
        self.verbose = verbose
        self.empty = 0
        self.copied = 0
        self.truncated = self._long = self._squeezed = self._documents = 0
        self.failed: dict[str, str] = {}
        self._last_failed: dict[str, str] = {}
        self._queries = 0
        self._cut = 0
        self._warned: set[str] = set()
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
        own = [name for name in columns if name not in _OF_QUERIES]
        return with_columns(["qid", "query"], *own, "text", *self._new_columns)

    @property
    def _new_columns(self) -> list[str]:
        """Columns that the generator adds, beside ``qid`` and ``query``."""
        new = ["type"] * isinstance(self.prompt, dict) + ["score", "log_probs", "finish_reason"]
        return new + ["answer"] * self.keep_answer + ["prompt_text"] * self.keep_prompt

    def _drops(self) -> list[tuple[str, int, int]]:
        empty, copied, queries = map(self._last, ("empty", "copied", "_queries"))
        name = type(self).__name__
        return [(f"{name}: empty", queries + empty, empty), (f"{name}: copied", queries, copied)]

    def _begin_call(self) -> None:
        super()._begin_call()
        self._last_failed = {}

    def _last_call(self) -> dict[str, Any]:
        return {**super()._last_call(), "failed": self._last_failed}

    def _add_call(self, added: dict[str, Any]) -> None:
        super()._add_call(added)
        self.failed |= added["failed"]
        self._last_failed |= added["failed"]

    def settings(self) -> dict[str, Any]:
        """Returns the settings that determine the queries, as stored in a manifest.

        They include model, prompt, limits and sampling, the topics of few-shot examples, and
        package versions under the key ``versions``.
        """
        described = self._backend.describe()
        context = described.pop("context", None)
        sampling = self._applied_sampling(described)
        described = {name: value for name, value in described.items() if name not in sampling}
        if self.types == "one":  # the types are drawn by it
            sampling["seed"] = Sampling.of(self.sampling).seed
        prompts = self._prompts()
        topics = [topic for prompt in prompts.values() for topic in prompt.topics]
        lengths = {name: prompt.max_query_tokens for name, prompt in prompts.items()}
        # Keys and values are those of version 0.1, so that its artifacts can be resumed.
        return {
            **described,
            "prompt": _by_type({name: prompt.described() for name, prompt in prompts.items()}),
            **({"fewshot_topics": topics} if topics else {}),
            "num_queries": self.num_queries,
            "temperature": sampling["temperature"],
            "top_p": sampling["top_p"],
            "max_doc_tokens": self.max_doc_tokens,
            "max_query_tokens": _by_type(lengths),
            "max_prompt_tokens": context,
            "max_new_tokens": self.max_new_tokens,
            "seed": sampling["seed"],
            **({"types": self.types} if isinstance(self.prompt, dict) else {}),
            **({"stop": self.stop} if self.stop is not None else {}),
            **({"extract": describe_extract(self.extract)} if self.extract is not None else {}),
            **({"keep_answer": True} if self.keep_answer else {}),
            **({"keep_prompt": True} if self.keep_prompt else {}),
        }

    def _applied_sampling(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the sampling, by the fields of `Sampling`; None where it is not known.

        Args:
            described: Description of the backend, with the fields that it decides itself.
        """
        given = vars(Sampling.of(self.sampling))
        return {name: described.get(name, value) for name, value in given.items()}

    def _shown_sampling(self) -> str | None:
        """Returns the sampling as a text, None if it is not known; loads no model."""
        sampling = self._applied_sampling(getattr(self._backend, "fixed_sampling", {}))
        if sampling["temperature"] == 0:
            return "greedy"
        known = [f"{name}={value}" for name, value in sampling.items() if value is not None]
        return ", ".join(known) or None

    def _repr_html_(self) -> str:
        """Returns PyTerrier's drawing, the settings, the counts and the prompt; loads no model."""
        fields = fields_of(self.text_field)
        kept = {"keep_answer": self.keep_answer, "keep_prompt": self.keep_prompt}
        settings = {
            "model": str(self.model),
            **{name: str(value) for name, value in self._backend_options.items()},
            "sampling": self._shown_sampling(),
            "queries per document": f"{self.num_queries:,}",
            "types": self.types if isinstance(self.prompt, dict) else None,
            "text of a document": f"{' and '.join(fields)}, at most {self.max_doc_tokens:,} tokens",
            "length of an answer": f"at most {self.max_new_tokens:,} tokens",
            "stop": None if self.stop is None else " ".join(map(repr, self.stop)),
            "extract": None if self.extract is None else str(describe_extract(self.extract)),
            "also stored": ", ".join(name for name, on in kept.items() if on) or None,
        }
        counts = {
            "documents": self._documents,
            "queries": self._queries - self.copied,
            "no query (empty)": self.empty or None,
            "copies of examples (copied)": self.copied or None,
            "documents cut (truncated)": self.truncated or None,
            "documents whose prompts failed (failed)": len(self.failed) or None,
        }
        parts: list[str] = [_html.facts(settings)]
        if any(counts.values()):
            parts += [_html.facts(counts)]
        if self._is_prompt_known:
            for name, prompt in self._prompts().items():
                parts += [f"Prompt: {name}" if name else "Prompt", *prompt._shown()]
        else:
            parts += ["Prompt: depends on the model, which is loaded at the first use"]
        return _html.schematic(self) + _html.card(type(self).__name__, *parts)

    @property
    def _is_prompt_known(self) -> bool:
        """Whether the prompt is known before the model is loaded."""
        chat = inspect.getattr_static(self._backend, "chat", None)
        return self.prompt != AUTO or not isinstance(chat, functools.cached_property)

    def _prompts(self) -> dict[str, Prompt]:
        """Returns the prompts by type; the only prompt has the type ``""``."""
        if isinstance(self.prompt, dict):
            return self.prompt
        if self.prompt != AUTO:
            return {"": self.prompt}
        name = _DEFAULTS[self._is_chat]
        if name not in self._warned:
            self._warned.add(name)
            _log.info("the prompt for %r is %r", self.model, name)
        return {"": _default_prompt(name)}

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "docno")
        texts = pd.Series(joined_text(inp, self.text_field), dtype=object)
        self._warn_of_title(inp, texts)
        has_text = texts.str.strip() != ""
        docnos = inp["docno"][has_text]
        if (twice := docnos.duplicated()).any():
            raise ValueError(
                f"duplicate docno {docnos[twice].iloc[0]!r}: the documents contain it more than "
                "once, and their queries would have the same qid. Remove the duplicate"
            )
        columns = self._output_columns(list(inp.columns))
        inp = inp.drop(columns=list(_OF_QUERIES), errors="ignore")
        if replaced := [name for name in self._new_columns if name in inp]:
            self._warn_once(
                "replaced",
                f"the documents have {' and '.join(replaced)}, which the queries' own replace: "
                "rename the column to keep it",
            )
        self.empty += int((~has_text).sum()) * self._queries_per_document
        if "text" not in fields_of(self.text_field):  # a query has the text of its document
            inp = inp.assign(text=inp["text"].fillna(texts) if "text" in inp else texts)
        rows: list[tuple[int, dict[str, Any]]] = []
        long: set[int] = set()
        squeezed: set[int] = set()
        for batch in self._batches(inp, texts):
            rows += self._generate(batch)
            long.update(compress(batch.documents.index, batch.long))
            squeezed.update(compress(batch.documents.index, batch.squeezed))
        self._count_truncated(long, squeezed, int(has_text.sum()))
        rows.sort(key=lambda numbered: numbered[0])  # stable: the order of types is kept
        out = as_frame([row for _, row in rows], columns)
        if rows and not any("score" in row for _, row in rows):
            return out.drop(columns=["score", "log_probs"])
        return out

    @property
    def _queries_per_document(self) -> int:
        return self.num_queries * (1 if self.types == "one" else len(self._prompts()))

    def _batches(self, inp: pd.DataFrame, texts: pd.Series) -> Iterator[_Batch]:
        """Yields the documents with text by the type of their queries.

        Args:
            inp: Documents.
            texts: Their texts.
        """
        with_text = inp[texts.str.strip() != ""]
        for name, prompt in self._prompts().items():
            documents = with_text
            if self.types == "one":
                documents = with_text[[self._type(d) == name for d in with_text["docno"]]]
            if len(documents):
                prompt = prompt.truncated(self._backend.tokenizer, self.max_doc_tokens)
                yield _Batch(
                    name, prompt, documents, *self._build(prompt, list(texts[documents.index]))
                )

    @property
    def reads_ahead(self) -> bool:
        """Whether the backend answers one by one, so that later documents can be sent early."""
        return hasattr(self._backend, "submit")

    def read_ahead(self, records: list[dict[str, Any]], end: int) -> None:
        """Requests the answers to a later batch; see `DocumentStage.read_ahead`."""
        state = active_state()
        assert state is not None
        with suppress(ValueError, TypeError):  # raised again when the batch is transformed
            state.check_settings(self.settings())
            inp = as_frame(records)
            check_strings(inp, "docno")
            texts = pd.Series(joined_text(inp, self.text_field), dtype=object)
            for batch in self._batches(inp, texts):
                self._request(state, end, batch)

    def estimate(
        self,
        corpus: Iterable[Mapping[str, Any]] | pd.DataFrame,
        prices: tuple[float, float] | None = None,
    ) -> Estimate:
        """Estimates what queries for a corpus cost, without running the model.

        Tokens of prompts are counted by the model's tokenizer. Without one, they are estimated: a
        token has 4 characters, or one of Chinese, Japanese, Korean and Thai. Completions are
        counted with ``max_new_tokens``, which few of them reach, or with the limit that
        ``parameters`` of a server have in its place.

        Args:
            corpus: Documents, as dicts or a frame.
            prices: Prices of a million tokens of prompts and of completions.

        Returns:
            Number of requests and tokens, and the cost in the currency of the prices.

        Raises:
            ValueError: A price is not a number from 0, or there are not two of them.
        """
        return estimate(
            self._all_prompts(corpus),
            self._backend,
            self.max_new_tokens,
            self.num_queries,
            prices,
        )

    def _all_prompts(
        self, corpus: Iterable[Mapping[str, Any]] | pd.DataFrame
    ) -> Iterator[str | Messages]:
        """Yields the prompts of a corpus, with a part of it in memory."""
        for batch in chunked(records_of(corpus), ESTIMATE_BATCH):
            inp = as_frame(map(dict, batch))
            check_columns(inp, *self._required_columns(), context=self)
            texts = pd.Series(joined_text(inp, self.text_field), dtype=object)
            for documents in self._batches(inp, texts):
                yield from documents.prompts

    def _type(self, docno: str) -> str:
        """Returns the type of a document's queries if it has one."""
        names = list(self._prompts())
        return names[_seed(Sampling.of(self.sampling).seed, f"{docno}\0type", 0) % len(names)]

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

    def _count_truncated(self, long: set[int], squeezed: set[int], documents: int) -> None:
        """Counts documents, and warns once if many exceed the default limit or the context.

        Args:
            long: Rows of the documents longer than ``max_doc_tokens``.
            squeezed: Rows of those that were cut to fit the context.
            documents: Number of documents with text.
        """
        self.truncated += len(long | squeezed)
        self._long += len(long)
        self._squeezed += len(squeezed)
        self._documents += documents
        warned = truncation_warnings(
            self._long,
            self._squeezed,
            self._documents,
            self.max_doc_tokens,
            DOC_TOKENS,
            self._room,
            "split them into passages (datasets.Passages)",
        )
        for kind, message in warned:
            self._warn_once(kind, message)

    @property
    def _room(self) -> Room:
        """The limit of prompt and query together."""
        return Room(self._backend.context, self.max_new_tokens, "query")

    def _count_copies(self, copied: int, queries: int) -> None:
        """Counts dropped queries, and warns once if they are many."""
        self.copied += copied
        self._queries += queries
        if are_many(self.copied, self._queries, MANY_COPIES):
            self._warn_once(
                "copies",
                f"{self.copied:,} of {self._queries:,} queries repeat an example of the prompt "
                "and were dropped, as small models often do: give another prompt, or a larger "
                "model",
            )

    def _count_empty(self, empty: int, cut: int) -> None:
        """Counts answers without a query, and warns once if many were cut by the token limit."""
        self.empty += empty
        self._cut += cut
        if are_many(self._cut, self._cut + self._queries, MANY_CUT):
            self._warn_once(
                "cut",
                f"{self._cut:,} answers reached max_new_tokens={self.max_new_tokens} before their "
                "query: raise max_new_tokens",
            )

    def _generate(self, batch: _Batch) -> list[tuple[int, dict[str, Any]]]:
        """Returns the rows of the queries of a batch, with the number of their document."""
        n = self.num_queries
        completions = self._complete(batch)
        extract = batch.prompt.extract if self.extract is None else self.extract
        wraps = self._wraps(batch.prompt)
        prefill = batch.prompt.prefill or begun_reasoning(self._backend, batch.prompt.prefix)
        found = [
            queries_of(
                c.text,
                extract,
                chat=batch.prompt.chat or wraps,
                prefill="" if wraps and _begins_with(c.text, prefill) else prefill,
            )
            for c in completions
        ]
        without = [
            c
            for c, queries in zip(completions, found, strict=True)
            if not queries and c.error is None
        ]
        records = batch.documents.to_dict("records")
        rows = []
        for i, (completion, queries) in enumerate(zip(completions, found, strict=True)):
            document, number = i // n, i % n + 1
            for place, query in enumerate(queries, 1):
                row = records[document] | _query_row(
                    batch.type, records[document], number, place, query, completion
                )
                if self.keep_answer:
                    # without lone surrogates, which files do not take
                    row["answer"] = completion.text.encode("utf-8", "replace").decode()
                if self.keep_prompt:
                    tokenizer = self._backend.tokenizer
                    row["prompt_text"] = as_text(tokenizer, batch.prompts[document])
                rows.append((batch.documents.index[document], row))
        copies = batch.prompt.copies(row["query"] for _, row in rows)
        self._count_copies(sum(copies), len(rows))
        self._count_empty(len(without), sum(c.finish_reason == "length" for c in without))
        return [row for row, is_copy in zip(rows, copies, strict=True) if not is_copy]

    def _complete(self, batch: _Batch) -> list[Completion]:
        """Returns ``num_queries`` completions per prompt, and keeps the errors of failed ones."""
        n, docnos = self.num_queries, batch.docnos
        title, total = f"generate {batch.type}".strip(), len(docnos) * n
        state = active_state()
        with Progress(title=title, total=total, unit="queries", verbose=self.verbose) as bar:

            def progress(count: int) -> None:
                bar.update(count)
                if state is not None:
                    state.progress.answered(count, self._queries_per_document)

            is_new = [True] * len(docnos)  # and not stored by an earlier run
            try:
                if state is None or state.answers is None or not self.reads_ahead:
                    completions = self._backend.complete(
                        batch.prompts,
                        prefix=batch.prompt.prefix,
                        progress=progress,
                        **self._arguments(batch),
                    )
                else:
                    keys = self._request(state, state.position.documents, batch)
                    is_new = [key in state.answers.requested for key in keys]
                    completions = collect(self._backend, state.answers, keys, n, progress)
            except (NotANumberError, PromptError) as error:
                raise error.at(f"docno {docnos[error.row]!r}") from None
        if len(completions) != total:
            raise ValueError(
                f"{self._backend!r:.200} returned {len(completions):,} completions for "
                f"{len(docnos):,} prompts, not num_samples={n} for each of them"
            )
        errors: dict[int, Completion] = {}  # by prompt
        for i, completion in enumerate(completions):
            if completion.error is not None:
                errors.setdefault(i // n, completion)
            elif completion.has_nan:  # not every backend checks its numbers
                place = f"docno {docnos[i // n]!r}"
                raise NotANumberError(repr(self.model)[:200], i // n, place)
        if state is not None:
            state.answered |= len(errors) < len(docnos)
        for number, docno in enumerate(docnos):
            if failed := errors.get(number):
                confirmed = not is_new[number]
                self._add_failure(docno, str(failed.error), failed.unanswered, confirmed)
            elif state is not None and is_new[number]:
                state.confirm_refusals()
        return completions

    def _wraps(self, prompt: Prompt) -> bool:
        """Returns whether the backend makes a message of a text prompt, which is answered then."""
        return not prompt.chat and getattr(self._backend, "wraps_texts", False)

    def _arguments(self, batch: _Batch) -> dict[str, Any]:
        """Returns the arguments of the backend for a batch."""
        sampling = Sampling.of(self.sampling)
        keys = [f"{docno}\0{batch.type}" if batch.type else docno for docno in batch.docnos]
        numbers = range(self.num_queries)
        is_part = batch.prompt.extract is not None or self.extract is not None
        default = () if is_part or self._wraps(batch.prompt) else batch.prompt.stop
        return {
            "max_new_tokens": self.max_new_tokens,
            "sampling": sampling,
            "num_samples": self.num_queries,
            "seeds": [_seed(sampling.seed, key, i) for key in keys for i in numbers],
            "stop": default if self.stop is None else self.stop,
            "schema": batch.prompt.schema,
        }

    def _request(self, state: ResumeState, end: int, batch: _Batch) -> list[str]:
        """Requests answers that are not stored, and returns the key of each prompt.

        A key differs from another if the document, the type, the prompt or the settings do.

        Args:
            state: Resume state of this run.
            end: Position in the corpus at which the batch ends.
            batch: The batch.
        """
        assert state.answers is not None
        run = self._run_key(batch.type)
        pairs = zip(batch.docnos, batch.prompts, strict=True)
        keys = [digest([run, *pair]) for pair in pairs]
        arguments = self._arguments(batch)
        request(self._backend, state.answers, end, keys, batch.prompts, **arguments)
        return keys

    def _run_key(self, type: str) -> str:
        """Returns the part of the keys of answers that settings and the type of a prompt decide."""
        settings = {name: value for name, value in self.settings().items() if name != "versions"}
        parameters = settings.get("parameters", {})
        # the keys of earlier versions have what is not sent
        if settings["temperature"] is None and "temperature" in parameters:
            given = vars(Sampling.of(self.sampling))
            settings |= {n: given[n] for n in ("top_p", "seed") if n not in parameters}
        return digest([settings, type])

    def _add_failure(self, docno: str, error: str, unanswered: bool, confirmed: bool) -> None:
        self.failed[docno] = self._last_failed[docno] = error
        if (state := active_state()) is not None:
            state.add_failure(docno, error, unanswered, confirmed)
        self._warn_once(
            "failed",
            f"a prompt failed at docno {docno!r}: {error}. It gives no query; the attribute failed "
            "lists the documents of such prompts",
        )

    def _build(
        self, prompt: Prompt, documents: list[str]
    ) -> tuple[list[str | Messages], list[bool], list[bool]]:
        """Returns the prompts, with documents truncated so that prompt and query fit.

        Returns:
            The prompts, and the fields ``long`` and ``squeezed`` of a `_Batch`.
        """
        texts, long, squeezed = truncate_documents(
            documents,
            lambda _, text: prompt.build(text),
            self._backend.tokenizer,
            self.max_doc_tokens,
            self._room,
        )
        return [prompt.build(text) for text in texts], long, squeezed


@functools.cache
def _default_prompt(name: str) -> Prompt:
    return load_prompt(name)


def _query_row(
    name: str,
    document: dict[str, Any],
    number: int,
    place: int,
    query: Query,
    completion: Completion,
) -> dict[str, Any]:
    """Returns the columns of a query.

    Args:
        name: Type of the query, ``""`` if there is only one.
        document: Its document.
        number: Number of its answer, from 1.
        place: Number of the query in the answer, from 1.
        query: The query.
        completion: The answer.
    """
    qid = "-".join([document["docno"], *[name] * bool(name), str(number)])
    row: dict[str, Any] = {"qid": qid if place == 1 else f"{qid}.{place}", "query": query.text}
    if name:
        row["type"] = name
    if log_probs := log_probs_of(completion, query):
        log_probs = [max(value, LEAST_LOG_PROB) for value in log_probs]
        row |= {"score": sum(log_probs) / len(log_probs), "log_probs": log_probs}
    return row | {"finish_reason": completion.finish_reason}


def _begins_with(answer: str, prefill: str) -> bool:
    """Returns whether an answer to a prompt with a prefill begins with it once more."""
    words = words_of(prefill)
    return bool(words) and words_of(answer_of(answer))[: len(words)] == words


def _by_type(values: dict[str, Any]) -> Any:
    """Returns values by type, or the value of the only prompt."""
    return values.get("", values)


def _seed(seed: int, docno: str, number: int) -> int:
    """Returns the seed of one query, which does not depend on its batch."""
    hashed = hashlib.sha256(f"{seed}\0{number}\0{docno}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(hashed[:8], "big")
