"""Prompt templates: the text around a document that a language model completes with a query."""

from __future__ import annotations

import copy
import difflib
import random
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pyterrier_inpars import _html
from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._names import did_you_mean
from pyterrier_inpars._retrieval import words_of
from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars._stage import as_frame, check_columns, check_strings, lone_surrogate
from pyterrier_inpars.backends.base import NEWLINE
from pyterrier_inpars.datasets import published
from pyterrier_inpars.prompts._truncation import truncate

DOCUMENT, QUERY = "{document}", "{query}"
_INPARS = ("inpars", "inpars-gbq")
_PROMPTAGATOR = "promptagator-"
_FIELD = re.compile(r"\{[a-z_]+\}")
_USUAL = ("{title}", "{text}", "{docno}", "{body}", "{url}", "{grades}", DOCUMENT, QUERY)
"""Names in braces that are meant as fields."""
_SIMILAR = 0.8
"""Similarity of two queries, 2 × equal words / all words, from which one counts as a copy."""


class Prompt:
    """The text before and after the document.

    The document is inserted as it is; braces and field names in it have no meaning. Its white space
    is normalized, since fields of a prompt are lines and a query ends at a newline.

    Args:
        before: Text before the document.
        after: Text after the document, which the model continues.

    Attributes:
        before: Text before the document.
        after: Text after the document.
        max_query_tokens: Maximum number of tokens of a query in a few-shot example.
        stop: Strings that end the model's text.
        chat: Whether the prompt is messages to an instruct model.
        prefill: Beginning of the answer that the prompt contains.
        extract: Where the query is in the model's text; None if it is the text.
        schema: JSON schema of the model's text, if it has one.
    """

    max_query_tokens = 200
    stop: Sequence[str] = (NEWLINE,)
    chat = False
    prefill = ""
    extract: Any = None
    schema: Mapping[str, Any] | None = None

    def __init__(self, before: str, after: str):
        self.before = before
        self.after = after

    @property
    def prefix(self) -> str:
        """Text that all prompts begin with, without trailing space.

        The space is left out because it may share a token with the beginning of the document.
        """
        return self.before.rstrip()

    @property
    def topics(self) -> list[dict[str, str]]:
        """Topics of the few-shot examples, ``qid`` (where known) and ``query``; empty here."""
        return []

    @classmethod
    def load(cls, path: str | Path, name: str, **options: Any) -> Prompt:
        """Loads a prompt from a YAML file in the format of the InPars Toolkit.

        Args:
            path: File with entries ``name: {mode: static or dynamic, template: text}``, or with
                ``{mode: chat, user: text}`` and further fields of `ChatPrompt`.
            name: Name of the entry.
            **options: For a dynamic prompt, the parameters of `FewShotPrompt`, of which
                ``examples`` is required; for a chat prompt, those of `ChatPrompt`.

        Raises:
            ValueError: The file has no such entry or another format, or the options are invalid.
            FileNotFoundError: The file does not exist.
        """
        entries = _read(read_text(path), str(path))
        if name not in entries:
            raise ValueError(
                f"there is no prompt {name!r} in {path}; there are: {', '.join(map(str, entries))}"
            )
        return _make(name, entries[name], options)

    def build(self, document: str) -> str:
        """Returns the prompt for a document."""
        return f"{self.before}{' '.join(document.split())}{self.after}"

    def continuation(self, query: str) -> str:
        """Returns the text of a query after the prompt."""
        return f" {query}"

    def described(self) -> Any:
        """Returns the prompt as it is stored in a manifest."""
        return self.build(DOCUMENT)

    def example_queries(self) -> list[str]:
        """Returns the texts of the prompt that a model may copy instead of writing a query.

        These are the queries of the examples: the lines that begin like the line of the query.
        Other lines of at least three words count too, with and without the name of their field.
        """
        name = (self.after.strip().splitlines() or [""])[-1].strip()
        lines = [line.strip() for line in self.before.splitlines()]
        queries = [line.removeprefix(name) for line in lines if name and line.startswith(name)]
        others = [text for line in lines for text in (line, line.partition(": ")[2])]
        return [*queries, *(text for text in others if len(words_of(text)) >= 3)]

    def copies(self, queries: Iterable[str]) -> list[bool]:
        """Returns for each query whether it equals an example of the prompt, or nearly so.

        Case and punctuation are ignored. A query is nearly equal if the two share 80 % of their
        words in the same order.
        """
        examples = [words_of(query) for query in self.example_queries()]
        return [_is_copy(words_of(query), examples) for query in queries]

    def truncated(self, tokenizer: Any, max_doc_tokens: int) -> Prompt:
        """Returns this prompt with truncated examples; see `FewShotPrompt.truncated`.

        Examples in the template of a static prompt stay as they are.
        """
        return self

    def _repr_html_(self) -> str:
        """Returns what the model gets, with the places of the document and the query marked."""
        return _html.card(type(self).__name__, *self._shown())

    def _shown(self) -> list[_html.Html]:
        """Returns the parts of what a notebook shows."""
        return [marked(self.build(DOCUMENT) + self.continuation(QUERY))]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.build(DOCUMENT) == other.build(DOCUMENT)

    def __hash__(self) -> int:
        return hash(self.build(DOCUMENT))


class StaticPrompt(Prompt):
    """A prompt that is the same for every collection (InPars, arXiv 2202.05144, section 3).

    Args:
        template: Text that contains ``{document}`` once. The model continues at ``{query}``, or at
            the end if there is no ``{query}``; text after ``{query}`` is not used. Other braces
            have no meaning, but another field, such as ``{title}``, in the paragraph of
            ``{document}`` is an error, and usual names of fields elsewhere give a warning.
        prefill: Beginning of the query, such as ``"how"``, which the prompt ends with. The queries
            contain it if the generator has ``extract=re.compile(".+")``.

    Raises:
        ValueError: ``{document}`` does not occur exactly once, ``{query}`` precedes it, or there is
            another field in its paragraph; or ``prefill`` is not a string that UTF-8 can encode.
    """

    def __init__(self, template: str, *, prefill: str = ""):
        self.template = template
        self.prefill = checked_text("prefill", prefill).rstrip()
        before, after = split_template(template)
        space = "" if after.endswith("\n") else " "
        super().__init__(before, f"{after}{space}{self.prefill}" if self.prefill else after)

    def __repr__(self) -> str:
        prefill = f", prefill={self.prefill!r}" if self.prefill else ""
        return f"StaticPrompt({self.template!r}{prefill})"


class FewShotPrompt(Prompt):
    """A prompt with examples from a collection (Promptagator, arXiv 2209.11755, section 3.1).

    The examples are drawn once, so all documents get the same ones and the model processes them
    only once.

    Args:
        examples: Frame, or list of dicts, with the columns ``query`` and ``text``: queries and
            relevant documents. Further columns, such as ``qid``, are kept in the attribute
            ``examples``.
        template: Template of one example, with ``{document}`` and ``{query}`` once each. None for
            ``Document: {document}`` and ``Query: {query}`` on two lines.
        num_examples: Number of examples to draw.
        seed: Random seed of the draw, which does not depend on the order of the frame.
        max_query_tokens: Maximum number of tokens of an example's query; longer queries are
            truncated. Documents of examples are truncated to the ``max_doc_tokens`` of the stage.

    Attributes:
        examples: The drawn examples, in their order in the prompt. Exclude their topics from an
            evaluation; see `evaluation.exclude_fewshot_topics`.

    Raises:
        ValueError: A field does not occur exactly once in the template, a query or text is not a
            string, or the frame has fewer than ``num_examples`` rows.
        pt.validate.InputValidationError: A column is missing.
    """

    def __init__(
        self,
        examples: pd.DataFrame | list[dict[str, Any]],
        *,
        template: str | None = None,
        num_examples: int = 3,
        seed: int = 0,
        max_query_tokens: int = 200,
    ):
        self.examples = draw_examples(examples, num_examples, seed)
        self.max_query_tokens = positive_int("max_query_tokens", max_query_tokens)
        template = _shipped()["few-shot"]["template"] if template is None else template
        after = split_template(template)[1]
        if template.count(QUERY) != 1:
            raise ValueError(f"the template of an example must contain {QUERY} once: {template!r}")
        self.template = template
        super().__init__(self._before(self.examples["query"], self.examples["text"]), after)

    def example_queries(self) -> list[str]:
        """Returns the queries of the examples, and what else a model may copy."""
        return [*self.examples["query"], *super().example_queries()]

    @property
    def topics(self) -> list[dict[str, str]]:
        """Topics of the examples, ``qid`` (where known) and ``query``."""
        columns = [column for column in ("qid", "query") if column in self.examples]
        return self.examples[columns].drop_duplicates().to_dict("records")

    def truncated(self, tokenizer: Any, max_doc_tokens: int) -> Prompt:
        """Returns a copy of this prompt with truncated documents and queries in its examples.

        The attributes ``examples`` and ``topics`` keep the full texts.

        Args:
            tokenizer: Tokenizer with the interface of transformers. None counts words instead;
                see `Backend`.
            max_doc_tokens: Maximum number of tokens of an example's document.
        """
        prompt = copy.copy(self)
        prompt.before = self._before(
            truncate(self.examples["query"], tokenizer, self.max_query_tokens),
            truncate(self.examples["text"], tokenizer, max_doc_tokens),
        )
        return prompt

    def _before(self, queries: Iterable[str], texts: Iterable[str]) -> str:
        """Returns the examples in the form of the template, and the beginning of one more."""
        before, _, rest = self.template.partition(DOCUMENT)
        middle, _, end = rest.partition(QUERY)
        end = end if end.endswith("\n") else end + "\n"
        example = Prompt(before, middle)
        shown = [
            example.build(text) + " ".join(query.split()) + end
            for query, text in zip(queries, texts, strict=True)
        ]
        return "".join(shown) + before

    def __repr__(self) -> str:
        return f"FewShotPrompt(<{len(self.examples)} examples>, template={self.template!r})"


def check_examples(examples: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    """Returns valid few-shot examples, indexed from 0: with all columns, and no blank text."""
    is_list = isinstance(examples, list) and all(isinstance(row, Mapping) for row in examples)
    frame: Any = as_frame(examples) if is_list else examples
    check_columns(frame, "query", "text")
    check_strings(frame, *frame.columns.intersection(["query", "text", "qid"]))
    for column in ("query", "text"):
        if (blank := (frame[column].str.strip() == "").to_numpy()).any():
            raise ValueError(
                f"example {int(blank.argmax())} has a blank {column}, which the model would copy: "
                "drop the row"
            )
    return frame.reset_index(drop=True)


def draw_examples(
    examples: pd.DataFrame | list[dict[str, Any]], num_examples: int, seed: int
) -> pd.DataFrame:
    """Draws few-shot examples; see `FewShotPrompt`."""
    given = check_examples(examples)
    positive_int("num_examples", num_examples)
    if len(given) < num_examples:
        raise ValueError(
            f"num_examples is {num_examples}, but there are only {len(given)} examples"
        )
    ordered = given.sort_values(["query", "text"])
    chosen = random.Random(positive_int("seed", seed, least=0)).sample(
        range(len(ordered)), num_examples
    )
    return ordered.iloc[chosen].reset_index(drop=True)


def as_prompt(prompt: str | Prompt) -> Prompt:
    """Returns a prompt, loaded by `load_prompt` if a name is given.

    Raises:
        TypeError: ``prompt`` is neither a prompt nor a name.
        ValueError: See `load_prompt`.
        DownloadError: See `load_prompt`.
    """
    if isinstance(prompt, str):
        return load_prompt(prompt)
    if not isinstance(prompt, Prompt):
        raise TypeError(f"prompt must be a Prompt or the name of a prompt, not {prompt!r:.200}")
    return prompt


def read_text(path: str | Path) -> str:
    """Reads a UTF-8 text file without a byte order mark.

    A leading ``~`` is the user's home folder.

    Raises:
        ValueError: The file has another encoding.
        FileNotFoundError: The file does not exist.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def load_prompt(name: str, **options: Any) -> Prompt:
    """Loads a prompt by name. `Prompt.load` loads one from a file.

    - ``three-shot``, ``zero-shot`` and ``few-shot`` were written for this package, for base models.
    - ``chat``, ``chain-of-thought`` and ``structured`` are a `ChatPrompt` of this package for
      instruct models. So are ``question``, ``keywords``, ``claim`` and ``title``, one for each type
      of query; ``three-shot-question`` and so on are those for base models.
    - ``inpars`` and ``inpars-gbq`` are the prompts of InPars (arXiv 2202.05144, section 3),
      downloaded from its authors; see `published.templates`. The examples of ``inpars-gbq`` have a
      good and a bad question. Only the good one is generated, since a query ends at its line.
    - ``promptagator-<collection>`` has Promptagator's field names (arXiv 2209.11755) for the
      collection. Without ``examples`` it uses those that the InPars Toolkit publishes.

    Args:
        name: One of `prompt_names`.
        **options: For a prompt with examples, the parameters of `FewShotPrompt`.

    Raises:
        ValueError: There is no such prompt, or it does not take these options.
        DownloadError: A required file cannot be downloaded; the error says what to do.
    """
    if name in _INPARS:
        return Prompt.load(published.templates(), name, **options)
    entries = _shipped()
    if name not in entries:
        hint = did_you_mean(name, prompt_names())
        known = ", ".join(prompt_names())
        raise ValueError(f"there is no prompt {name!r}; {hint}there are: {known}")
    if name.startswith(_PROMPTAGATOR) and "examples" not in options:
        collection = name.removeprefix(_PROMPTAGATOR)
        options["examples"] = published.fewshot_examples(collection)
    return _make(name, entries[name], options)


def prompt_names() -> list[str]:
    """Returns the names of the prompts that `load_prompt` knows."""
    return [*_shipped(), *_INPARS]


def split_template(template: str) -> tuple[str, str]:
    """Returns the text before the document, and the text between document and query."""
    if not isinstance(template, str):
        raise ValueError(
            f"a template must be a string that contains {DOCUMENT}, not {template!r:.200}"
        )
    if template.count(DOCUMENT) != 1:
        raise ValueError(
            f"a template must contain {DOCUMENT} once, but this one contains it "
            f"{template.count(DOCUMENT)} times: {template!r}"
        )
    if surrogate := lone_surrogate(template):
        raise ValueError(
            f"a template must not contain the lone surrogate {surrogate!r}: {template!r}"
        )
    before, _, after = template.partition(DOCUMENT)
    if QUERY in before:
        raise ValueError(f"{QUERY} must come after {DOCUMENT} in a template: {template!r}")
    check_fields("a template", template, (DOCUMENT, QUERY))
    between, query, _ = after.partition(QUERY)
    # A line end before the query is part of the prompt: without it, the model would write it.
    return before, between.rstrip(" \t") if query else between.rstrip()


def check_fields(name: str, text: str, fields: Sequence[str]) -> None:
    """Checks that a text of a prompt has no other fields than those that are filled in.

    A paragraph without ``{document}`` may have braces, as examples with program code do. There,
    names that columns often have give a warning.

    Args:
        name: What the text is, for the error.
        text: Text of a prompt, without documents.
        fields: Fields that are filled in.

    Raises:
        ValueError: There is another field beside ``{document}``, in its paragraph.
    """
    for paragraph in re.split(r"\n\s*\n", text):
        unknown = [field for field in _FIELD.findall(paragraph) if field not in fields]
        if not unknown:
            continue
        message = (
            f"{name} has the fields {' and '.join(fields)}, but not {unknown[0]}"
            if fields
            else f"{name} has no fields, but contains {unknown[0]}"
        )
        if DOCUMENT in fields and DOCUMENT in paragraph:
            raise ValueError(
                f"{message}, which is in the paragraph of {DOCUMENT}: {text!r}. Put further text "
                "of a document into its text column"
            )
        for field in unknown:
            if field in _USUAL:
                warnings.warn(
                    f"{message.replace(unknown[0], field)}, which the model gets as these "
                    f"characters: {text!r:.200}",
                    stacklevel=user_level(),
                )
                return


def checked_text(name: str, text: str) -> str:
    """Returns a text of a prompt if it is valid.

    Raises:
        ValueError: It is not a string, or UTF-8 cannot encode it.
    """
    if not isinstance(text, str) or lone_surrogate(text):
        raise ValueError(f"{name} must be a string that UTF-8 can encode, not {text!r:.200}")
    return text


def marked(prompt: str, label: str = "") -> _html.Html:
    """Returns a prompt for a notebook, with the last place of document and query marked."""
    shown = _html.preformatted(prompt, label).replace("<pre", '<pre style="max-height:none"', 1)
    for field in (DOCUMENT, QUERY):
        before, found, after = shown.rpartition(field)
        shown = f"{before}<mark>{found}</mark>{after}" if found else shown
    return _html.Html(shown)


def _is_copy(query: list[str], examples: list[list[str]]) -> bool:
    """Returns whether the words of a query are, or nearly are, those of an example."""
    for example in examples:
        words = len(query) + len(example)
        if query == example != []:
            return True
        # The number of equal words is at most that of the shorter text.
        if 2 * min(len(query), len(example)) >= _SIMILAR * words > 0:
            matcher = difflib.SequenceMatcher(None, query, example, autojunk=False)
            if matcher.ratio() >= _SIMILAR:
                return True
    return False


def _make(name: str, entry: Any, options: dict[str, Any]) -> Prompt:
    """Returns the prompt of an entry of a YAML file."""
    mode = entry.get("mode") if isinstance(entry, dict) else None
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(
            f"prompt {name!r} must have a mode (static or dynamic) and a template (text), or the "
            f"mode chat, but is {reprlib.repr(entry)}"
        )
    return MODES[mode](name, entry, options)


def check_entry(name: str, entry: dict[str, Any], fields: Sequence[str]) -> None:
    """Checks the names of the fields of an entry of a YAML file.

    Raises:
        ValueError: One is unknown.
    """
    if unknown := [field for field in entry if field not in fields]:
        raise ValueError(
            f"{entry['mode']} prompt {name!r} has no field {unknown[0]!r}; there are: "
            f"{', '.join(fields)}"
        )


def _template(name: str, entry: dict[str, Any]) -> str:
    """Returns the template of an entry of a YAML file."""
    check_entry(name, entry, ("mode", "template"))
    if not isinstance(entry.get("template"), str):
        raise ValueError(
            f"prompt {name!r} must have a mode (static or dynamic) and a template (text), "
            f"but is {reprlib.repr(entry)}"
        )
    return entry["template"]


def _static(name: str, entry: dict[str, Any], options: dict[str, Any]) -> Prompt:
    template = _template(name, entry)
    if options:
        raise ValueError(f"prompt {name!r} is static and has no option {', '.join(options)}")
    return StaticPrompt(template)


def _dynamic(name: str, entry: dict[str, Any], options: dict[str, Any]) -> Prompt:
    template = _template(name, entry)
    if "examples" not in options:
        raise ValueError(
            f"prompt {name!r} needs examples: give examples=, a frame with the columns query and "
            "text"
        )
    return FewShotPrompt(template=template, **options)


MODES: dict[str, Callable[[str, dict[str, Any], dict[str, Any]], Prompt]] = {
    "static": _static,
    "dynamic": _dynamic,
}
"""Functions that make the prompt of an entry of a YAML file, by its mode.

Arguments are the name of the entry, its fields, and the options of `load_prompt`.
"""


def _shipped() -> dict[str, Any]:
    """Returns the entries of the YAML file of this package."""
    file = resources.files("pyterrier_inpars") / "prompts" / "prompts.yaml"
    return _read(file.read_text(encoding="utf-8"), str(file))


def _read(text: str, path: str) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(text)
    except Exception as error:  # PyYAML passes on errors of int() and others on invalid values
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must map names to prompts, but holds {type(entries).__name__}")
    return entries
