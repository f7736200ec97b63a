"""Chat prompts: messages that an instruct model answers with a query."""

from __future__ import annotations

import copy
import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from pyterrier_inpars import _html
from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._retrieval import words_of
from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars._stage import check_strings
from pyterrier_inpars._words import has_unspaced
from pyterrier_inpars.backends.base import Messages
from pyterrier_inpars.prompts._truncation import truncate
from pyterrier_inpars.prompts.extraction import (
    Extract,
    check_extract,
    describe_extract,
    ends_with_word,
    queries_of,
    space_before,
)
from pyterrier_inpars.prompts.templates import (
    DOCUMENT,
    MODES,
    QUERY,
    Prompt,
    check_entry,
    check_examples,
    check_fields,
    checked_text,
    draw_examples,
    marked,
    split_template,
)

_FIELDS = ("mode", "system", "user", "examples", "prefill", "extract", "schema")
"""Fields of a chat prompt in a YAML file."""
_WHOLE = re.compile("(?s).+")


class ChatPrompt(Prompt):
    """A prompt for an instruct model: messages, in the form of the model's chat template.

    Few-shot examples are turns of the chat: their documents are messages of the user, their queries
    the answers. The text of a document stays a part of its message: special tokens and names of
    roles that are written out in it have no meaning. In messages to a server, a space is put into
    special tokens, as it may not tell them from its own.

    Args:
        user: Message with the document: a text that contains ``{document}`` once.
        system: System message; None for none. A chat template that knows no system messages gets it
            as the beginning of the first message.
        examples: Frame, or list of dicts, with the columns ``query`` and ``text``: queries and
            relevant documents. Their answers have the form that ``extract`` expects: the query
            alone, after a marker, or in a JSON object. For other forms, the optional column
            ``answer`` has the whole answers. It is ignored, with a warning, if ``extract`` does not
            find a query in its answer. A query that begins as ``prefill`` ends continues it. None
            for no examples.
        num_examples: Maximum number of examples to draw. Of fewer, and with None, all are taken, in
            the order of the frame.
        seed: Random seed of the draw, which does not depend on the order of the frame.
        prefill: Beginning of the answer, which the model continues. ``extract`` applies to both
            together; without it, the query is the first line that the model writes.
        extract: Where the query is in the answer; see `QueryGenerator`.
        schema: JSON schema of the answer, for runtimes that enforce one.
        max_query_tokens: Maximum number of tokens of an example's query.

    Attributes:
        examples: The drawn examples, in their order in the prompt.

    Raises:
        ValueError: A text is not a string, ``{document}`` does not occur exactly once in ``user``,
            or the examples are invalid; see `FewShotPrompt`. Or they need the column ``answer``.
        TypeError: ``extract`` or ``schema`` has another type.
    """

    stop: Sequence[str] = ()
    chat = True
    _has_topics = True

    def __init__(
        self,
        user: str,
        *,
        system: str | None = None,
        examples: pd.DataFrame | list[dict[str, Any]] | None = None,
        num_examples: int | None = 3,
        seed: int = 0,
        prefill: str = "",
        extract: Extract | None = None,
        schema: Mapping[str, Any] | None = None,
        max_query_tokens: int = 200,
    ):
        check_fields("system", checked_text("system", system or ""), ())
        checked_text("prefill", prefill)
        if schema is not None and not isinstance(schema, Mapping):
            raise TypeError(f"schema must be a dict with a JSON schema, not {schema!r:.200}")
        before, after = split_template(user)
        if QUERY in user:
            raise ValueError(f"user must not contain {QUERY}: the query is the answer: {user!r}")
        super().__init__(before.lstrip(), after)
        self.user = user
        self.system = system
        self.prefill = prefill.rstrip()
        self.extract = check_extract(extract)
        self.schema = None if schema is None else dict(schema)
        self.max_query_tokens = positive_int("max_query_tokens", max_query_tokens)
        self.examples = pd.DataFrame({"query": [], "text": []}, dtype=object)
        if examples is not None:
            given = check_examples(examples)
            if num_examples is None or len(given) < positive_int("num_examples", num_examples):
                self.examples = given
            else:
                self.examples = draw_examples(given, num_examples, seed)
        if "answer" in self.examples:
            check_strings(self.examples, "answer")
        self._check_answers()
        self._turns = self._examples_as_turns(self.examples["query"], self.examples["text"])

    @property
    def prefix(self) -> Messages:  # type: ignore[override]
        """The messages without a document, which begin like those of every document."""
        return self.build("")

    @property
    def topics(self) -> list[dict[str, str]]:
        """Topics of the examples, ``qid`` (where known) and ``query``.

        The examples of an entry of a YAML file are a part of the prompt, and no topics.
        """
        if not self._has_topics:
            return []
        columns = [column for column in ("qid", "query") if column in self.examples]
        return self.examples[columns].drop_duplicates().to_dict("records")

    def build(self, document: str) -> Messages:  # type: ignore[override]
        """Returns the messages for a document."""
        messages: Messages = []
        if self.system:
            messages.append(_message("system", self.system))
        for text, answer in self._turns:
            messages.append(_message("user", super().build(text)))
            messages.append(_message("assistant", answer))
        messages.append(_message("user", super().build(document)))
        if self.prefill:
            messages.append(_message("assistant", self.prefill))
        return messages

    def _examples_as_turns(
        self, queries: Iterable[str], texts: Iterable[str]
    ) -> list[tuple[str, str]]:
        """Returns the text and the answer of each example."""
        if "answer" in self.examples:
            return list(zip(texts, self.examples["answer"], strict=True))
        return list(zip(texts, map(self._answer, queries), strict=True))

    def _answer(self, query: str) -> str:
        """Returns the answer with a query, in the form that ``extract`` expects."""
        if isinstance(self.extract, Mapping):
            return json.dumps({self.extract["json"]: query}, ensure_ascii=False)
        if isinstance(self.extract, str) and self.extract not in self.prefill:
            return f"{self.prefill}\n{self.extract} {query}".lstrip()
        if begun := self._begun(query):
            return self.prefill + query[begun:]
        return self.prefill + self.continuation(query)

    def _begun(self, query: str) -> int:
        """Returns the number of characters of a query that the prefill already ends with."""
        prefill = self.prefill
        if not _is_word(prefill[-1:]):
            return 0
        for start in range(len(prefill)):
            size = len(prefill) - start
            if (
                not (start and _is_word(prefill[start - 1]))
                and size < len(query)
                and query[:size].casefold() == prefill[start:].casefold()
                and not (ends_with_word(prefill) and _is_word(query[size]))
            ):
                return size
        return 0

    def _check_answers(self) -> None:
        """Checks that the answers of the examples have their queries.

        Given answers that do not are ignored, with a warning, unless those made from the queries do
        not either. A query that does not begin with a prefill such as ``How do I`` gives a warning.

        Raises:
            ValueError: One is not given and does not begin with the prefill, or ``extract`` does
                not find its query.
        """
        queries = self.examples["query"].tolist()
        made = [self._answer(query) for query in queries]
        fit = [self._fits(*pair) for pair in zip(queries, made, strict=True)]
        form = f"extract={self.extract!r:.200} and prefill={self.prefill!r:.200}"
        if "answer" in self.examples:
            given = zip(queries, self.examples["answer"], strict=True)
            wrong = next((pair for pair in given if not self._is_found(*pair)), None)
            if wrong is None or not all(fit):
                return
            query, answer = wrong
            self.examples = self.examples.drop(columns="answer")
            warnings.warn(
                f"the column answer of the examples is ignored, as a prompt with {form} does not "
                f"find the query {query!r:.200} in the answer {answer!r:.200}: give the prompt an "
                "extract that finds it, or leave out the column",
                stacklevel=user_level(),
            )
        elif not all(fit):
            raise ValueError(
                f"{made[fit.index(False)]!r:.200} would be the answer of an example, which does "
                f"not fit {form}: give the examples the column answer, with whole answers"
            )
        without_beginning = [
            answer
            for query, answer in zip(queries, made, strict=True)
            if answer == self.prefill + self.continuation(query)
            and _is_word(self.prefill[-1:])
            and not self._begun(query)
        ]
        if without_beginning:
            warnings.warn(
                f"{without_beginning[0]!r:.200} is the answer of an example, whose query does not "
                f"begin with prefill={self.prefill!r:.200}: give examples whose queries begin with "
                "it, or the column answer, with whole answers",
                stacklevel=user_level(),
            )

    def _fits(self, query: str, answer: str) -> bool:
        """Returns whether a made answer has the prefill, and ``extract`` finds its query."""
        prefill, begun = self.prefill, self._begun(query)
        is_line = self.extract is None or isinstance(self.extract, str)
        # Of a query that the prefill begins, with its case, extract may find the rest alone.
        forms = [query, query[begun:], prefill[len(prefill) - begun :] + query[begun:]]
        found = {" ".join(text.split()) for text in self._found(answer)}
        expected = (queries_of(f, None if is_line else _WHOLE, chat=True) for f in forms)
        return answer.startswith(prefill) and any(
            {" ".join(q.text.split()) for q in form} <= found for form in expected
        )

    def _is_found(self, query: str, answer: str) -> bool:
        """Returns whether ``extract`` finds the query of a given answer.

        The end of the prefill may be before it. Case and punctuation are ignored.
        """
        prefill = words_of(self.prefill)
        for words in (words_of(query), words_of(query[self._begun(query) :])):
            for found in map(words_of, self._found(answer)):
                before = found[: len(found) - len(words)]
                if found == [*before, *words] and before == prefill[len(prefill) - len(before) :]:
                    return True
        return False

    def _found(self, answer: str) -> list[str]:
        """Returns what ``extract`` finds in the answer of an example."""
        prefill = self.prefill if answer.startswith(self.prefill) else ""
        rest = answer.removeprefix(prefill)
        return [q.text for q in queries_of(rest, self.extract, chat=True, prefill=prefill)]

    def continuation(self, query: str) -> str:
        """Returns the text of a query after the prompt, with a space only after a prefill.

        There is none where a prefill and a query are parts of one text without spaces.
        """
        last = self.prefill[-1:]
        if has_unspaced(last) or (_is_word(last) and _is_word(query[:1])):
            return space_before(query, self.prefill) + query
        return super().continuation(query) if self.prefill else query

    def example_queries(self) -> list[str]:
        """Returns the queries of the examples, and the lines of the messages; see `Prompt`."""
        texts = [self.system or "", self.before, self.after, *self.examples["text"]]
        lines = [line.strip() for text in texts for line in text.splitlines()]
        return [*self.examples["query"], *(line for line in lines if len(words_of(line)) >= 3)]

    def truncated(self, tokenizer: Any, max_doc_tokens: int) -> ChatPrompt:
        """Returns a copy with truncated examples; see `FewShotPrompt.truncated`."""
        prompt = copy.copy(self)
        prompt._turns = self._examples_as_turns(
            truncate(self.examples["query"], tokenizer, self.max_query_tokens),
            truncate(self.examples["text"], tokenizer, max_doc_tokens),
        )
        return prompt

    def described(self) -> dict[str, Any]:
        """Returns the prompt as it is stored in a manifest."""
        return {
            "messages": self.build(DOCUMENT),
            **({} if self.extract is None else {"extract": describe_extract(self.extract)}),
            **({} if self.schema is None else {"schema": self.schema}),
        }

    def _shown(self) -> list[_html.Html]:
        """Returns the turns of the chat, and where the query is in the answer."""
        messages = self.build(DOCUMENT)
        if self.extract is None:
            answer = self.prefill + self.continuation(QUERY)
            messages = [*messages[: -1 if self.prefill else None], _message("assistant", answer)]
        of_examples = bool(self.system) + 2 * len(self._turns)
        shown = [
            (_html.preformatted if turn < of_examples else marked)(m["content"], m["role"])
            for turn, m in enumerate(messages)
        ]
        if self.extract is not None:
            shown.append(_html.facts({"query in the answer": describe_extract(self.extract)}))
        return shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatPrompt) and self.described() == other.described()

    def __hash__(self) -> int:
        return hash(json.dumps(self.described(), sort_keys=True))

    def __repr__(self) -> str:
        shown = [repr(self.user)]
        for name in ("system", "prefill", "extract", "schema"):
            if value := getattr(self, name):
                shown.append(f"{name}={value!r}")
        if len(self.examples):
            shown.append(f"examples=<{len(self.examples)} examples>")
        return f"ChatPrompt({', '.join(shown)})"


def _is_word(character: str) -> bool:
    """Returns whether a character is a part of a word."""
    return unicodedata.category(character)[0] in "LMN" if character else False


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content.strip()}


def _from_entry(name: str, entry: dict[str, Any], options: dict[str, Any]) -> ChatPrompt:
    """Returns the chat prompt of an entry of a YAML file."""
    fields = {field: value for field, value in entry.items() if field != "mode"}
    check_entry(name, entry, _FIELDS)
    if not isinstance(entry.get("user"), str):
        raise ValueError(f"chat prompt {name!r} must have the field user, a text with {DOCUMENT}")
    shown = fields.pop("examples", None) or []
    if shown and "examples" not in options:
        try:
            more = ["answer"] * any("answer" in pair for pair in shown)
            pairs = [{**pair, "text": pair["document"]} for pair in shown]
            pairs = [{name: pair[name] for name in ("query", "text", *more)} for pair in pairs]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"examples of chat prompt {name!r} must be a list with the fields document and "
                f"query, and answer in all or none, not {shown!r:.200}"
            ) from error
        fields |= {"num_examples": None, "examples": pd.DataFrame(pairs)}
    prompt = ChatPrompt(**{**fields, **options})
    prompt._has_topics = "examples" in options
    if prompt._has_topics and "answer" not in prompt.examples:
        _warn_if_shorter(name, prompt, shown)
    return prompt


def _warn_if_shorter(name: str, prompt: ChatPrompt, shown: list[dict[str, str]]) -> None:
    """Warns if the answers of examples lack what those in the file have, such as a reasoning."""
    for pair in shown:
        answer = pair.get("answer", "").split()
        if answer and answer != prompt._answer(pair["query"]).split():
            warnings.warn(
                f"the answers of the examples of prompt {name!r} are more than the query, such as "
                f"{' '.join(answer)!r:.300}, but those of yours are the query alone, and the model "
                "will answer as they do: give yours the column answer, with whole answers",
                stacklevel=user_level(),
            )
            return


MODES["chat"] = _from_entry
