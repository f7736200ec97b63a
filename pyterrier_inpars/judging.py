"""Relevance judgements by a language model: as a filter, as labels, and in evaluation."""

from __future__ import annotations

import inspect
import operator
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_inpars._arguments import finite, positive_int
from pyterrier_inpars._counted import counted
from pyterrier_inpars._fingerprint import digest
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._stage import (
    DROPPED_BY,
    Stage,
    as_numbers,
    check_columns,
    check_strings,
    fields_of,
    input_modes,
    joined_text,
    with_columns,
)
from pyterrier_inpars.backends._estimate import Estimate, estimate
from pyterrier_inpars.backends._model_stage import ModelStage
from pyterrier_inpars.backends._streaming import collect, request
from pyterrier_inpars.backends._tokenized import TokenizedBackend
from pyterrier_inpars.backends._tokens import LETTER
from pyterrier_inpars.backends.base import (
    Backend,
    ChoiceBackend,
    Completion,
    Messages,
    NotANumberError,
    PromptError,
    Sampling,
)
from pyterrier_inpars.backends.loading import ModelOptions, as_backend
from pyterrier_inpars.prompts._truncation import (
    Room,
    Truncated,
    truncate,
    truncate_documents,
    truncation_warnings,
)
from pyterrier_inpars.prompts.extraction import answer_of, begun_reasoning
from pyterrier_inpars.prompts.templates import DOCUMENT, QUERY, check_fields
from pyterrier_inpars.queries._answers import ANSWERS, AnswerLog, StoredAnswers
from pyterrier_inpars.queries._lock import LOCK, writer_lock

if TYPE_CHECKING:
    from typing_extensions import Unpack

_DOC_TOKENS = 512
"""Default of ``max_doc_tokens``."""
_ESTIMATE_BATCH = 1_000
"""Number of pairs whose prompts `RelevanceJudge.estimate` holds in memory."""
_TASK = (
    "Judge how relevant a passage is to a search query, with one of these grades:\n{grades}\n\n"
    "Query: {query}\nPassage: {document}\n\nThe grade is one number, without further text. Grade:"
)
_MEANINGS = {
    (0, 1): (
        "not relevant: it does not help to answer the query",
        "relevant: it answers the query",
    ),
    (0, 1, 2, 3): (
        "not related: it has nothing to do with the query",
        "related: it is on the topic, but does not answer the query",
        "relevant: it has an answer, which is partial, unclear or among other matters",
        "perfect: it is about the query and has the whole answer",
    ),
}
_START = rf"(?<!{LETTER})(?<![\d.])"
_END = rf"(?:\.0+)?(?!{LETTER}|\.?\d)"
_NUMBER = rf"{_START}-?\d{{1,9}}{_END}"
_SCORE = (
    "(?:grade|score|rating|relevance"
    "|评分|評分|得分|分数|分數|等级|等級|評価|スコア|등급|점수)"  # Chinese, Japanese, Korean
)
_LABEL = rf"{_SCORE}\W{{0,20}}?[:：=][^\w-]{{0,20}}"
_LABELLED = re.compile(rf"{_LABEL}({_NUMBER})", re.IGNORECASE)
_BEGINNING = (
    rf"\W{{0,20}}(?:\w+ ){{0,2}}\w{{0,20}}?(?:{_LABEL}|answer\W{{0,20}}?[:：][^\w-]{{0,20}}"
    rf"|{_SCORE}(?: is[^\w-]{{1,20}}|(?:为|為|是|は|은|는)\s?))({_NUMBER})"
)
_LABELLED_FIRST = re.compile(_BEGINNING, re.IGNORECASE)
_LABELLED_SENTENCE = re.compile(rf"(?:^|[.!?。！？\n]){_BEGINNING}", re.IGNORECASE)
_NUMBER_ALONE = re.compile(rf"[^\w-]*{_NUMBER}[分点點점]?[^\S\n]*(?:$|\n|[^\w\s])")
_NUMBERED_LIST = re.compile(r"\W*1[.)].*^\W*2[.)]", re.DOTALL | re.MULTILINE)
_NUMBER_FIRST = re.compile(rf"\W*(?:grade\W+)?(?={_NUMBER})", re.IGNORECASE)


class RelevanceJudge(ModelStage):
    """Grades how relevant documents are to queries, with a language model.

    The default scale has the four grades of UMBRELA (Upadhyay et al. 2024, arXiv 2406.06519),
    which reproduces the judgements of TREC's assessors; the wording of the prompt is this
    package's. The judge is a transformer like any reranker, and has three uses::

        (judge >> ScoreFilter(min_score=2))(queries.get_results())  # keep relevant queries
        NegativeMiner(bm25, texts=dataset) >> judge >> RelabelNegatives(2)  # find false negatives
        judge.qrels(bm25(topics) % 20 >> text)  # judgements to evaluate with

    Measure it before you rely on it: `evaluation.judge_agreement` compares it with human qrels.
    Small models judge poorly.

    Requires ``qid, query, docno, text``. Returns the rows and columns of the input, in their order,
    with:

    - ``grade`` (int): The most probable grade, or the one in the model's answer.
    - ``score`` (float): The expected grade: the mean of the grades, weighted by the probabilities
      that the model gives them. It equals the grade if the model is served without probabilities of
      given tokens, as by an OpenAI-compatible server, or if the model reasons before it answers.
    - ``rank`` (int): Rank by ``score``, from 0.

    A pair is dropped if the model's answer has no grade, or if a server refuses it. The attribute
    ``unparsed`` counts these pairs, and the first ones give a warning. Of training examples (column
    ``label``), all rows of a query are dropped if it has no positive left: negatives alone teach
    nothing.

    Rows that a filter with ``explain=True`` dropped are passed through without a grade, score and
    rank, and do not cost a request. `qrels` and `estimate` leave them out.

    Args:
        model: Name on the Hugging Face hub, local folder, ``.gguf`` file, address of an
            OpenAI-compatible server, or a backend object with ``choice_log_probs`` or ``complete``;
            see `backends.base`.
        scale: Grades, whole numbers in ascending order.
        prompt: Text with ``{query}`` and ``{document}`` once each, at whose end the model writes a
            grade. Another field, such as ``{title}``, in their paragraphs is an error. An instruct
            model gets the text as a message. None for the built-in prompt, which supports the
            scales (0, 1, 2, 3) and (0, 1).
        max_doc_tokens: Maximum number of tokens of a document; longer documents are truncated.
        max_query_tokens: Maximum number of tokens of a query.
        max_new_tokens: Maximum number of tokens of an answer, where there are no probabilities.
        text_field: Column with the text of the document, or several, whose texts are joined.
        answers: Folder that keeps the model's answers, so that a call which is interrupted and
            started again asks for the others only. An answer of a server is stored when it arrives,
            those of a model in this process after every eight batches. They are used again for the
            same prompt, model and options. Refused prompts are not stored. Only one process may use
            the folder at a time, so `distributed` refuses it. A manifest does not mention it: a run
            may be resumed with or without it. None to keep no answers.
        verbose: Whether to show a progress bar.
        **backend_options: Options of the model's backend; see `QueryGenerator`.

    Attributes:
        unparsed: Number of pairs that were dropped because they got no grade.
        without_positive: Number of queries whose rows were dropped because no positive got a grade.
        truncated: Number of documents that the model did not see to the end, because of
            ``max_doc_tokens`` or ``context``. If many exceed the default, or do not fit the
            context, a warning is given.

    Raises:
        ValueError: An argument is out of range, a query or text is not a string, the model cannot
            be loaded, or the prompt leaves no room for a document.
        TypeError: An argument is unknown or has a wrong type, or the backend can neither score
            choices nor answer, or does not describe itself although ``answers`` is set.
        FileExistsError: On use, ``answers`` is a file, or a folder with other files.
        RuntimeError: On use, another process uses the folder.
        OSError: On use, an answer cannot be stored.
    """

    schematic = {"label": "RelevanceJudge", "help_url": None}
    _without_effect = ("answers", "verbose")
    _counters = (
        *("_judged", "_dropped", "unparsed", "without_positive"),
        *("truncated", "_long", "_squeezed", "_documents"),
    )
    _converters = {
        "prompt": lambda prompt: _check_prompt(prompt),
        "scale": lambda scale: _check_scale(scale),
        "max_doc_tokens": partial(positive_int, "max_doc_tokens"),
        "max_query_tokens": partial(positive_int, "max_query_tokens"),
        "max_new_tokens": partial(positive_int, "max_new_tokens"),
        "answers": lambda path: None if path is None else os.path.expanduser(path),
    }

    def __init__(
        self,
        model: str | Path | Backend | ChoiceBackend,
        *,
        scale: Sequence[int] = (0, 1, 2, 3),
        prompt: str | None = None,
        max_doc_tokens: int = _DOC_TOKENS,
        max_query_tokens: int = 200,
        max_new_tokens: int = 16,
        text_field: str | list[str] = "text",
        answers: str | Path | None = None,
        verbose: bool = False,
        **backend_options: Unpack[ModelOptions],
    ):
        self.scale = scale
        self.prompt = prompt
        self.max_doc_tokens = max_doc_tokens
        self.max_query_tokens = max_query_tokens
        self.max_new_tokens = max_new_tokens
        self.text_field = text_field
        self.answers = answers
        self.verbose = verbose
        self._judged = self._dropped = self.unparsed = self.without_positive = self.truncated = 0
        self._long = self._squeezed = self._documents = 0
        self._warned: set[str] = set()
        self._stored: StoredAnswers | None = None
        self._template()
        self._connect(model, dict(backend_options))

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes without the stored answers, which a copy reads itself."""
        return {**vars(self), "_stored": None}

    def _make_backend(self, model: Any, options: dict[str, Any]) -> Any:
        backend = as_backend(model, options, type(self))
        if not hasattr(backend, "choice_log_probs") and not hasattr(backend, "complete"):
            raise TypeError(
                "model must be a name, a path, an address, or a backend with choice_log_probs or "
                f"complete, not {model!r:.200}"
            )
        return backend

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", *fields_of(self.text_field)]

    def _output_columns(self, columns: list[str]) -> list[str]:
        kept = [c for c in columns if c not in ("grade", "score", "rank")]
        return [*kept, "grade", "score", "rank"]

    def _one_process(self) -> str | None:
        if self.answers is None:
            return None
        return "only one process may use the folder answers= at a time: leave it out"

    def _drops(self) -> list[tuple[str, int, int]]:
        return [(type(self).__name__, self._last("_judged"), self._last("_dropped"))]

    def qrels(self, results: pd.DataFrame) -> pd.DataFrame:
        """Judges results, and returns the grades as qrels.

        Args:
            results: Frame ``qid, query, docno`` and the text, such as a pool of the top documents
                of several systems. A pair that occurs several times is judged once.

        Returns:
            Frame ``qid, docno, label``.
        """
        pool = self._pool(results)
        judged = self.transform(pool).rename(columns={"grade": "label"})
        return judged[["qid", "docno", "label"]].reset_index(drop=True)

    def estimate(
        self, results: pd.DataFrame, prices: tuple[float, float] | None = None
    ) -> Estimate:
        """Estimates what the judgements of `qrels` cost, without running the model.

        Tokens are counted as by `QueryGenerator.estimate`. Stored answers are not left out. Where
        the model gives the probabilities of the grades, no completion is counted. An instruct model
        in this process may reason instead: until a call has shown that it does not, completions are
        counted.

        Args:
            results: Frame as for `qrels`.
            prices: Prices of a million tokens of prompts and of completions.

        Returns:
            Number of requests and tokens, and the cost in the currency of the prices.

        Raises:
            ValueError: A price is not a number from 0, or there are not two of them.
        """
        prompts = self._prompts(self._pool(results))
        begins = inspect.getattr_static(self._backend, "begins_reasoning", None)
        by_choice = hasattr(self._backend, "choice_log_probs") and not self._reasons(
            lambda: bool(begins)  # what is not known yet is a property of the class
        )
        most = 0 if by_choice else self.max_new_tokens
        return estimate(prompts, self._backend, most, 1, prices)

    def _prompts(self, pool: pd.DataFrame) -> Iterator[str | Messages]:
        """Yields the prompts of pairs, with a part of them in memory."""
        for start in range(0, len(pool), _ESTIMATE_BATCH):
            queries, documents = self._seen(pool.iloc[start : start + _ESTIMATE_BATCH])
            yield from map(self._build, queries, documents.texts)

    def _pool(self, results: pd.DataFrame) -> pd.DataFrame:
        """Returns each pair of results once."""
        columns = self._required_columns()
        check_columns(results, *columns, context=self)
        return results[~_is_dropped(results)][columns].drop_duplicates(["qid", "docno"])

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        dropped = _is_dropped(inp)
        if not dropped.any():
            return self._judge(inp).reset_index(drop=True)
        judged = [self._judge(inp[~dropped])] if not dropped.all() else []
        passed = inp[dropped].drop(columns=["grade", "score", "rank"], errors="ignore")
        # A column with missing values of dtype object keeps its whole numbers.
        found = [frame.astype({"grade": object, "rank": object}) for frame in judged]
        out = pd.concat([*found, passed.assign(grade=np.nan, score=np.nan, rank=np.nan)])
        return out.sort_index().reset_index(drop=True)

    def _judge(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Judges rows that no filter dropped, and returns those with a grade by their index."""
        queries, documents = self._seen(inp)
        self._count_truncated(documents)
        prompts = list(map(self._build, queries, documents.texts))
        try:
            by_choice = hasattr(self._backend, "choice_log_probs") and not self._reasons(
                lambda: self._backend.begins_reasoning
            )
            grades, scores = (self._by_choice if by_choice else self._by_answer)(prompts)
        except (NotANumberError, PromptError) as error:
            row = inp.iloc[error.row]
            raise error.at(f"qid {row['qid']!r}, docno {row['docno']!r}") from None
        kept = self._with_positive(inp, ~np.isnan(grades))
        self._judged += len(kept)
        self._dropped += int((~kept).sum())
        out = inp.drop(columns=["grade", "score", "rank"], errors="ignore")
        out = out.assign(grade=grades, score=scores)[kept]
        return pt.model.add_ranks(out.astype({"grade": int}))

    def _with_positive(self, inp: pd.DataFrame, graded: np.ndarray) -> np.ndarray:
        """Returns which rows are kept: of training examples, not those of queries that lost theirs.

        Args:
            inp: Frame, with the column ``label`` if it has training examples.
            graded: Whether each row got a grade.
        """
        if "label" not in inp or graded.all():
            return graded
        positive = as_numbers(inp, "label") > 0
        qids = inp["qid"]
        lost = set(qids[positive]) - set(qids[positive & graded])
        if lost and not self.without_positive:
            warnings.warn(
                f"no positive of {counted(len(lost), 'query')} got a grade, such as of "
                f"qid {min(lost)!r}: all rows of these queries are dropped, since negatives alone "
                "teach nothing",
                stacklevel=6,
            )
        self.without_positive += len(lost)
        return graded & ~qids.isin(lost).to_numpy()

    def _count_truncated(self, documents: Truncated) -> None:
        """Counts documents, and warns once if many exceed the default limit or the context."""
        _, long, squeezed = documents
        self.truncated += sum(map(operator.or_, long, squeezed))
        self._long += sum(long)
        self._squeezed += sum(squeezed)
        self._documents += len(long)
        warned = truncation_warnings(
            self._long,
            self._squeezed,
            self._documents,
            self.max_doc_tokens,
            _DOC_TOKENS,
            self._room,
            "judge passages (datasets.Passages)",
        )
        for kind, message in warned:
            self._warn_once(kind, message)

    def _reasons(self, begins: Callable[[], bool]) -> bool:
        """Returns whether the model writes a reasoning where the grades' probabilities would be.

        Args:
            begins: Returns whether it begins one by itself.
        """
        if not self._is_chat or not isinstance(self._backend, TokenizedBackend):
            return False
        return bool(begun_reasoning(self._backend, self._build("", ""))) or begins()

    def _by_choice(self, prompts: list[str | Messages]) -> tuple[np.ndarray, np.ndarray]:
        """Returns grades and expected grades by the probabilities of the grades."""
        space = "" if self._is_chat else " "
        texts = list(map(str, self.scale))
        # "1" begins "10", so that its probability would include that of "10"
        is_prefix = any(b.startswith(a) for a, b in permutations(texts, 2))
        end = "\n" if is_prefix else ""
        choices = [f"{space}{text}{end}" for text in texts]

        def scored(prompts: list[str | Messages], progress: Callable[[int], object]) -> list[Any]:
            values = self._backend.choice_log_probs(
                prompts, choices, prefix=self._build("", ""), progress=progress
            )
            log_probs = np.array(values, dtype=float).reshape(len(prompts), len(choices))
            if (rows := np.isnan(log_probs).any(axis=1)).any():  # not every backend checks it
                raise NotANumberError(repr(self.model)[:200], int(rows.argmax()))
            return log_probs.tolist()

        values = np.array(self._kept(prompts, scored, choices=choices)).reshape(-1, len(choices))
        grades = np.array(self.scale)
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return grades[values.argmax(axis=1)], shares @ grades

    def _by_answer(self, prompts: list[str | Messages]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the grades in the answers of the model, NaN where there is none."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "sampling": Sampling(),
            "num_samples": 1,
            "stop": (),
        }

        def answered(prompts: list[str | Messages], progress: Callable[[int], object]) -> list[Any]:
            completions = self._backend.complete(
                prompts,
                prefix=self._build("", ""),
                seeds=[0] * len(prompts),
                progress=progress,
                **arguments,
            )
            if len(completions) != len(prompts):
                raise ValueError(
                    f"{self._backend!r:.200} returned {len(completions):,} completions for "
                    f"{len(prompts):,} prompts"
                )
            return [[vars(completion)] for completion in completions]

        kept = self._kept(prompts, answered, **arguments)
        completions = [Completion(**fields) for (fields,) in kept]
        reasoning = begun_reasoning(self._backend, self._build("", ""))
        found = [
            self._grade(reasoning + c.text, is_cut=c.finish_reason == "length") for c in completions
        ]
        failed = [c for c, grade in zip(completions, found, strict=True) if grade is None]
        if failed and not self.unparsed:
            first = failed[0].error or failed[0].text
            warnings.warn(
                f"{len(failed):,} of {len(found):,} answers have no grade of {self.scale}, and "
                f"their pairs are dropped; the first one is {first!r:.200}. "
                f"A model that reasons first needs more than max_new_tokens={self.max_new_tokens}, "
                "or template_options={'enable_thinking': False} if its template has this variable",
                stacklevel=6,
            )
        self.unparsed += len(failed)
        grades = np.array([np.nan if grade is None else grade for grade in found], dtype=float)
        return grades, grades

    def _grade(self, answer: str, is_cut: bool) -> int | None:
        """Returns the grade in an answer, after any reasoning, or None.

        It is the last number that is a grade, of those with a label (``Score: 2``) if there are
        any; if the answer begins with one, of those at the beginning of a sentence. An answer that
        begins with a number and a punctuation mark explains it afterwards, unless the number begins
        a list. The scale itself is left out (``2/3``, ``from 0 to 3``). An answer that the token
        limit cut may be a part of a reasoning: it must begin with the grade or its label.
        """
        least, most = self.scale[0], self.scale[-1]
        dash = r"[-–—~～]|\.\.+|to|and|到|至|から"
        before = rf"(?<!-){_START}{least}(?:\.0+)?\s*(?:{dash})|[/／]|(?<=\d)\**\s+of|\bout of"
        answer = re.sub(rf"(?:{before})\s*{most}{_END}", "", answer_of(answer)).strip()
        first = _LABELLED_FIRST.match(answer)
        numbers = _whole(re.findall(_NUMBER, answer))
        labelled = _whole((_LABELLED_SENTENCE if first else _LABELLED).findall(answer))
        if is_cut:
            begins = first or _NUMBER_FIRST.match(answer)
            numbers = (labelled or numbers)[:1] if begins else []
        elif labelled:
            numbers = labelled
        elif _NUMBER_ALONE.match(answer) and not _NUMBERED_LIST.match(answer):
            numbers = numbers[:1]
        return next((number for number in reversed(numbers) if number in self.scale), None)

    def _kept(
        self,
        prompts: list[str | Messages],
        compute: Callable[[list[str | Messages], Callable[[int], object]], list[Any]],
        **arguments: Any,
    ) -> list[Any]:
        """Returns the answers to prompts, of which those in ``answers`` are not computed.

        Args:
            prompts: The prompts.
            compute: Function from prompts and a callback for their number to their answers, as
                values that JSON can represent.
            **arguments: Arguments of the backend, which the answers depend on.
        """
        title, total = "judge", len(prompts)
        with Progress(title=title, total=total, unit="pairs", verbose=self.verbose) as bar:
            if self.answers is None:
                return compute(prompts, bar.update)
            run = digest([self._described(), arguments])
            keys = [digest([run, prompt]) for prompt in prompts]
            with self._answer_log() as log:
                if hasattr(self._backend, "submit"):
                    seeds = [0] * len(prompts)
                    request(self._backend, log, 0, keys, prompts, seeds=seeds, **arguments)
                    completions = collect(self._backend, log, keys, 1, bar.update)
                    return [[vars(completion)] for completion in completions]
                found = {key: log.get(key) for key in keys}
                missing = {key: row for row, key in enumerate(keys) if found[key] is None}
                bar.update(len(prompts) - len(missing))
                for part in chunked(missing.items(), self.batch_size):
                    try:
                        values = compute([prompts[row] for _, row in part], bar.update)
                    except (NotANumberError, PromptError) as error:
                        error.row = part[error.row][1]
                        raise
                    for (key, _), value in zip(part, values, strict=True):
                        found[key] = value
                        log.add(key, value, 0)
                return [found[key] for key in keys]

    def _described(self) -> dict[str, Any]:
        """Returns what distinguishes the model from others."""
        describe = getattr(self._backend, "describe", None)
        if describe is None:
            raise TypeError(
                f"answers= needs a backend with describe(), which {self._backend!r:.200} lacks"
            )
        return {name: value for name, value in describe().items() if name != "versions"}

    @contextmanager
    def _answer_log(self) -> Iterator[AnswerLog]:
        """Opens the log in the folder ``answers``, which no other process uses meanwhile."""
        folder = Path(str(self.answers))
        if folder.exists() and not (
            folder.is_dir() and all(f.name.startswith((ANSWERS, LOCK)) for f in folder.iterdir())
        ):
            raise FileExistsError(
                f"{folder} is a file, or a folder with other files: give answers= an empty folder "
                "or a new path"
            )
        with writer_lock(folder, f"the folder of answers {folder}", required=True):
            if self._stored is None or self._stored.folder != folder:
                self._stored = StoredAnswers(folder)
            log = _Judgements(folder, self._stored)
            try:
                yield log
            finally:
                log.close()

    def _template(self) -> str:
        """Returns the checked prompt."""
        if self.prompt is None:
            meanings = _MEANINGS.get(tuple(self.scale))
            if meanings is None:
                known = " and ".join(map(str, _MEANINGS))
                raise ValueError(
                    f"the built-in prompt supports the scales {known}: for the scale {self.scale}, "
                    "give prompt=, a text that explains its grades"
                )
            pairs = zip(self.scale, meanings, strict=True)
            grades = "\n".join(f"{grade}: {meaning}" for grade, meaning in pairs)
            return _TASK.replace("{grades}", grades)
        return self.prompt

    def _build(self, query: str, document: str) -> str | Messages:
        """Returns the prompt for a pair."""
        fields = {QUERY: query, DOCUMENT: document}
        parts = re.split("({query}|{document})", self._template())
        text = "".join(fields.get(part, part) for part in parts).rstrip()
        return [{"role": "user", "content": text}] if self._is_chat else text

    def _seen(self, inp: pd.DataFrame) -> tuple[list[str], Truncated]:
        """Returns query and document of each prompt, truncated so that prompt and grade fit."""
        check_strings(inp, "qid", "query", "docno")
        tokenizer = self._backend.tokenizer
        queries = truncate(inp["query"].tolist(), tokenizer, self.max_query_tokens)
        documents = truncate_documents(
            joined_text(inp, self.text_field),
            lambda i, text: self._build(queries[i], text),
            tokenizer,
            self.max_doc_tokens,
            self._room,
        )
        return queries, documents

    @property
    def _room(self) -> Room:
        """The limit of prompt and grade together."""
        return Room(self._backend.context, self.max_new_tokens, "grade")


def _is_dropped(frame: pd.DataFrame) -> np.ndarray:
    """Returns whether a filter with ``explain=True`` dropped each row."""
    names = pd.Series(frame.get(DROPPED_BY, [None] * len(frame)), dtype=object)
    return names.notna().to_numpy()


def _check_prompt(prompt: str | None) -> str | None:
    """Returns a prompt of one's own, or None for the built-in one.

    Raises:
        ValueError: It does not contain both fields once, or another one beside them.
    """
    if prompt is None:
        return None
    fields = (DOCUMENT, QUERY)
    if not isinstance(prompt, str) or any(prompt.count(field) != 1 for field in fields):
        raise ValueError(
            f"prompt must be a text with {QUERY} and {DOCUMENT} once each, not {prompt!r:.200}"
        )
    check_fields("prompt", prompt, fields)
    return prompt


def _whole(numbers: list[str]) -> list[int]:
    """Returns numbers without the decimal places, all of which are zero."""
    return [int(number.partition(".")[0]) for number in numbers]


class _Judgements(AnswerLog):
    """Log of answers, without refused prompts: a later call tries them again."""

    def add(self, key: str, answer: Any, end: int) -> None:
        if not any(isinstance(fields, dict) and fields["error"] for fields in answer):
            super().add(key, answer, end)


class RelabelNegatives(Stage):
    """Corrects the labels of training examples that a judge or a teacher scores high.

    A mined negative (label 0) with a score of at least ``min_score`` is relevant, so it becomes a
    positive, or is dropped. Positives stay as they are::

        NegativeMiner(bm25, texts=dataset) >> RelevanceJudge(model) >> RelabelNegatives(2)

    Requires the columns ``label`` (0 for a negative) and ``score`` (number). Rows that a filter
    with ``explain=True`` dropped stay as they are, and need no score.

    Args:
        min_score: Lowest score of a relevant document.
        drop: Whether relevant negatives are dropped, instead of labelled 1.

    Attributes:
        changed: Number of negatives that were relabelled or dropped so far.

    Raises:
        ValueError: ``min_score``, a label or a score is not a number.
    """

    schematic = {"label": "RelabelNegatives", "help_url": None}
    _counters = ("_rows", "changed")

    def __init__(self, min_score: float, *, drop: bool = False):
        super().__init__()
        self.min_score = finite("min_score", min_score)
        self.drop = drop
        self._rows = self.changed = 0

    def _drops(self) -> list[tuple[str, int, int]]:
        name, rows, changed = type(self).__name__, self._last("_rows"), self._last("changed")
        return [(name, rows, changed)] if self.drop else []

    def transform_inputs(self) -> list[list[str]]:
        """Returns the accepted sets of columns, the whole frame of examples first."""
        whole = ["qid", "query", "docno", "text"]
        return input_modes(self._required_columns(), whole)

    def _required_columns(self) -> list[str]:
        return ["label", "score"]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, "label")

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        labels = as_numbers(inp, "label")
        kept = ~_is_dropped(inp)
        relevant = labels == 0
        relevant[kept] &= as_numbers(inp[kept], "score") >= self.min_score
        relevant &= kept
        self._rows += int(kept.sum())
        self.changed += int(relevant.sum())
        if self.drop:
            return inp[~relevant].reset_index(drop=True)
        return inp.assign(label=np.where(relevant, 1, labels).astype(inp["label"].dtype))


def _check_scale(scale: Sequence[int]) -> tuple[int, ...]:
    """Returns a scale of grades as a tuple.

    Raises:
        ValueError: The grades are not two or more whole numbers in ascending order.
    """
    grades = tuple(scale) if isinstance(scale, Sequence | np.ndarray) else ()
    whole = all(isinstance(grade, Integral) and not isinstance(grade, bool) for grade in grades)
    if len(grades) < 2 or not whole or list(grades) != sorted(set(grades)):
        raise ValueError(
            f"scale must be two or more whole numbers in ascending order, such as (0, 1, 2, 3), "
            f"not {scale!r:.200}"
        )
    return tuple(map(int, grades))
