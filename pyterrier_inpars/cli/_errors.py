"""Errors and warnings in the words of the command line: one line, options for parameters."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

import click

NAME = "pyterrier-inpars"
ERRORS = (ValueError, TypeError, OSError, KeyError, ImportError, RuntimeError, MemoryError)

ALIASES = (
    ("source", "--dataset_source"),
    ("examples", "--fewshot_examples"),
    ("topics", "--fewshot_examples"),
    ("topics", "--queries"),
)
"""Parameters of the classes, and the options that set them in the commands that have these."""
_LEFT_OUT = (
    "--no_log_probs, or --parameters '{\"seed\": null}', for example, leave out a field that it "
    "does not accept"
)
PHRASES = (
    (r'Prompt\.load\("(\S+)", name\) as the prompt', r"--prompt \1 --prompt_name NAME"),
    (r"give a validation, or held_out", "give --held_out"),
    (r" \(datasets\.Passages\), or set max_length", ""),
    (r": let it return more, such as bm25\(num_results=\S+\), or lower depth", ""),
    (r"until fit\(\) trains it", "until `train` trains it"),
    (
        r"needs more than max_new_tokens=(\d+), or template_options=\{.*?\} if its .* variable",
        r"needs more than --max_new_tokens \1",
    ),
    (
        r"such as reranker >> ScoreFilter\(k\) or RelevanceJudge\(model\) >> ScoreFilter\(\S+\)",
        "such as by --filter_strategy reranker",
    ),
    (r"(?:sampling=)?\{'(temperature|top_p|seed)': ([\d.]+)\}", r"--\1 \2"),
    (r" \(model= of OpenAIBackend\)", ""),
    (
        r"the parameters \(\{'seed': None\}, for example, leaves out a field that it does not "
        r"accept\)",
        f"the options ({_LEFT_OUT})",
    ),
    (r"or change the settings, and", f"or change the options ({_LEFT_OUT}), and"),
    (r"; the attribute failed lists the documents of such prompts", ""),
    (r"from the same index\(\) again", "from the same command with --retry_failed"),
    (r" \(attribute failed\)", ""),
    (r"run index\(\) again", "run the same command again"),
)
"""Python code in errors and warnings, and what a command has in its place."""


def in_options(message: str, command: click.Command | None) -> str:
    """Replaces the parameters that an error or warning names by the options of the command."""
    params = command.params if command else []
    options = {str(p.name): p.opts[0] for p in params if isinstance(p, click.Option)}
    if command and command.name == "train" and (transformers := sys.modules.get("transformers")):
        fields_of_trainer = transformers.TrainingArguments.__dataclass_fields__
        options |= {field: f"--{field}" for field in fields_of_trainer if field not in options}
    known = set(options.values())
    for parameter, option in ALIASES:
        if option in known:
            options[parameter] = option
    for text, with_options in PHRASES:
        message = re.sub(text, with_options, message)
    message = re.sub(r"^(\w+)(?= must )", lambda m: options.get(m[1], m[1]), message)
    message = re.sub(
        r"(?<![\w.'\"-])(\w+)=(,?)",
        lambda m: f"{options[m[1]]}{m[2] or ' '}" if m[1] in options else m[0],
        message,
    )
    return message.replace("give it a file with topics=...", "give a folder in BEIR's layout")


def fail(message: str, code: int) -> NoReturn:
    """Prints an error in one line and ends the process."""
    click.echo(f"{NAME}: {' '.join(message.split())}", err=True)
    sys.exit(code)
