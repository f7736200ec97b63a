"""``generate``: queries for documents."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyterrier as pt

from pyterrier_inpars import datasets, demo
from pyterrier_inpars._counted import counted
from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import (
    BATCH_SIZE,
    COUNT,
    DATASET,
    ESTIMATE,
    FILE,
    MODEL,
    PATH,
    PRECISION,
    SERVER,
    Completed,
    check_new,
    demo_or_name,
    echo_estimate,
    is_given,
    is_server,
    of_runtime,
    output_file,
    output_folder,
    refuse,
    required_output,
)
from pyterrier_inpars.cli._source import Source, rows
from pyterrier_inpars.datasets import toolkit_files
from pyterrier_inpars.datasets._download import DownloadError
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.prompts.templates import (
    Prompt,
    StaticPrompt,
    load_prompt,
    prompt_names,
    read_text,
)
from pyterrier_inpars.queries.artifact import SyntheticQueries

LINES = (".jsonl", ".jsonl.gz")
CONTEXT = 2048
"""Default of the maximum number of tokens of prompt and query together."""
PROMPT = Completed("PROMPT", lambda: ["auto", *prompt_names()])


def _queries_output(
    context: click.Context, parameter: click.Parameter, path: str | None
) -> str | None:
    """Checks the output of ``generate``, if it is given: a JSON Lines file or a folder."""
    if path is None:
        return None
    if not path.lower().endswith(LINES):
        return output_folder(context, parameter, path)
    output_folder(context, parameter, f"{path}.queries")
    return output_file(context, parameter, path)


def _extract(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Converts the value of ``--extract``."""
    kind, colon, rest = (value or "").partition(":")
    if colon and kind == "json":
        return {"json": rest}
    if colon and kind == "regex":
        try:
            return re.compile(rest)
        except re.error as error:
            raise click.BadParameter(f"{rest!r} is not a regular expression: {error}") from error
    return value


EXAMPLE = r"""
pyterrier-inpars generate --base_model demo --prompt three-shot \
    --dataset collection --output queries.jsonl
"""


@click.command(cls=Command, example=EXAMPLE)
@DATASET
@section(
    "Collection",
    click.option(
        "--max_generations",
        type=COUNT,
        default=100_000,
        help="Number of documents, sampled uniformly from the collection.",
    ),
)
@section(
    "Output",
    click.option(
        "--output",
        type=PATH,
        callback=_queries_output,
        help="JSON Lines file (.jsonl, .jsonl.gz); any other name is a folder of SyntheticQueries.",
    ),
    click.option(
        "--keep_answer",
        is_flag=True,
        help="Store the model's whole text too, in the column `answer`.",
    ),
    click.option(
        "--shard_size", type=COUNT, default=1000, help="Number of documents per stored shard."
    ),
    click.option(
        "--retry_failed",
        is_flag=True,
        help="Add to an --output of the same command the queries of documents at which the server "
        "failed.",
    ),
    ESTIMATE,
)
@section(
    "Language model",
    click.option(
        "--base_model",
        "model",
        type=MODEL,
        default="EleutherAI/gpt-j-6B",
        help="Name on the hub, path, `demo`, or the address of an OpenAI-compatible server, such "
        "as http://127.0.0.1:8000/v1.",
    ),
    click.option("--revision", metavar="NAME", help="Branch, tag or commit of the model."),
    PRECISION,
    BATCH_SIZE,
)
@SERVER
@section(
    "Prompt",
    click.option("--chat", is_flag=True, help="Same as --prompt chat: for an instruct model."),
    click.option(
        "--prompt",
        type=PROMPT,
        default="auto",
        help="Name of a prompt, or path: a YAML file with prompts, or a text file with {document} "
        "and {query}. `auto` is `chat` for an instruct model, else `three-shot`.",
    ),
    click.option(
        "--prompt_type",
        "types",
        type=PROMPT,
        multiple=True,
        help="Name of a prompt for one type of query, such as `question`, `keywords`, `claim` or "
        "`title`, or path of a file, instead of --prompt; repeat the option for several types per "
        "document.",
    ),
    click.option("--prompt_name", metavar="NAME", help="Name of the prompt in a YAML file."),
    click.option(
        "--fewshot_examples",
        type=FILE,
        help="JSON Lines file `query_id, doc_id, query, document` to draw examples from, with the "
        "optional field `answer`, a whole answer of an instruct model. By default, the published "
        "examples for --dataset, or its judged pairs.",
    ),
    click.option(
        "--n_fewshot_examples",
        type=COUNT,
        default=3,
        help="Number of examples in a few-shot prompt.",
    ),
    click.option(
        "--max_doc_length",
        "max_doc_tokens",
        type=COUNT,
        default=256,
        help="Maximum number of tokens of a document.",
    ),
    click.option(
        "--max_query_length",
        "max_query_tokens",
        type=COUNT,
        default=200,
        help="Maximum number of tokens of a query in a few-shot example.",
    ),
    click.option(
        "--max_prompt_length",
        "context",
        type=COUNT,
        default=CONTEXT,
        help="Maximum number of tokens of prompt and query together; the document is truncated to "
        "fit. For a server, there is no limit unless one is given.",
    ),
)
@section(
    "Queries",
    click.option("--num_queries", type=COUNT, default=1, help="Number of queries per document."),
    click.option(
        "--max_new_tokens", type=COUNT, default=64, help="Maximum number of tokens of a query."
    ),
    click.option("--temperature", default=0.0, help="Sampling temperature; 0 is greedy decoding."),
    click.option("--top_p", default=1.0, help="Nucleus threshold of the sampling."),
    click.option(
        "--seed",
        default=1,
        metavar="N",
        help="Random seed of documents, few-shot examples and sampling.",
    ),
    click.option(
        "--stop", multiple=True, help="String that ends the model's text; can be repeated."
    ),
    click.option(
        "--extract",
        callback=_extract,
        help="Where the query is in the model's text: a marker such as `Query:`, json:FIELD, or "
        "regex:PATTERN.",
    ),
)
def generate(
    dataset: str | None,
    dataset_source: str,
    docno: Any,
    text: Any,
    fix_text: bool,
    model: str,
    chat: bool,
    prompt: str,
    prompt_name: str | None,
    types: tuple[str, ...],
    fewshot_examples: str | None,
    n_fewshot_examples: int,
    max_query_tokens: int,
    max_generations: int,
    stop: tuple[str, ...],
    temperature: float,
    top_p: float,
    seed: int,
    shard_size: int,
    estimate: bool,
    retry_failed: bool,
    output: str | None,
    **generator_options: Any,
) -> None:
    """Generate queries for documents with a language model.

    Running the same command again resumes an interrupted run. A JSON Lines file is written at the
    end. Until then, the queries are stored in the folder OUTPUT.queries, which is kept, since it
    records the settings. Documents whose prompts failed are listed in OUTPUT.failed.jsonl.
    """
    generator_options = of_runtime(model, generator_options)
    if types:
        refuse(
            *("chat", "prompt"),
            because="cannot be used with --prompt_type, which names the prompts",
        )
    elif chat and prompt != "chat":
        refuse("prompt", because="cannot be used with --chat, which is --prompt chat")
    names = types or ("chat" if chat else prompt,)
    option = "--prompt_type" if types else "--chat" if chat else "--prompt"
    _check_prompt_options(names, option, prompt_name, fewshot_examples)
    sent = generator_options.get("parameters") or {}
    if not sent.get("temperature", temperature):
        refuse("top_p", because="has no effect without a --temperature above 0")
    if estimate:
        refuse("retry_failed", because="cannot be used with --estimate, which counts all documents")
    output = required_output(output, estimate)
    as_lines = output is None or output.lower().endswith(LINES)
    queries = None
    if output is not None:
        queries = SyntheticQueries(
            f"{output}.queries" if as_lines else output, shard_size=shard_size, verbose=True
        )
        if is_server(model) and not is_given("context"):
            generator_options |= _earlier_limit(queries)
        is_there = os.path.exists(output) if as_lines else queries.built()
        if retry_failed and not queries.built():
            raise click.UsageError(
                f"--retry_failed is for a complete --output, which {output} is not: run the "
                "command without it"
            )
        check_new(output, is_there and not retry_failed)
    source = Source(dataset, dataset_source, docno, text, fix_text)
    corpus = source.collection().get_corpus_iter(verbose=True)
    fewshot = {
        "num_examples": n_fewshot_examples,
        "seed": seed,
        "max_query_tokens": max_query_tokens,
    }
    load = functools.partial(
        _prompt,
        option=option,
        entry=prompt_name,
        source=source,
        examples=fewshot_examples,
        fewshot=fewshot,
    )
    generator = QueryGenerator(
        demo_or_name(demo.language_model, model),
        prompt=_by_type(types, prompt_name, load) if types else load(*names),
        sampling=Sampling(temperature, top_p, seed),
        stop=list(stop) or None,
        keep_prompt=as_lines,
        **generator_options,
    )
    documents: list[dict[str, str]] = datasets.sample(corpus, max_generations, seed)
    if not documents:
        raise ValueError(f"{dataset} has no documents")
    if output is None or queries is None:
        echo_estimate(generator.estimate(documents))
        return
    pt.Compose(generator, queries).index(documents)
    failed = queries.failed.drop_duplicates("docno")
    failed_file = Path(f"{output}.failed.jsonl")
    if not len(queries):
        _write_failed(failed, failed_file)
        reason = "the model wrote nothing, or repeated examples of the prompt"
        if len(failed):
            docno, error = failed.iloc[0]
            reason = f"{counted(len(failed), 'prompt')} failed, such as that of {docno!r}: {error}"
        raise ValueError(
            f"no query for any of the {len(documents):,} documents: {reason}; give another "
            "--prompt or --base_model"
        )
    if as_lines:
        toolkit_files.write_queries(rows(queries.path), output)
    click.echo(
        f"{output}: {counted(len(queries), 'query')} for {counted(len(documents), 'document')}"
    )
    _write_failed(failed, failed_file)


def _earlier_limit(queries: SyntheticQueries) -> dict[str, int]:
    """Returns the limit of the prompt of a run that began when servers had one by default."""
    settings = (queries._manifest() or {}).get("settings") or {}
    return {"context": CONTEXT} if settings.get("max_prompt_tokens") == CONTEXT else {}


def _write_failed(failed: pd.DataFrame, path: Path) -> None:
    """Writes and counts the documents whose prompts failed; removes an older list if none did."""
    if failed.empty:
        path.unlink(missing_ok=True)
        return
    failed.to_json(path, orient="records", lines=True, force_ascii=False)
    docno, error = failed.iloc[0]
    click.echo(
        f"{path}: {counted(len(failed), 'document')} whose prompts failed, such as {docno!r}: "
        f"{error}. The same command with --retry_failed tries those again at which the server "
        "failed"
    )


def _is_yaml(name: str) -> bool:
    return Path(name).suffix.lower() in (".yaml", ".yml")


def _has_no_examples(name: str) -> bool:
    """Returns whether a prompt cannot have examples: ``auto``, or a text file."""
    return name == "auto" or (Path(name).is_file() and not _is_yaml(name))


def _draws_examples(name: str, entry: str | None, examples: str | None) -> bool:
    """Returns whether a prompt has examples that the command draws.

    Args:
        name: Name of a prompt, or path of a text or YAML file.
        entry: Name of the prompt in a YAML file.
        examples: File of few-shot examples.
    """
    known = entry if entry and _is_yaml(name) else name
    return not _has_no_examples(name) and bool(
        examples or known.startswith(("few-shot", "promptagator-"))
    )


def _check_prompt_options(
    names: Sequence[str], option: str, entry: str | None, examples: str | None
) -> None:
    """Refuses options that would have an effect on no prompt.

    Args:
        names: Names and paths of the prompts.
        option: Option that named them.
        entry: Name of the prompt in a YAML file.
        examples: File of few-shot examples.
    """
    given = option if option == "--chat" else f"{option} {' '.join(names)}"
    if not any(map(_is_yaml, names)):
        refuse("prompt_name", because=f"is for a YAML file with prompts, not for {given}")
    if all(map(_has_no_examples, names)):
        refuse(
            *("fewshot_examples", "n_fewshot_examples", "max_query_tokens"),
            because=f"has no effect on {given}: give a prompt with examples, such as "
            "--prompt few-shot, or --chat for an instruct model",
        )
    if not any(_draws_examples(name, entry, examples) for name in names):
        refuse(
            *("n_fewshot_examples", "max_query_tokens"),
            because=f"has no effect on {given}, to which no examples are added: give "
            "--fewshot_examples, or --prompt few-shot",
        )


def _by_type(
    names: Sequence[str], entry: str | None, load: Callable[[str], str | Prompt]
) -> dict[str, str | Prompt]:
    """Loads prompts, one for each type of query.

    A type is called as its prompt: by its name, by its name in a YAML file, or as a text file
    without the suffix.

    Args:
        names: Names and paths of the prompts.
        entry: Name of the prompt in a YAML file.
        load: Function from a name to its prompt.
    """
    names = list(dict.fromkeys(names))
    known = [entry if entry and _is_yaml(name) else Path(name).stem for name in names]
    types = [name.replace("-", "_") for name in known]
    if len(set(types)) < len(types):
        raise click.UsageError(
            f"two of --prompt_type {' '.join(names)} would be the same type: rename one of them"
        )
    prompts = dict(zip(types, map(load, names), strict=True))
    if len(shared := [t for t, p in prompts.items() if not isinstance(p, str) and p.topics]) > 1:
        warnings.warn(
            f"the prompts of the types {', '.join(shared)} have examples from the same file, and "
            "models imitate their examples: compare the queries of these types",
            stacklevel=2,
        )
    return prompts


def _prompt(
    name: str,
    option: str,
    entry: str | None,
    source: Source,
    examples: str | None,
    fewshot: dict[str, Any],
) -> str | Prompt:
    """Loads a prompt by name or path; returns ``"auto"`` as it is.

    Args:
        name: Name of a prompt, or path of a text or YAML file.
        option: Option that named it.
        entry: Name of the prompt in a YAML file.
        source: Collection of the few-shot examples.
        examples: File of few-shot examples.
        fewshot: Parameters of ``FewShotPrompt``, used if the prompt has examples.
    """
    file = Path(name)
    if _has_no_examples(name):
        return StaticPrompt(read_text(file)) if name != "auto" else name
    options: dict[str, Any] = {}
    if _draws_examples(name, entry, examples):
        options = {"examples": source.examples(examples), **fewshot}
    if not file.is_file():
        try:
            return load_prompt(name, **options)
        except DownloadError as error:
            raise DownloadError(
                f"{option} {name} needs a download; {option} three-shot needs none. {error}"
            ) from error
    if entry is None:
        raise click.UsageError(f"--prompt_name is required: the name of a prompt in {name}")
    return Prompt.load(file, entry, **options)
