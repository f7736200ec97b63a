"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pyterrier_inpars._counted import counted
from pyterrier_inpars._names import did_you_mean
from pyterrier_inpars.backends._estimate import Estimate
from pyterrier_inpars.backends.huggingface import BackendOptions
from pyterrier_inpars.backends.openai import LIMITS, ServerOptions
from pyterrier_inpars.cli._help import options, section
from pyterrier_inpars.datasets import beir


class Completed(click.ParamType):
    """Text that the shell completes: one of some names, else the path of a file.

    Args:
        metavar: What the value is, as ``--help`` shows it.
        names: Returns the names; it is called when the shell asks for them.
    """

    name = "text"

    def __init__(self, metavar: str, names: Callable[[], Iterable[str]] = tuple) -> None:
        self.metavar = metavar
        self.names = names

    def get_metavar(self, *arguments: Any, **options: Any) -> str:
        return self.metavar

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


class OneOf(Completed):
    """One of some names; the error about another one suggests the nearest."""

    def __init__(self, metavar: str, names: Sequence[str]) -> None:
        super().__init__(metavar, lambda: names)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = list(self.names())
        if value not in names:
            hint = did_you_mean(value, names)
            self.fail(
                f"{value!r} is not one of {', '.join(names)}. {hint.capitalize()}", param, ctx
            )
        return value


class Count(click.ParamType):
    """Whole number of at least 1."""

    name = "integer"

    def get_metavar(self, *arguments: Any, **options: Any) -> str:
        return "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = click.INT.convert(value, param, ctx)
        if number < 1:
            self.fail(f"must be at least 1, not {number}", param, ctx)
        return number


def collection_names() -> list[str]:
    """Returns the names of the collections that need no --dataset_source."""
    import ir_datasets

    return [*beir.COLLECTIONS, *ir_datasets.registry]


REPLACED = {
    "model": "served_model",
    "logprobs": "log_probs",
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop",
    **dict.fromkeys(LIMITS, "max_new_tokens"),
}
"""Fields of a request, and the parameters of a command that they replace in ``--parameters``."""
COUNT = Count()
FILE = Completed("FILE")
FOLDER = Completed("FOLDER")
PATH = Completed("PATH")
MODEL = Completed("MODEL", lambda: ["demo"])
RUN = Completed("RUN", lambda: ["bm25"])
COLLECTION = Completed("DATASET", collection_names)
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
LLM_DEVICES = ("cpu", "cuda", "mps")
RERANKER_DEVICES = (*LLM_DEVICES, "xla")


def output_file(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Checks, before any work, that a file can be written, if one is given."""
    if path is None:
        return None
    if os.path.isdir(path):
        raise click.BadParameter(f"{path} is a folder, but the output is a file")
    _check_writable(Path(path).absolute().parent, path)
    return path


def output_folder(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """Checks, before any work, that files can be written to a folder."""
    if os.path.isfile(path):
        raise click.BadParameter(f"{path} is a file, but the output is a folder")
    _check_writable(Path(path).absolute(), path)
    return path


def columns(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> str | int | list[str | int] | None:
    """Returns the chosen columns: names, or positions where they are numbers."""
    columns = [int(value) if value.isdecimal() else value for value in values]
    return columns if len(columns) > 1 else columns[0] if columns else None


def json_object(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    """Returns the fields of a JSON object."""
    if value is None:
        return None
    try:
        found = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r:.200} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter(
            f"must be an object, such as '{{\"temperature\": null}}', not {value!r:.200}"
        )
    return found


def _check_writable(folder: Path, path: str) -> None:
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise click.BadParameter(f"cannot write {path}: {error.strerror}") from error


def _device(names: Sequence[str]) -> Callable[[Callable], Callable]:
    """Returns the option ``--device`` of a command that runs on some devices."""
    *others, last = names
    return click.option(
        "--device",
        type=Completed("DEVICE", lambda: names),
        help=f"{', '.join(others)} or {last}. By default, the best available.",
    )


DATASET = section(
    "Collection",
    click.option(
        "--dataset",
        type=COLLECTION,
        help="Name of a BEIR collection, name in --dataset_source, or path: a folder in BEIR "
        "format or of text files, or a CSV, TSV or JSON Lines file with documents.",
    ),
    click.option(
        "--dataset_source",
        type=OneOf("SOURCE", ["ir_datasets", "pyserini"]),
        default="ir_datasets",
        help="Source of collections that are given by name: ir_datasets or pyserini.",
    ),
    click.option(
        "--docno_column",
        "docno",
        multiple=True,
        callback=columns,
        metavar="COLUMN",
        help="Column of the document id in a file: its name, or its position from 0 in a TSV file "
        "without a header. By default, found by its name.",
    ),
    click.option(
        "--text_column",
        "text",
        multiple=True,
        callback=columns,
        metavar="COLUMN",
        help="Column of the text in a file, or field in ir_datasets; several are joined.",
    ),
    click.option("--fix_text", is_flag=True, help="Repair mojibake in texts with ftfy."),
)
INDEX = section(
    "BM25",
    click.option(
        "--index",
        type=PATH,
        help="BM25 index: a folder (Lucene, PISA, or any PyTerrier artifact), or the name of a "
        "prebuilt Pyserini index. By default, an index of --dataset is built once and kept in "
        "inpars/indexes of PyTerrier's home folder.",
    ),
    click.option("--threads", type=COUNT, help="Number of retrieval threads."),
)
DTYPE = click.option(
    "--dtype",
    type=OneOf("DTYPE", DTYPES),
    default="auto",
    help=f"Precision of the model: {', '.join(DTYPES)}; auto is bfloat16 where the processor "
    "computes faster in it, else float32.",
)
DEVICE = _device(RERANKER_DEVICES)
_PRECISION = options(
    click.option("--fp16", "dtype", flag_value="float16", help="Same as --dtype float16."),
    click.option("--int8", "dtype", flag_value="int8", help="Same as --dtype int8."),
    DTYPE,  # after its flags, since older versions of click use the default of the last option
    click.option(
        "--torch_compile", "compile", is_flag=True, help="Compile the model with torch.compile."
    ),
)
PRECISION = options(_PRECISION, _device(LLM_DEVICES))
SERVER = section(
    "Server",
    click.option(
        "--served_model", metavar="NAME", help="Name of the model on a server, if it has several."
    ),
    click.option(
        "--api_key_env",
        metavar="NAME",
        help="Environment variable with the API key of a server, if it needs one.",
    ),
    click.option(
        "--concurrency", type=COUNT, default=64, help="Number of requests in flight to a server."
    ),
    click.option(
        "--requests_per_minute",
        type=float,
        metavar="N",
        help="Rate limit of a server in requests. By default, none.",
    ),
    click.option(
        "--tokens_per_minute",
        type=float,
        metavar="N",
        help="Rate limit of a server in tokens. By default, none.",
    ),
    click.option(
        "--endpoint",
        type=click.Choice(["chat", "completions"]),
        default="chat",
        help="Endpoint of a server: `chat` for an instruct model, `completions` for a base model.",
    ),
    click.option(
        "--no_log_probs",
        "log_probs",
        is_flag=True,
        default=True,
        flag_value=False,
        show_default=False,
        help="Request no log-probabilities, for a server that refuses them.",
    ),
    click.option(
        "--parameters",
        metavar="JSON",
        callback=json_object,
        help="Further fields of each request to a server, such as "
        '\'{"reasoning_effort": "low", "seed": null}\'; null leaves out a field.',
    ),
)
SCORING = options(
    _PRECISION,
    DEVICE,
    click.option("--batch_size", type=COUNT, default=16, help="Number of pairs per batch."),
)
BATCH_SIZE = click.option(
    "--batch_size", type=COUNT, help="Number of prompts per batch. By default, 64."
)
ESTIMATE = click.option(
    "--estimate",
    is_flag=True,
    help="Print the number of requests and tokens, write nothing, and end. Needs no --output.",
)
QUERIES = click.option(
    "--input",
    "queries",
    type=PATH,
    required=True,
    help="Synthetic queries: a JSON Lines file, or a folder of SyntheticQueries.",
)
BM25 = "`bm25`: the published run for --dataset, or a new BM25 run if there is none"


def check_new(path: str, exists: bool) -> None:
    """Refuses an output that is there already."""
    if exists:
        raise FileExistsError(f"{path} already exists: remove it or choose another path")


def required_output(output: str | None, estimate: bool) -> str | None:
    """Returns the output, None with ``--estimate``, which writes nothing.

    Raises:
        click.UsageError: It is missing.
    """
    if estimate:
        return None
    if output is None:
        raise click.UsageError("Missing option '--output'.")
    return output


def demo_or_name(demo_model: Callable[[], str], model: str) -> str:
    """Returns the path of the demo's model in place of ``demo``."""
    return demo_model() if model == "demo" else model


def echo_estimate(found: Estimate) -> None:
    """Prints the requests and tokens of a run."""
    tokens = found.completion_tokens
    most = "no limit of the tokens" if tokens is None else f"at most {counted(tokens, 'token')}"
    click.echo(
        f"{counted(found.requests, 'request')} with {counted(found.prompt_tokens, 'token')}, "
        f"and {most} of completions"
    )


def of_runtime(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that a model takes: those of a server, or those of transformers.

    Raises:
        click.UsageError: An option of the other runtime is on the command line.
    """
    server, local = set(ServerOptions.__annotations__), set(BackendOptions.__annotations__)
    refused = local - server if is_server(model) else server - local
    kind = "a server" if is_server(model) else "a model of transformers"
    refuse(*sorted(refused & set(given)), because=f"cannot be used with {kind}: {model}")
    for field in given.get("parameters") or ():
        # a limit of the prompt depends on the number of new tokens, too
        if field in REPLACED and not (field in LIMITS and is_given("context")):
            refuse(REPLACED[field], because=f"has no effect: --parameters has the field {field!r}")
    if is_server(model) and not is_given("context"):  # its default is for a local model
        refused.add("context")
    return {name: value for name, value in given.items() if name not in refused}


def is_server(model: str) -> bool:
    """Returns whether a model is the address of a server."""
    return model.startswith(("http://", "https://"))


def is_given(name: str) -> bool:
    """Returns whether an option is on the command line, by the name of its parameter."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def refuse(*names: str, because: str) -> None:
    """Refuses options that would have no effect, by the names of their parameters.

    Raises:
        click.UsageError: One of them is on the command line.
    """
    # of options with one parameter, the last takes a value
    command = click.get_current_context().command
    options = {parameter.name: parameter.opts[0] for parameter in command.params}
    for name in names:
        if is_given(name):
            raise click.UsageError(f"{options[name]} {because}")
