"""Command line: the six commands of the InPars Toolkit (arXiv 2307.04601), and more.

``pyterrier-inpars COMMAND --help`` lists the options, which may be written with underscores or
hyphens. Each command is a module of its own name, which holds its options and calls the classes of
this package; what several commands share is in the private modules.
"""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from pyterrier_inpars.cli import (
    evaluate,
    filter,
    generate,
    judge,
    quickstart,
    report,
    rerank,
    train,
    triples,
)
from pyterrier_inpars.cli._errors import ERRORS, NAME, fail, in_options

SETTINGS = {
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "show_default": True,
    "max_content_width": 100,
}


class Commands(click.Group):
    """Group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(NAME, cls=Commands, context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(version("pyterrier_inpars"), "--version", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def commands(context: click.Context, debug: bool) -> None:
    """Generate synthetic queries with a language model and train rerankers on them.

    `quickstart FOLDER` does the work in one command for a folder of text files. The other commands
    are listed in the order of the work. The help of each one ends with an example; together, the
    examples lead from a collection to an evaluation and a report.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (  # in the order of the work
    quickstart.quickstart,
    generate.generate,
    filter.filter,
    judge.judge,
    triples.triples,
    train.train,
    rerank.rerank,
    evaluate.evaluate,
    report.report,
):
    commands.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command.

    Args:
        arguments: Command and options, or None for those of the process.

    Raises:
        SystemExit: With status 2 for invalid options, 130 after an interruption (Ctrl-C) and 1
            after any other error, which standard error reports in one line.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console's encoding may lack characters
            stream.reconfigure(errors="backslashreplace")
    before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        commands.main(arguments, prog_name=NAME, standalone_mode=False)
    except click.Abort:
        resuming = "`quickstart`, `generate` and `train` resume"
        fail(f"interrupted: run the same command again; {resuming}", 130)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        name = next((argument for argument in arguments if argument in commands.commands), "")
        message = isinstance(error, ERRORS) and in_options(str(error), commands.commands.get(name))
        fail(message or f"{type(error).__name__}: {error} (--debug shows the traceback)", 1)
    finally:
        warnings.formatwarning = before


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """Returns a warning without its place in the code, which is none of the user's."""
    context = click.get_current_context(silent=True)
    return f"{NAME}: warning: {in_options(str(message), context.command if context else None)}\n"
