"""Help of the commands: options by purpose, and an example that runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

COLUMN = 26
"""Width of the names of the options; longer ones have a line of their own."""


class Command(click.Command):
    """A command whose help groups the options by section and ends with an example.

    Args:
        *args: Those of ``click.Command``.
        example: Command line to run. The examples of the commands, in the order of the work, use
            each other's files.
        **kwargs: Those of ``click.Command``.
    """

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, unless its output would overwrite one of its inputs."""
        given = [
            (param.opts[0], path)
            for param in self.params
            for path in _paths(ctx.params.get(str(param.name)))
        ]
        outputs = [pair for pair in given if pair[0].startswith("--output")]
        for output, path in outputs:
            for option, other in given:
                if option != output and os.path.samefile(path, other):
                    raise click.UsageError(
                        f"{output} {path} is the file of {option}, which would be overwritten: "
                        "choose another path"
                    )
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        width = max(len(names) for records in sections.values() for names, _ in records)
        for title, records in sections.items():
            padded = [(f"{names:{min(width, COLUMN)}}", text) for names, text in records]
            with formatter.section(title):  # the sections have one column of texts
                formatter.write_dl(padded, COLUMN)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.strip().splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _paths(value: Any) -> list[str]:
    """Returns the values of an option that are paths of files."""
    values = value if isinstance(value, list | tuple) else [value]
    return [path for path in values if isinstance(path, str) and os.path.isfile(path)]


def options(*decorators: Callable) -> Callable[[Callable], Callable]:
    """Combines options into one decorator; ``--help`` lists them in this order."""
    return lambda command: functools.reduce(lambda f, option: option(f), decorators[::-1], command)


def section(title: str, *decorators: Callable) -> Callable[[Callable], Callable]:
    """Combines options into one decorator; ``--help`` lists them under a title."""

    def decorate(command: Callable) -> Callable:
        before = len(getattr(command, "__click_params__", ()))
        command = options(*decorators)(command)
        for option in command.__click_params__[before:]:  # type: ignore[attr-defined]
            if not hasattr(option, "section"):
                option.section = title
        return command

    return decorate
