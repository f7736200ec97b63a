"""What the language model is shown: prompt templates and the documents put into them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import yaml

from pyterrier_inpars.frames import check_strings, positive_int

DOCUMENT, QUERY = "{document}", "{query}"


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

    def build(self, document: str) -> str:
        """The prompt for one document."""
        return f"{self.before}{' '.join(document.split())}{self.after}"

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
        ValueError: ``{document}`` is not there, or is there twice.
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
        template: one example, with ``{document}`` and ``{query}`` once each.
        num_examples: how many to show.
        seed: decides which, whatever the order of the frame.

    Attributes:
        examples: the examples shown, in their order. Take their topics out of an evaluation.

    Raises:
        ValueError: the template lacks a field, or the frame has fewer rows than asked for.
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
        pt.validate.columns(examples, includes=["query", "text"])
        check_strings(examples, "query", "text")
        positive_int("num_examples", num_examples)
        if len(examples) < num_examples:
            raise ValueError(
                f"num_examples is {num_examples}, but there are {len(examples)} examples to draw "
                f"from"
            )
        template = _entry(None, "few-shot")["template"] if template is None else template
        before, after = _split(template)
        if QUERY not in template:
            raise ValueError(f"the template of one example must hold {QUERY}: {template!r}")
        ordered = examples.sort_values(["query", "text"])
        chosen = random.Random(seed).sample(range(len(ordered)), num_examples)
        self.examples = ordered.iloc[chosen].reset_index(drop=True)
        self.template = template
        middle, _, end = template.partition(DOCUMENT)[2].partition(QUERY)
        one = Prompt(before, middle)
        shown = (
            one.build(text) + " ".join(query.split()) + end
            for query, text in zip(self.examples["query"], self.examples["text"], strict=True)
        )
        super().__init__("".join(shown) + before, after)

    def __repr__(self) -> str:
        return f"FewShotPrompt(<{len(self.examples)} examples>, template={self.template!r})"


def load_prompt(name: str, path: str | Path | None = None, **options: Any) -> Prompt:
    """Loads a prompt by name.

    Args:
        name: one of ``prompt_names(path)``.
        path: a YAML file of the InPars Toolkit's form: ``name: {mode: static or dynamic,
            template: text}``. None is the file that comes with this package.
        options: for a dynamic prompt, the arguments of ``FewShotPrompt``: ``examples`` and others.

    Raises:
        ValueError: the name is not in the file, or the file is not of that form.
        FileNotFoundError: there is no such file.
    """
    entry = _entry(path, name)
    if entry["mode"] == "static":
        if options:
            raise ValueError(f"prompt {name!r} is static and takes no {', '.join(options)}")
        return StaticPrompt(entry["template"])
    if "examples" not in options:
        raise ValueError(
            f"prompt {name!r} shows examples: give examples=, a frame of query and text"
        )
    return FewShotPrompt(template=entry["template"], **options)


def prompt_names(path: str | Path | None = None) -> list[str]:
    """Names of the prompts in a file, by default the one that comes with this package."""
    return list(_read(path))


def truncate(documents: Iterable[str], tokenizer: Any, max_tokens: int) -> list[str]:
    """Cuts each document after ``max_tokens`` tokens, at a character of its own text.

    The cut is made by character offsets, not by decoding, so that no special token and no other
    spelling gets into the text. Without a tokenizer, words are counted instead.
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
        document[: spans[max_tokens - 1][1]] if len(spans) > max_tokens else document
        for document, spans in zip(documents, offsets, strict=True)
    ]


def _split(template: str) -> tuple[str, str]:
    """What stands before the document, and between it and the query."""
    if template.count(DOCUMENT) != 1:
        raise ValueError(
            f"a template must hold {DOCUMENT} once, but this one holds it "
            f"{template.count(DOCUMENT)} times: {template!r}"
        )
    before, _, after = template.partition(DOCUMENT)
    return before, after.partition(QUERY)[0].rstrip()


def _read(path: str | Path | None) -> dict[str, Any]:
    shipped = resources.files("pyterrier_inpars") / "prompts" / "prompts.yaml"
    text = (Path(path) if path is not None else shipped).read_text(encoding="utf-8")
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map names to prompts, but holds {type(entries).__name__}")
    return entries


def _entry(path: str | Path | None, name: str) -> dict[str, str]:
    entries = _read(path)
    if name not in entries:
        raise ValueError(f"there is no prompt {name!r}; there are: {', '.join(map(str, entries))}")
    entry = entries[name]
    if (
        not isinstance(entry, dict)
        or entry.get("mode") not in ("static", "dynamic")
        or not isinstance(entry.get("template"), str)
    ):
        raise ValueError(
            f"prompt {name!r} must have a mode (static or dynamic) and a template (text), "
            f"but is {entry!r}"
        )
    return entry
