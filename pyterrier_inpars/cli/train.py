"""``train``: a reranker trained on triples or pairs."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

import click

from pyterrier_inpars import demo
from pyterrier_inpars._names import did_you_mean
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import (
    COUNT,
    DEVICE,
    DTYPE,
    FILE,
    FOLDER,
    MODEL,
    OneOf,
    check_new,
    demo_or_name,
    output_folder,
)
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.rerankers import load_reranker
from pyterrier_inpars.rerankers.base import is_main_process
from pyterrier_inpars.training.losses import FROM_TEACHER, IN_BATCH, LOSSES
from pyterrier_inpars.training.recipes import RECIPES

LOSSES_OF_LABELS = [*(loss for loss in LOSSES if loss not in FROM_TEACHER), IN_BATCH]
"""The losses that need no scores of a teacher, which triples and pairs do not have."""
RECIPES_OF_LABELS = [
    name
    for name, methods in RECIPES.items()
    if not any(settings.get("loss") in FROM_TEACHER for settings in methods.values())
]
EXAMPLE = r"""
pyterrier-inpars train --triples triples.tsv --base_model demo \
    --learning_rate 1e-5 --output_dir model
"""


@click.command(
    cls=Command,
    example=EXAMPLE,
    context_settings={"ignore_unknown_options": True},
    options_metavar="[OPTIONS] [--FIELD VALUE]...",
)
@section(
    "Examples and model",
    click.option("--triples", type=FILE, help="TSV file: query, positive text, negative text."),
    click.option("--pairs", type=FILE, help="TSV file: query, text, label (1 relevant, 0 not)."),
    click.option(
        "--output_dir",
        type=FOLDER,
        required=True,
        callback=output_folder,
        help="Folder for the trained reranker.",
    ),
)
@section(
    "Reranker",
    click.option(
        "--base_model",
        "model",
        type=MODEL,
        default="t5-base",
        help="Name on the hub, path, or `demo`.",
    ),
    click.option(
        "--max_doc_length",
        "max_length",
        type=COUNT,
        help="Maximum number of tokens of query and document together. By default, the maximum of "
        "the model.",
    ),
    DTYPE,
    DEVICE,
)
@section(
    "Training",
    click.option(
        "--recipe",
        type=OneOf("RECIPE", RECIPES_OF_LABELS),
        help=f"Published settings: {', '.join(RECIPES_OF_LABELS)}. Options that are given take "
        "precedence.",
    ),
    click.option(
        "--loss",
        type=OneOf("LOSS", LOSSES_OF_LABELS),
        help=f"Training loss: {', '.join(LOSSES_OF_LABELS)} (of a bi-encoder). By default, that of "
        "the model's class.",
    ),
    click.option(
        "--held_out",
        type=float,
        help="Share of the queries to validate on; 0 trains on all, as the toolkit does. By "
        "default, a tenth, or about 200 queries if that is less.",
    ),
    click.option(
        "--seed",
        default=42,
        metavar="N",
        help="Random seed of the order of examples and of dropout.",
    ),
)
@click.argument("training_arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
@quiet()
def train(
    triples: str | None,
    pairs: str | None,
    model: str,
    recipe: str | None,
    loss: str | None,
    held_out: float | None,
    seed: int,
    dtype: str,
    output_dir: str,
    training_arguments: Sequence[str],
    **reranker_options: Any,
) -> None:
    """Train a reranker.

    Any field of transformers.TrainingArguments is an option, too, such as --learning_rate 1e-5.
    Running the same command again resumes an interrupted run from its checkpoints in
    OUTPUT_DIR/checkpoints. They are removed at the end unless an option --save_... is given. On
    several GPUs: torchrun --nproc_per_node 2 -m pyterrier_inpars train ...
    """
    if (triples is None) == (pairs is None):
        raise click.UsageError("exactly one of --triples and --pairs is required")
    there = os.listdir(output_dir) if os.path.exists(output_dir) else []
    check_new(output_dir, not set(there) <= {"checkpoints"})
    checkpoints = os.path.join(output_dir, "checkpoints")
    training = _training(training_arguments)
    given = {"recipe": recipe, "loss": loss, "held_out": held_out}
    training |= {name: value for name, value in given.items() if value is not None}
    for flag, name in (("fp16", "float16"), ("bf16", "bfloat16")):
        dtype = name if training.pop(flag, False) else dtype
    reranker = load_reranker(
        demo_or_name(demo.encoder, model),
        training={**training, "output_dir": checkpoints, "seed": seed},
        dtype=dtype,
        verbose=True,
        **reranker_options,
    )
    examples = (
        toolkit_files.read_triples(triples) if triples else toolkit_files.read_pairs(str(pairs))
    )
    reranker.fit(examples).save(output_dir, overwrite=True)
    if not is_main_process():
        return
    if not any(name.startswith("save_") for name in training):
        shutil.rmtree(checkpoints)
    loss = f"mean training loss {reranker.train_loss:.4f}"
    click.echo(f"{output_dir}: {type(reranker).__name__}, {loss}")  # fit() printed the verdict


def _training(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses options that are fields of ``TrainingArguments``; returns those that are given."""
    from transformers import HfArgumentParser, TrainingArguments

    kind: Any = TrainingArguments
    parser = HfArgumentParser(kind, allow_abbrev=False, add_help=False)
    parser.error = _usage_error  # type: ignore[method-assign]
    missing = Namespace(**{field.name: None for field in fields(kind)})
    found, unknown = parser.parse_known_args(list(arguments), missing)
    if unknown:
        known = {option for action in parser._actions for option in action.option_strings}
        hint = did_you_mean(unknown[0].partition("=")[0], known)
        _usage_error(f"unrecognized arguments: {' '.join(unknown)}: {hint}see --help")
    given = vars(found)
    return {name: value for name, value in given.items() if value is not None}


def _usage_error(message: str) -> NoReturn:
    raise click.UsageError(message)
