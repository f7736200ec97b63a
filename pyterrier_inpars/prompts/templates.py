"""What the language model is shown: prompt templates and the documents put into them."""

from __future__ import annotations

import copy
import math
import random
import reprlib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pyterrier_inpars._stage import check_columns, check_strings, lone_surrogate, positive_int
from pyterrier_inpars.datasets import published

DOCUMENT, QUERY = "{document}", "{query}"
_INPARS = ("inpars", "inpars-gbq")
_PROMPTAGATOR = "promptagator-"


class Prompt:
    """The text before and after the document.

    A document is put in as it stands, so braces and field names in it mean nothing. Its white
    space is folded, since prompts are written in lines and a query ends at one.

    Args:
        before: text up to the document.
        after: text from the document on, at whose end the model goes on writing.
    """

    def __init__(self, before: str, after: str):
        self.before = before
        self.after = after

    @property
    def prefix(self) -> str:
        """What all prompts begin with, without the space whose token depends on the document."""
        return self.before.rstrip()

    @property
    def topics(self) -> list[dict[str, str]]:
        """The topics shown as examples, ``qid`` (where it is known) and ``query``: here none."""
        return []

    @classmethod
    def load(cls, path: str | Path, name: str, **options: Any) -> Prompt:
        """Loads a prompt from a YAML file of the InPars Toolkit's form.

        Args:
            path: the file, which has ``name: {mode: static or dynamic, template: text}``.
            name: which of its prompts.
            options: for a dynamic prompt, the arguments of ``FewShotPrompt``: ``examples`` and
                others.

        Raises:
            ValueError: the name is not in the file, the file is not of that form, or the options
                are not those of the prompt.
            FileNotFoundError: there is no such file.
        """
        entries = _read(read_text(path), str(path))
        if name not in entries:
            raise ValueError(
                f"there is no prompt {name!r} in {path}; there are: {', '.join(map(str, entries))}"
            )
        return _make(name, entries[name], options)

    def build(self, document: str) -> str:
        """The prompt for one document."""
        return f"{self.before}{' '.join(document.split())}{self.after}"

    def shortened(self, tokenizer: Any, max_doc_tokens: int, max_query_tokens: int) -> Prompt:
        """This prompt with its examples' documents and queries cut, as `truncate` cuts.

        The examples in a static prompt's template are left as they are.
        """
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.build(DOCUMENT) == other.build(DOCUMENT)

    def __hash__(self) -> int:
        return hash(self.build(DOCUMENT))


class StaticPrompt(Prompt):
    """A prompt whose examples, if any, are part of its text (InPars, arXiv 2202.05144, section 3).

    Args:
        template: text that holds ``{document}`` once. ``{query}``, if there, marks where the model
            goes on; what follows it is not used. Other braces are text.

    Raises:
        ValueError: ``{document}`` is not there, or is there twice, or ``{query}`` comes before it.
    """

    def __init__(self, template: str):
        self.template = template
        super().__init__(*_split(template))

    def __repr__(self) -> str:
        return f"StaticPrompt({self.template!r})"


class FewShotPrompt(Prompt):
    """A prompt with examples drawn from a collection (Promptagator, arXiv 2209.11755, section 3.1).

    The examples are drawn once, so that every document sees the same ones and the model reads
    them once.

    Args:
        examples: frame with the columns ``query`` and ``text``: queries and documents that answer
            them; further columns (``qid``) are kept in ``self.examples``.
        template: one example, with ``{document}`` and ``{query}`` once each; it ends with its line.
        num_examples: how many to show.
        seed: decides which, whatever the order of the frame.

    Attributes:
        examples: the examples shown, in their order. Take their topics out of an evaluation.

    Raises:
        ValueError: the template has not each field once, a query or text is no string, or the frame
            has fewer rows than asked for.
        pt.validate.InputValidationError: a column is missing.
    """

    def __init__(
        self,
        examples: pd.DataFrame,
        *,
        template: str | None = None,
        num_examples: int = 3,
        seed: int = 0,
    ):
        check_columns(examples, "query", "text")
        check_strings(examples, *examples.columns.intersection(["query", "text", "qid"]))
        positive_int("num_examples", num_examples)
        if len(examples) < num_examples:
            raise ValueError(
                f"num_examples is {num_examples}, but there are {len(examples)} examples to draw "
                f"from"
            )
        template = _shipped()["few-shot"]["template"] if template is None else template
        after = _split(template)[1]
        if template.count(QUERY) != 1:
            raise ValueError(f"the template of one example must hold {QUERY} once: {template!r}")
        ordered = examples.sort_values(["query", "text"])
        chosen = random.Random(positive_int("seed", seed, least=0)).sample(
            range(len(ordered)), num_examples
        )
        self.examples = ordered.iloc[chosen].reset_index(drop=True)
        self.template = template
        super().__init__(self._before(self.examples["query"], self.examples["text"]), after)

    @property
    def topics(self) -> list[dict[str, str]]:
        """The topics of the examples shown, ``qid`` (where it is known) and ``query``."""
        columns = [column for column in ("qid", "query") if column in self.examples]
        return self.examples[columns].drop_duplicates().to_dict("records")

    def shortened(self, tokenizer: Any, max_doc_tokens: int, max_query_tokens: int) -> Prompt:
        """This prompt with its examples' documents and queries cut, as `truncate` cuts.

        ``examples`` and ``topics`` stay whole.
        """
        cut = copy.copy(self)
        cut.before = self._before(
            truncate(self.examples["query"], tokenizer, max_query_tokens),
            truncate(self.examples["text"], tokenizer, max_doc_tokens),
        )
        return cut

    def _before(self, queries: Iterable[str], texts: Iterable[str]) -> str:
        """The examples, each written as the template has it, and the beginning of one more."""
        before, _, rest = self.template.partition(DOCUMENT)
        middle, _, end = rest.partition(QUERY)
        end = end if end.endswith("\n") else end + "\n"
        one = Prompt(before, middle)
        shown = [
            one.build(text) + " ".join(query.split()) + end
            for query, text in zip(queries, texts, strict=True)
        ]
        return "".join(shown) + before

    def __repr__(self) -> str:
        return f"FewShotPrompt(<{len(self.examples)} examples>, template={self.template!r})"


def as_prompt(prompt: str | Prompt) -> Prompt:
    """Gives back a prompt, or loads the one of this name.

    Raises:
        TypeError: it is neither a prompt nor a name.
        ValueError, DownloadError: see `load_prompt`.
    """
    if isinstance(prompt, str):
        return load_prompt(prompt)
    if not isinstance(prompt, Prompt):
        raise TypeError(f"prompt must be a Prompt or the name of one, not {prompt!r:.200}")
    return prompt


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        ValueError: it is in another encoding.
        FileNotFoundError: there is no such file.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def load_prompt(name: str, **options: Any) -> Prompt:
    """Loads a prompt by name; `Prompt.load` loads one from a file.

    - ``three-shot``, ``zero-shot``, ``few-shot`` were written for this package.
    - ``inpars`` and ``inpars-gbq`` are those of InPars (arXiv 2202.05144, section 3), fetched from
      its authors; see `published.templates`. After the good question of the second, the model would
      go on with a bad one on the next line, which is not generated, since a query ends at its line.
    - ``promptagator-<collection>`` has Promptagator's field names (arXiv 2209.11755) for it.
      Without ``examples`` it shows those that the InPars Toolkit publishes for the collection.

    Args:
        name: one of ``prompt_names()``.
        options: for a prompt that shows examples, the arguments of ``FewShotPrompt``: ``examples``
            and others.

    Raises:
        ValueError: there is no such prompt, or the options are not those of the prompt.
        DownloadError: what it needs could not be fetched; the error says what to do.
    """
    if name in _INPARS:
        return Prompt.load(published.templates(), name, **options)
    entries = _shipped()
    if name not in entries:
        raise ValueError(f"there is no prompt {name!r}; there are: {', '.join(prompt_names())}")
    if name.startswith(_PROMPTAGATOR) and "examples" not in options:
        collection = name.removeprefix(_PROMPTAGATOR)
        options["examples"] = published.fewshot_examples(collection)
    return _make(name, entries[name], options)


def prompt_names() -> list[str]:
    """Names of the prompts that `load_prompt` knows."""
    return [*_shipped(), *_INPARS]


def truncate(documents: Iterable[str], tokenizer: Any, max_tokens: int) -> list[str]:
    """Cuts each document after ``max_tokens`` tokens, at a character of its own text.

    The cut is made by character offsets, not by decoding, so that no special token and no other
    spelling gets into the text. A character of several tokens is kept as a whole or not at all.
    Without a tokenizer, words are counted instead.
    """
    documents = [" ".join(document.split()) for document in documents]
    if tokenizer is None:
        return [" ".join(document.split()[:max_tokens]) for document in documents]
    offsets = tokenizer(
        documents,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    return [
        document[: _end(*spans[max_tokens - 1 : max_tokens + 1])]
        if len(spans) > max_tokens
        else document
        for document, spans in zip(documents, offsets, strict=True)
    ]


def cut_to_fit(
    documents: list[str],
    build: Callable[[int, str], str],
    tokenizer: Any,
    most: float,
    limit: str,
) -> list[str]:
    """Cuts documents so that what is built of each has at most so many tokens.

    Args:
        documents: the documents, folded.
        build: gives the whole text for the number of a document and what is left of it.
        tokenizer: what tokens are counted with; None counts words.
        most: most tokens of the whole text; infinity sets no limit.
        limit: where the limit comes from, for the error.

    Raises:
        ValueError: a text is too long without a document already.
    """
    cut = list(documents)
    waiting = list(range(len(cut))) if most < math.inf else []
    while waiting:
        lengths = _lengths([build(i, cut[i]) for i in waiting], tokenizer)
        excess = {
            i: int(length - most)
            for i, length in zip(waiting, lengths, strict=True)
            if length > most
        }
        for i, tokens in excess.items():
            if not cut[i]:
                raise ValueError(
                    f"without a document already there are {tokens} tokens too many for {limit}: "
                    f"give a shorter prompt, or fewer or shorter examples (max_doc_tokens, "
                    f"max_query_tokens)"
                )
            room = _lengths([cut[i]], tokenizer, add_special_tokens=False)[0] - tokens
            shorter = truncate(cut[i : i + 1], tokenizer, room)[0] if room > 0 else ""
            # how many tokens a text has depends on all of it, and one character may be many
            cut[i] = min(shorter, cut[i][:-1], key=len)
        waiting = list(excess)
    return cut


def _lengths(texts: list[str], tokenizer: Any, **options: bool) -> list[int]:
    """How many tokens the texts have; words, without a tokenizer."""
    if tokenizer is None:
        return [len(text.split()) for text in texts]
    return [len(ids) for ids in tokenizer(texts, split_special_tokens=True, **options)["input_ids"]]


def _end(last: tuple[int, int], cut: tuple[int, int]) -> int:
    """Where the last token kept ends, or begins the character that the first one cut is part of."""
    return cut[0] if last[0] <= cut[0] < last[1] else last[1]


def _split(template: str) -> tuple[str, str]:
    """What stands before the document, and between it and the query."""
    if not isinstance(template, str):
        raise ValueError(f"a template must be text that holds {DOCUMENT}, not {template!r:.200}")
    if template.count(DOCUMENT) != 1:
        raise ValueError(
            f"a template must hold {DOCUMENT} once, but this one holds it "
            f"{template.count(DOCUMENT)} times: {template!r}"
        )
    if surrogate := lone_surrogate(template):
        raise ValueError(
            f"a template must not contain the lone surrogate {surrogate!r}: {template!r}"
        )
    before, _, after = template.partition(DOCUMENT)
    if QUERY in before:
        raise ValueError(f"{QUERY} must come after {DOCUMENT} in a template: {template!r}")
    return before, after.partition(QUERY)[0].rstrip()


def _make(name: str, entry: Any, options: dict[str, Any]) -> Prompt:
    """The prompt of an entry in a file."""
    if (
        not isinstance(entry, dict)
        or entry.get("mode") not in ("static", "dynamic")
        or not isinstance(entry.get("template"), str)
    ):
        raise ValueError(
            f"prompt {name!r} must have a mode (static or dynamic) and a template (text), "
            f"but is {reprlib.repr(entry)}"
        )
    if entry["mode"] == "static":
        if options:
            raise ValueError(f"prompt {name!r} is static and takes no {', '.join(options)}")
        return StaticPrompt(entry["template"])
    if "examples" not in options:
        raise ValueError(
            f"prompt {name!r} shows examples: give examples=, a frame of query and text"
        )
    return FewShotPrompt(template=entry["template"], **options)


def _shipped() -> dict[str, Any]:
    """The prompts that come with this package."""
    file = resources.files("pyterrier_inpars") / "prompts" / "prompts.yaml"
    return _read(file.read_text(encoding="utf-8"), str(file))


def _read(text: str, path: str) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(text)
    except Exception as error:  # PyYAML lets through what int() and the like say to a bad value
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map names to prompts, but holds {type(entries).__name__}")
    return entries
