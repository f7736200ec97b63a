"""Chat templates: messages to tokens, with the contents of the messages as plain text.

The template of a model puts special tokens between the messages. It is rendered with a mark in
place of each content, so that the text of the template and the contents are known apart. Control
tokens, which are the special tokens and others that the template writes, are parsed in the text of
the template only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pyterrier_inpars.backends.base import Messages

DATE = date(2024, 7, 26)
"""Date in prompts: that of Llama 3's templates where there is no clock."""
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_MARK = re.compile("\ue000([0-9]+)\ue001")
Parts = list[tuple[str, bool]]
"""Texts in order, and for each whether it is of the template and not the content of a message."""


def encode(
    tokenizer: Any, prompts: Sequence[str | Messages], continuations: Sequence[str] | None = None
) -> list[list[int]]:
    """Tokenizes prompts of one kind, texts or messages; special tokens in a text are plain text.

    The tokens of messages are those of ``apply_chat_template``, without further special tokens,
    except that control tokens which are written out in a content are plain text.

    Args:
        tokenizer: Tokenizer with the interface of transformers.
        prompts: Texts, or messages.
        continuations: A text after each prompt; None for none.

    Raises:
        ValueError: The tokenizer has no chat template, or the template refuses the messages.
    """
    rests = [""] * len(prompts) if continuations is None else continuations
    texts: list[str] = []
    rows: list[Parts] = []
    for prompt, rest in zip(prompts, rests, strict=True):
        if isinstance(prompt, str):
            texts.append(prompt + rest)
        else:
            rows.append([*render(tokenizer, prompt), (rest, False)])
    if not rows:
        return tokenizer(texts, split_special_tokens=True)["input_ids"] if texts else []
    encoded = tokenizer([_joined(row) for row in rows], add_special_tokens=False)["input_ids"]
    control = set(_control_tokens(tokenizer).values())
    for i, row in enumerate(rows):
        pieces = [piece for part in row for piece in _pieces(tokenizer, *part)]
        if [t for t in encoded[i] if t in control] != [p for p in pieces if type(p) is int]:
            encoded[i] = _encode_pieces(tokenizer, pieces)
    return encoded


def as_text(tokenizer: Any, prompt: str | Messages) -> str:
    """Returns a prompt as one text; messages by the template, if the tokenizer has one."""
    if isinstance(prompt, str):
        return prompt
    if getattr(tokenizer, "chat_template", None):
        return _joined(render(tokenizer, prompt))
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def render(tokenizer: Any, messages: Messages) -> Parts:
    """Renders messages by the chat template of a tokenizer.

    If the last message is the assistant's, the text ends with it. Otherwise it ends where the
    answer begins. A template without system messages gets them as the beginning of the first
    message after them.

    Raises:
        ValueError: The tokenizer has no chat template, or the template refuses the messages.
    """
    try:
        return _filled(_template(tokenizer, tuple(m["role"] for m in messages)), messages)
    except _UnsupportedError as error:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise ValueError(f"the chat template of the model refuses messages: {error}") from error
    system, first, *rest = messages
    return render(
        tokenizer, [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
    )


def with_template_options(tokenizer: Any, options: Mapping[str, Any]) -> Any:
    """Sets variables at the beginning of the chat templates of a tokenizer, and returns it.

    Every use of a template then has them: prompts, their lengths, and their texts in a frame. A
    template that writes today's date gets `DATE` instead, so that prompts do not change at midnight
    within a run, nor until it resumes.

    Args:
        tokenizer: Tokenizer with the interface of transformers.
        options: Values by variable, which JSON can represent.

    Raises:
        ValueError: There are options, and the tokenizer has no chat template.
    """
    template = getattr(tokenizer, "chat_template", None)
    if options and not template:
        raise ValueError(f"the model has no chat template, so it takes no options: {options}")
    # the literals of Jinja are those of Python
    lines = "".join(f"{{%- set {name} = {value!r} %}}" for name, value in options.items())

    def changed(text: str) -> str:
        return lines + _TODAY.sub(lambda call: repr(DATE.strftime(call[2])), text)

    if isinstance(template, Mapping):
        tokenizer.chat_template = {name: changed(text) for name, text in template.items()}
    elif template:
        tokenizer.chat_template = changed(template)
    return tokenizer


def check_fast(tokenizer: Any, name: str, remedy: str) -> None:
    """Checks that a tokenizer is of the tokenizers library; others know no places of tokens.

    Args:
        tokenizer: What transformers loaded.
        name: Name of the model.
        remedy: What to do about another one.

    Raises:
        ValueError: It is not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{name!r} has a tokenizer in Python ({type(tokenizer).__name__}), which does not say "
            f"where in a text a token ends, as one of the tokenizers library does (a "
            f"tokenizer.json): {remedy}"
        )


def turn_end(tokenizer: Any) -> int | None:
    """Returns the control token that ends an answer in the chat template, or None."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    pieces = _pieces(tokenizer, text[text.rindex("b") + 1 :], True)
    return next((piece for piece in pieces if type(piece) is int), None)


class _UnsupportedError(ValueError):
    """A chat template refused messages with these roles, or left out the content of one."""


@functools.lru_cache(maxsize=32)
def _template(tokenizer: Any, roles: tuple[str, ...]) -> list[str | int]:
    """Returns the texts of a chat template, and the numbers of the messages between them."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer of {getattr(tokenizer, 'name_or_path', tokenizer)!r} has no chat "
            "template: give an instruct model, or a text prompt such as 'three-shot'"
        )
    is_continued = roles[-1] == "assistant"
    messages = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not is_continued,
            continue_final_message=is_continued,
        )
    except Exception as error:  # a template may raise any error
        raise _UnsupportedError(str(error)) from error
    parts: list[str | int] = [
        int(part) if i % 2 else part for i, part in enumerate(_MARK.split(text))
    ]
    if sorted(parts[1::2]) != list(range(len(roles))):  # type: ignore[type-var]
        raise _UnsupportedError("it leaves out the content of one, or repeats it")
    return parts


def _filled(template: Sequence[str | int], messages: Messages) -> Parts:
    return [
        (messages[part]["content"], False) if isinstance(part, int) else (part, True)
        for part in template
    ]


def _joined(parts: Parts) -> str:
    return "".join(text for text, _ in parts)


@functools.lru_cache(maxsize=8)
def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Returns the control tokens by their texts.

    Names of roles are not special tokens in some models, such as ``<｜User｜>`` of DeepSeek R1.
    """
    template = str(tokenizer.chat_template)
    added = {token.content: (token, i) for i, token in tokenizer.added_tokens_decoder.items()}
    return {
        **{
            text: number
            for text, (token, number) in added.items()
            if token.special or (text.strip() and text in template)
        },
        **dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)),
    }


@functools.lru_cache(maxsize=8)
def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = sorted(_control_tokens(tokenizer), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, tokens))})" if tokens else r"(?!)()")


@functools.lru_cache(maxsize=32)
def _split_template(tokenizer: Any, text: str) -> list[str | int]:
    control = _control_tokens(tokenizer)
    return [control.get(piece, piece) for piece in _control_pattern(tokenizer).split(text)]


def _pieces(tokenizer: Any, text: str, of_template: bool) -> Sequence[str | int | None]:
    """Splits a part into texts and control tokens.

    The content of a message has none. None stands after the first character of those that are
    written out in it, where the text is cut before it is tokenized.
    """
    if of_template:
        return _split_template(tokenizer, text)
    pieces: list[str | None] = []
    for i, piece in enumerate(_control_pattern(tokenizer).split(text)):
        pieces += [piece[:1], None, piece[1:]] if i % 2 else [piece]
    return pieces


def _encode_pieces(tokenizer: Any, pieces: Sequence[str | int | None]) -> list[int]:
    """Tokenizes the texts between control tokens, each as a whole."""
    ids: list[int] = []
    text = ""
    for piece in [*pieces, None]:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            ids += tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            text = ""
        if piece is not None:
            ids.append(piece)
    return ids
