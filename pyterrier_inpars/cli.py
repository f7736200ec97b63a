"""Command line: the six commands of the InPars Toolkit (arXiv 2307.04601), and ``judge``.

``pyterrier-inpars COMMAND --help`` lists the options, which may be written with underscores or
hyphens. The commands call the classes of this package; this module parses options, reads and writes
files and reports errors.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, fields
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from math import nan
from pathlib import Path
from typing import Any, NoReturn

import click
import pandas as pd
import pyterrier as pt
from ir_measures import NumRet

from pyterrier_inpars import datasets, demo, evaluation
from pyterrier_inpars._files import write_text
from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.backends.huggingface import BackendOptions
from pyterrier_inpars.backends.openai import ServerOptions
from pyterrier_inpars.datasets import beir, published, toolkit_files
from pyterrier_inpars.datasets._download import DownloadError
from pyterrier_inpars.datasets.lucene import LuceneCollection, LuceneIndex
from pyterrier_inpars.filtering import (
    CopyFilter,
    Filter,
    LengthFilter,
    RoundTripFilter,
    ScoreFilter,
)
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.judging import RelevanceJudge
from pyterrier_inpars.mining import NegativeMiner
from pyterrier_inpars.prompts.templates import Prompt, StaticPrompt, load_prompt, read_text
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.rerankers import RerankTop, load_reranker
from pyterrier_inpars.rerankers.base import is_main_process

NAME = "pyterrier-inpars"
COUNT = click.IntRange(min=1)
SETTINGS = {
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "show_default": True,
    "max_content_width": 100,
}
LINES = (".jsonl", ".jsonl.gz")
ERRORS = (ValueError, TypeError, OSError, KeyError, ImportError, RuntimeError)

ALIASES = (
    ("source", "--dataset_source"),
    ("examples", "--fewshot_examples"),
    ("topics", "--fewshot_examples"),
    ("topics", "--queries"),
)
"""Parameters of the classes, and the options that set them in the commands that have these."""
PHRASES = (
    (r'Prompt\.load\("(\S+)", name\) as the prompt', r"--prompt \1 --prompt_name NAME"),
    (r"load the reranker again, and give", "give"),
    (r"(?:sampling=)?\{'(temperature|top_p|seed)': (\S+?)\}", r"--\1 \2"),
)
"""Python code in errors, and the options that have its effect."""


def options(*decorators: Callable) -> Callable[[Callable], Callable]:
    """Combines options into one decorator; ``--help`` lists them in this order."""
    return lambda command: functools.reduce(lambda f, option: option(f), decorators[::-1], command)


def _output_file(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """Checks, before any work, that a file can be written."""
    if os.path.isdir(path):
        raise click.BadParameter(f"{path} is a folder, but the output is a file")
    _check_writable(Path(path).absolute().parent, path)
    return path


def _output_folder(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """Checks, before any work, that files can be written to a folder."""
    if os.path.isfile(path):
        raise click.BadParameter(f"{path} is a file, but the output is a folder")
    _check_writable(Path(path).absolute(), path)
    return path


def _queries_output(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """Checks the output of ``generate``: a JSON Lines file or a folder."""
    if not path.lower().endswith(LINES):
        return _output_folder(context, parameter, path)
    _output_folder(context, parameter, f"{path}.queries")
    return _output_file(context, parameter, path)


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


def _columns(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> str | int | list[str | int] | None:
    """Returns the chosen columns: names, or positions where they are numbers."""
    columns = [int(value) if value.isdecimal() else value for value in values]
    return columns if len(columns) > 1 else columns[0] if columns else None


def _check_writable(folder: Path, path: str) -> None:
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise click.BadParameter(f"cannot write {path}: {error.strerror}") from error


DATASET = options(
    click.option(
        "--dataset",
        help="Name of a BEIR collection, name in --dataset_source, or path: a folder in BEIR "
        "format, or a CSV, TSV or JSON Lines file with documents.",
    ),
    click.option(
        "--dataset_source",
        type=click.Choice(["ir_datasets", "pyserini"]),
        default="ir_datasets",
        help="Source of collections that are given by name.",
    ),
    click.option(
        "--docno_column",
        "docno",
        multiple=True,
        callback=_columns,
        help="Column of the document id in a file: its name, or its position from 0 in a TSV file "
        "without a header. By default, found by its name.",
    ),
    click.option(
        "--text_column",
        "text",
        multiple=True,
        callback=_columns,
        help="Column of the text in a file, or field in ir_datasets; several are joined.",
    ),
    click.option("--fix_text", is_flag=True, help="Repair mojibake in texts with ftfy."),
)
INDEX = options(
    click.option(
        "--index",
        help="BM25 index: a folder (Lucene, PISA, or any PyTerrier artifact), or the name of a "
        "prebuilt Pyserini index. By default, an index of --dataset is built once and kept in "
        "inpars/indexes of PyTerrier's home folder.",
    ),
    click.option("--threads", type=COUNT, help="Number of retrieval threads."),
)
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
    default="auto",
    help="Precision of the model; auto is bfloat16 if the processor supports it, else float32.",
)
DEVICE = click.option("--device", help="cpu, cuda, mps or xla. By default, the best available.")
PRECISION = options(
    click.option("--fp16", "dtype", flag_value="float16", help="Same as --dtype float16."),
    click.option("--int8", "dtype", flag_value="int8", help="Same as --dtype int8."),
    DTYPE,  # after its flags, since older versions of click use the default of the last option
    click.option(
        "--torch_compile", "compile", is_flag=True, help="Compile the model with torch.compile."
    ),
    DEVICE,
)
SERVER = options(
    click.option("--served_model", help="Name of the model on a server, if it has several."),
    click.option(
        "--api_key_env", help="Environment variable with the API key of a server, if it needs one."
    ),
    click.option(
        "--concurrency", type=COUNT, default=64, help="Number of requests in flight to a server."
    ),
)
SCORING = options(
    PRECISION,
    click.option("--batch_size", type=COUNT, default=16, help="Number of pairs per batch."),
)
QUERIES = click.option(
    "--input",
    "queries",
    required=True,
    help="Synthetic queries: a JSON Lines file, or a folder of SyntheticQueries.",
)
BM25 = "`bm25`: the published run for --dataset, or a new BM25 run if there is none"


@dataclass
class Source:
    """Collection and index, as given by the options `DATASET` and `INDEX`."""

    dataset: str | None
    dataset_source: str
    docno: Any
    text: Any
    fix_text: bool
    index: str | None = None
    threads: int | None = None

    def collection(self) -> datasets.Collection:
        """Returns the collection."""
        if self.dataset is None:
            raise click.UsageError("--dataset is required")
        return self.file_or_name(self.dataset)

    def file_or_name(self, name: str) -> datasets.Collection:
        """Returns another collection, read as this one."""
        return datasets.collection(
            name, self.dataset_source, docno=self.docno, text=self.text, fix_text=self.fix_text
        )

    def queries(self, path: str) -> pd.DataFrame:
        """Reads synthetic queries; adds texts from the collection if the file has none."""
        queries = pd.DataFrame(_rows(path))
        if queries.empty:
            raise ValueError(f"{path} has no queries")
        return queries if "text" in queries else self.collection().text_loader().transform(queries)

    def examples(self, path: str | None) -> pd.DataFrame:
        """Returns few-shot examples: from a file, published, or the collection's judged pairs."""
        if path:
            return toolkit_files.read_fewshot(path)
        if self.dataset in beir.COLLECTIONS:
            return published.fewshot_examples(self.dataset)
        return datasets.judged_pairs(self.collection())

    def run(self, path: str, topics: pd.DataFrame | None = None) -> pd.DataFrame:
        """Returns a run: from a file, published, or retrieved by BM25 for the topics.

        Args:
            path: Path of a run, or ``bm25``.
            topics: Topics to retrieve for; by default those of the collection.
        """
        if path.lower() != "bm25":
            return toolkit_files.read_run(path)
        if self.dataset in beir.COLLECTIONS and self.index is None:
            return published.bm25_run(self.dataset)
        if topics is None:
            topics = self.collection().get_topics()
        with self.bm25(1000) as bm25:
            return bm25.transform(topics)

    @contextmanager
    def bm25(self, depth: int) -> Iterator[pt.Transformer]:
        """Yields BM25 over the given index, or over the index of the collection."""
        with _redirected({1: 2}):  # PISA's progress belongs to standard error
            index: Any
            if self.index is None:
                index = self._index()
            elif not os.path.isdir(self.index):
                index = LuceneIndex.prebuilt(self.index)
            elif os.path.exists(os.path.join(self.index, "pt_meta.json")):
                index = pt.Artifact.load(self.index)
            else:
                index = LuceneIndex(self.index)
            with _silenced():
                bm25 = index.bm25(num_results=depth, threads=self.threads)
            yield bm25

    def _index(self) -> Any:
        """Returns the collection's own index, or one that is built on first use and kept."""
        collection = self.collection()
        if isinstance(collection, LuceneCollection):
            return collection.index
        engine: Callable[[str], Any] = LuceneIndex
        if find_spec("pyterrier_pisa"):
            from pyterrier_pisa import PisaIndex

            engine = functools.partial(PisaIndex, text_field="text")
        path = self._index_path(str(engine))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                built = os.path.join(folder, "index")
                self._build(engine(built), collection)
                try:
                    os.rename(built, path)
                except OSError:
                    if not path.exists():  # otherwise another process has built it meanwhile
                        raise
        return engine(str(path))

    def _index_path(self, engine: str) -> Path:
        """Returns where the index is kept; a changed file of the collection has another path."""
        corpus = Path(str(self.dataset)).expanduser()
        files = [corpus] if corpus.is_file() else sorted(corpus.glob("corpus.jsonl*"))
        states = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        source: Any = states or [self.dataset, self.dataset_source]
        key = json.dumps(
            [engine, version("pyterrier_inpars"), self.fix_text, self.docno, self.text, source]
        )
        home = Path(pt.io.pyterrier_home(), "inpars", "indexes")
        return home / sha256(key.encode()).hexdigest()[:16]

    def _build(self, index: Any, collection: datasets.Collection) -> None:
        """Indexes a collection with a progress bar and without the log of the engine."""
        with os.fdopen(os.dup(2), "w") as err, redirect_stderr(err):  # of the progress bar
            documents = collection.get_corpus_iter(verbose=True)
            if (first := next(documents, None)) is None:
                raise ValueError(f"{self.dataset} has no documents to search")
            with _silenced():
                index.index(chain([first], documents))
                index.bm25()  # stores PISA's data about scores in the folder, too


def with_source(command: Callable) -> Callable:
    """Adds the options `DATASET` and `INDEX`, which the command receives as its ``source``."""

    @options(DATASET, INDEX)
    @functools.wraps(command)
    def wrapper(
        dataset: str | None,
        dataset_source: str,
        docno: Any,
        text: Any,
        fix_text: bool,
        index: str | None,
        threads: int | None,
        **others: Any,
    ) -> None:
        source = Source(dataset, dataset_source, docno, text, fix_text, index, threads)
        command(source=source, **others)

    return wrapper


@click.group(NAME, context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(version("pyterrier_inpars"), "--version", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def commands(context: click.Context, debug: bool) -> None:
    """Generate synthetic queries with a language model and train rerankers on them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command()
@DATASET
@click.option(
    "--base_model",
    "model",
    default="EleutherAI/gpt-j-6B",
    help="Name on the hub, path, `demo`, or the address of an OpenAI-compatible server, such as "
    "http://127.0.0.1:8000/v1.",
)
@SERVER
@click.option("--revision", help="Branch, tag or commit of the model.")
@click.option(
    "--chat", "prompt", flag_value="chat", help="Same as --prompt chat: for an instruct model."
)
@click.option(
    "--prompt",
    default="inpars",
    help="Name of a prompt, or path: a YAML file with prompts, or a text file with {document} and "
    "{query}. `auto` is `chat` for an instruct model, else `three-shot`.",
)
@click.option(
    "--prompt_type",
    "types",
    multiple=True,
    help="Name of a prompt for one type of query, such as `question`, `keywords`, `claim` or "
    "`title`, instead of --prompt; repeat the option for several types per document.",
)
@click.option("--prompt_name", help="Name of the prompt in a YAML file.")
@click.option(
    "--fewshot_examples",
    help="JSON Lines file `query_id, doc_id, query, document` to draw examples from. By default, "
    "the published examples for --dataset, or its judged pairs.",
)
@click.option(
    "--n_fewshot_examples", type=COUNT, default=3, help="Number of examples in a few-shot prompt."
)
@click.option(
    "--max_doc_length",
    "max_doc_tokens",
    type=COUNT,
    default=256,
    help="Maximum number of tokens of a document.",
)
@click.option(
    "--max_query_length",
    "max_query_tokens",
    type=COUNT,
    default=200,
    help="Maximum number of tokens of a query in a few-shot example.",
)
@click.option(
    "--max_prompt_length",
    "context",
    type=COUNT,
    default=2048,
    help="Maximum number of tokens of prompt and query together; the document is truncated to fit.",
)
@click.option(
    "--max_new_tokens", type=COUNT, default=64, help="Maximum number of tokens of a query."
)
@click.option("--stop", multiple=True, help="String that ends the model's text; can be repeated.")
@click.option(
    "--extract",
    callback=_extract,
    help="Where the query is in the model's text: a marker such as `Query:`, json:FIELD, or "
    "regex:PATTERN.",
)
@click.option(
    "--max_generations",
    type=COUNT,
    default=100_000,
    help="Number of documents, sampled uniformly from the collection.",
)
@click.option("--num_queries", type=COUNT, default=1, help="Number of queries per document.")
@click.option("--temperature", default=0.0, help="Sampling temperature; 0 is greedy decoding.")
@click.option("--top_p", default=1.0, help="Nucleus threshold of the sampling.")
@click.option("--seed", default=1, help="Random seed of documents, few-shot examples and sampling.")
@PRECISION
@click.option("--batch_size", type=COUNT, show_default="64", help="Number of queries per batch.")
@click.option(
    "--shard_size", type=COUNT, default=1000, help="Number of documents per stored shard."
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Print the number of requests and tokens, write nothing, and end.",
)
@click.option(
    "--output",
    required=True,
    callback=_queries_output,
    help="JSON Lines file (.jsonl, .jsonl.gz); any other name is a folder of SyntheticQueries.",
)
def generate(
    dataset: str | None,
    dataset_source: str,
    docno: Any,
    text: Any,
    fix_text: bool,
    model: str,
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
    output: str,
    **generator_options: Any,
) -> None:
    """Generate queries for documents with a language model.

    Running the same command again resumes an interrupted run. A JSON Lines file is written at the
    end. Until then, the queries are stored in the folder OUTPUT.queries, which is kept, since it
    records the settings.
    """
    generator_options = _of_runtime(model, generator_options)
    as_lines = output.lower().endswith(LINES)
    queries = SyntheticQueries(f"{output}.queries" if as_lines else output, shard_size=shard_size)
    _check_new(output, os.path.exists(output) if as_lines else queries.built())
    source = Source(dataset, dataset_source, docno, text, fix_text)
    corpus = source.collection().get_corpus_iter(verbose=True)
    fewshot = {
        "num_examples": n_fewshot_examples,
        "seed": seed,
        "max_query_tokens": max_query_tokens,
    }
    load = functools.partial(
        _prompt, entry=prompt_name, source=source, examples=fewshot_examples, fewshot=fewshot
    )
    generator = QueryGenerator(
        _demo(demo.language_model, model),
        prompt={name.replace("-", "_"): load(name) for name in types} if types else load(prompt),
        sampling=Sampling(temperature, top_p, seed),
        stop=list(stop) or None,
        keep_prompt=as_lines,
        verbose=True,
        **generator_options,
    )
    documents = datasets.sample(corpus, max_generations, seed)
    if not documents:
        raise ValueError(f"{dataset} has no documents")
    if estimate:
        found = generator.estimate(documents)
        click.echo(
            f"{found.requests:,} requests with {found.prompt_tokens:,} tokens, and at most "
            f"{found.completion_tokens:,} tokens of completions"
        )
        return
    pt.Compose(generator, queries).index(documents)
    if not len(queries):
        raise ValueError(
            f"no query for any of the {len(documents):,} documents: the model wrote nothing, or "
            "repeated examples of the prompt; give another --prompt or --base_model"
        )
    if as_lines:
        toolkit_files.write_queries(_rows(queries.path), output)
    click.echo(f"{output}: {len(queries):,} queries for {len(documents):,} documents")


@commands.command()
@QUERIES
@click.option(
    "--filter_strategy",
    required=True,
    type=click.Choice(["scores", "reranker", "round_trip"]),
    help="Keep the queries with the highest mean log-probability (scores; of the stored score, if "
    "the input has no log_probs), with the highest reranker score (reranker), or whose document "
    "BM25 retrieves (round_trip).",
)
@click.option(
    "--keep_top_k",
    type=COUNT,
    default=10_000,
    help="Number of queries to keep (scores, reranker).",
)
@click.option(
    "--model_name_or_path",
    default="castorini/monot5-3b-msmarco-10k",
    help="Reranker: name on the hub, path, or `demo` (reranker).",
)
@SCORING
@click.option("--k", type=COUNT, default=1, help="Rank cutoff of the source document (round_trip).")
@with_source
@click.option(
    "--min_tokens",
    default=3,
    help="Minimum number of tokens of a query (of words, if the input has no log_probs).",
)
@click.option("--max_tokens", default=1000, help="Maximum number of tokens (words) of a query.")
@click.option(
    "--skip_questions_copied_from_context",
    is_flag=True,
    help="Drop queries that are copied from their document.",
)
@click.option("--output", required=True, callback=_output_file, help="JSON Lines file.")
def filter(
    queries: str,
    filter_strategy: str,
    keep_top_k: int,
    model_name_or_path: str,
    k: int,
    source: Source,
    min_tokens: int,
    max_tokens: int,
    skip_questions_copied_from_context: bool,
    output: str,
    **scoring: Any,
) -> None:
    """Keep the best queries."""
    generated = source.queries(queries)
    in_tokens = "log_probs" in generated
    lengths = LengthFilter(0, min_tokens=min_tokens, max_tokens=max_tokens)
    steps: list[tuple[str, Filter]] = [
        (
            f"--min_tokens {min_tokens} and --max_tokens {max_tokens}",
            lengths if in_tokens else LengthFilter(min_tokens, max_tokens),
        )
    ]
    if skip_questions_copied_from_context:
        steps.append(("--skip_questions_copied_from_context", CopyFilter()))
    with ExitStack() as stack:
        if filter_strategy == "round_trip":
            bm25 = stack.enter_context(source.bm25(k))
            steps.append((f"--filter_strategy round_trip with --k {k}", RoundTripFilter(bm25, k)))
        kept = generated
        for _, step in steps:
            kept = step.transform(kept)
    if kept.empty:
        counts = "; ".join(f"{name} dropped {step.dropped:,}" for name, step in steps)
        raise ValueError(f"no query of {len(generated):,} is left: {counts}")
    if filter_strategy == "reranker":
        model = _demo(demo.encoder, model_name_or_path)
        kept = load_reranker(model, verbose=True, **scoring).transform(kept)
        kept = ScoreFilter(keep_top_k).transform(kept)
    elif filter_strategy == "scores":
        ranked = kept
        if in_tokens:  # the input's score may be that of a reranker
            means = [sum(values) / len(values) if values else nan for values in kept["log_probs"]]
            ranked = kept.assign(score=means)
        kept = kept[kept["qid"].isin(ScoreFilter(keep_top_k).transform(ranked)["qid"])]
    toolkit_files.write_queries(kept.drop(columns="rank", errors="ignore"), output)
    click.echo(f"{output}: {len(kept):,} of {len(generated):,} queries")


@commands.command()
@QUERIES
@with_source
@click.option(
    "--max_hits",
    "depth",
    type=COUNT,
    default=1000,
    help="Number of results per query to draw from.",
)
@click.option(
    "--n_samples", "num_negatives", type=COUNT, default=100, help="Number of negatives per query."
)
@click.option("--skip", default=0, help="Number of top ranks without negatives.")
@click.option(
    "--sampling_strategy",
    type=click.Choice(["random", "top"]),
    default="random",
    help="Draw from the results uniformly, or take the best.",
)
@click.option(
    "--relative_margin",
    type=float,
    help="How far below the source document a negative must score: 0.05 is at most 0.95 of its "
    "BM25 score. By default, any score.",
)
@click.option(
    "--random_share",
    default=0.0,
    help="Share of the negatives drawn from the documents that BM25 does not return.",
)
@click.option("--batch_size", type=COUNT, default=32, help="Number of queries per batch.")
@click.option("--seed", default=1, help="Random seed of the draws.")
@click.option(
    "--output",
    required=True,
    callback=_output_file,
    help="TSV file: query, positive text, negative text.",
)
def triples(queries: str, source: Source, depth: int, output: str, **mining: Any) -> None:
    """Add negatives that are drawn from the BM25 results of the queries."""
    positives = source.queries(queries)
    texts = source.collection()
    with source.bm25(depth) as bm25:
        miner = NegativeMiner(bm25, depth=depth, texts=texts, verbose=True, **mining)
        examples = miner.transform(positives)
    if examples.empty:
        raise ValueError(
            f"no examples: BM25 found no document besides the source document (and copies of it) "
            f"for any of the {miner.seen:,} queries"
            + f", within --relative_margin {miner.relative_margin}"
            * (miner.relative_margin is not None)
        )
    toolkit_files.write_triples(examples, output)
    click.echo(f"{output}: {miner.seen - miner.dropped:,} of {miner.seen:,} queries")


@commands.command(context_settings={"ignore_unknown_options": True})
@click.option("--triples", help="TSV file: query, positive text, negative text.")
@click.option("--pairs", help="TSV file: query, text, label (1 relevant, 0 not).")
@click.option("--base_model", "model", default="t5-base", help="Name on the hub, path, or `demo`.")
@click.option(
    "--max_doc_length",
    "max_length",
    type=COUNT,
    help="Maximum number of tokens of query and document together. By default, the maximum of the "
    "model.",
)
@click.option("--seed", default=42, help="Random seed of the order of examples and of dropout.")
@click.option(
    "--held_out",
    type=float,
    help="Share of the queries to validate on; 0 trains on all, as the toolkit does. By default, a "
    "tenth, or about 200 queries if that is less.",
)
@DTYPE
@DEVICE
@click.option(
    "--output_dir", required=True, callback=_output_folder, help="Folder for the trained reranker."
)
@click.argument("training_arguments", nargs=-1, type=click.UNPROCESSED)
def train(
    triples: str | None,
    pairs: str | None,
    model: str,
    seed: int,
    held_out: float | None,
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
    _check_new(output_dir, not set(there) <= {"checkpoints"})
    checkpoints = os.path.join(output_dir, "checkpoints")
    training = _training(training_arguments)
    if held_out is not None:
        training["held_out"] = held_out
    for flag, name in (("fp16", "float16"), ("bf16", "bfloat16")):
        dtype = name if training.pop(flag, False) else dtype
    reranker = load_reranker(
        _demo(demo.encoder, model),
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
    verdict = (reranker.provenance or {})["verdict"]["summary"]
    loss = f"mean training loss {reranker.train_loss:.4f}"
    click.echo(f"{output_dir}: {type(reranker).__name__}, {loss}; {verdict}")


@commands.command()
@click.option(
    "--model",
    default="castorini/monot5-small-msmarco-100k",
    help="Reranker: name on the hub, path, or `demo`.",
)
@SCORING
@click.option("--input_run", default="bm25", help=f"TREC run file, or {BM25}.")
@with_source
@click.option("--corpus", help="Documents (CSV, TSV, JSON Lines) to use instead of the dataset's.")
@click.option("--queries", help="Topics (CSV, TSV, JSON Lines) to use instead of the dataset's.")
@click.option(
    "--top_k",
    type=COUNT,
    default=1000,
    help="Number of documents to rerank per topic; the others follow in their original order.",
)
@click.option("--output_run", required=True, callback=_output_file, help="TREC run file.")
def rerank(
    model: str,
    input_run: str,
    source: Source,
    corpus: str | None,
    queries: str | None,
    top_k: int,
    output_run: str,
    **scoring: Any,
) -> None:
    """Rerank the top documents of a run."""
    reranker = load_reranker(_demo(demo.encoder, model), verbose=True, **scoring)
    texts = source.file_or_name(corpus) if corpus else source.collection()
    topics = datasets.read_topics(queries) if queries else source.collection().get_topics()
    run = source.run(input_run, topics).drop(columns="query", errors="ignore")
    run = run.merge(topics[["qid", "query"]], on="qid", how="left")
    if len(missing := run.loc[run["query"].isna(), "qid"].unique()):
        raise ValueError(
            f"{queries or source.dataset} lacks {len(missing):,} of {run['qid'].nunique():,} "
            f"topics of {input_run}, such as {missing[0]!r}: remove them from the run, or give "
            f"their queries with --queries"
        )
    run = RerankTop(texts.text_loader() >> reranker, top_k).transform(run)
    toolkit_files.write_run(run, output_run, type(reranker).__name__)
    click.echo(f"{output_run}: {len(run):,} documents for {run['qid'].nunique():,} topics")


@commands.command()
@click.option(
    "--base_model",
    "model",
    required=True,
    help="Language model: name on the hub, path, `demo`, or the address of an OpenAI-compatible "
    "server.",
)
@SERVER
@click.option("--input", "queries", help="Synthetic queries to judge: a file or a folder.")
@click.option("--input_run", help=f"Run to judge in place of queries: TREC file, or {BM25}.")
@click.option("--top_k", type=COUNT, default=20, help="Number of documents to judge per topic.")
@click.option("--min_score", type=float, help="Lowest expected grade of a query that is kept.")
@with_source
@click.option(
    "--scale",
    type=click.Choice(["binary", "graded"]),
    default="graded",
    help="Grades 0 and 1, or 0 to 3.",
)
@PRECISION
@click.option("--batch_size", type=COUNT, show_default="64", help="Number of pairs per batch.")
@click.option(
    "--output",
    required=True,
    callback=_output_file,
    help="Queries as JSON Lines, with score and grade; or the qrels of a run, in TREC format.",
)
def judge(
    model: str,
    queries: str | None,
    input_run: str | None,
    top_k: int,
    min_score: float | None,
    source: Source,
    scale: str,
    output: str,
    **judge_options: Any,
) -> None:
    """Judge the relevance of queries or of a run with a language model.

    If --dataset has qrels, the judgements of a run are compared with them.
    """
    if (queries is None) == (input_run is None):
        raise click.UsageError("give either --input, synthetic queries, or --input_run")
    judged = RelevanceJudge(
        _demo(demo.instruct_model, model),
        scale=(0, 1) if scale == "binary" else (0, 1, 2, 3),
        verbose=True,
        **_of_runtime(model, judge_options),
    )
    if queries is not None:
        generated = source.queries(queries)
        kept = judged.transform(generated)
        if min_score is not None:
            kept = ScoreFilter(min_score=min_score).transform(kept)
        if kept.empty:
            reason = "a grade" if min_score is None else f"a grade of --min_score {min_score}"
            raise ValueError(f"none of {len(generated):,} queries has {reason}")
        toolkit_files.write_queries(kept.drop(columns="rank"), output)
        click.echo(f"{output}: {len(kept):,} of {len(generated):,} queries")
        return
    dataset = source.collection()
    topics = dataset.get_topics()
    pool = pt.RankCutoff(top_k).transform(source.run(str(input_run), topics))
    pool = pool.drop(columns="query", errors="ignore").merge(topics[["qid", "query"]], on="qid")
    if pool.empty:
        raise ValueError(f"{input_run} has no result for a topic of {source.dataset}")
    qrels = judged.qrels(dataset.text_loader()(pool))
    if qrels.empty:
        raise ValueError(f"the model gave none of {len(pool):,} pairs a grade: give another model")
    rows = (f"{qid} 0 {docno} {label}\n" for qid, docno, label in qrels.itertuples(index=False))
    write_text(Path(output), "".join(rows))
    click.echo(f"{output}: {len(qrels):,} judgements for {qrels['qid'].nunique():,} topics")
    try:
        human = dataset.get_qrels()
    except (ValueError, OSError):  # there are none
        return
    if len(qrels.merge(human, on=["qid", "docno"])):
        click.echo(str(evaluation.judge_agreement(qrels, human)))


@commands.command()
@click.option("--run", "runs", required=True, multiple=True, help=f"TREC run file, or {BM25}.")
@with_source
@click.option("--qrels", help="Judgements (TREC or BEIR format) to use instead of the dataset's.")
@click.option("--relevance_threshold", default=1, help="Minimum label of a relevant document.")
@click.option("--remove_unjudged", is_flag=True, help="Remove unjudged documents from the runs.")
@click.option(
    "--remove_own_document/--keep_own_document",
    default=None,
    help="Remove the document whose id is that of the topic. By default in ArguAna and Quora, as "
    "BEIR does.",
)
@click.option(
    "--exclude_fewshot_topics",
    "--without",
    "without",
    help="Synthetic queries whose few-shot topics are excluded from the evaluation, or a TSV file "
    "of topics, such as the toolkit's query_ids_to_remove_from_eval.tsv.",
)
@click.option(
    "--baseline",
    help="One of the runs. Adds the p-values of paired t-tests of the others against it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run.")
def evaluate(
    runs: Sequence[str],
    source: Source,
    qrels: str | None,
    relevance_threshold: int,
    remove_unjudged: bool,
    remove_own_document: bool | None,
    without: str | None,
    baseline: str | None,
    as_json: bool,
) -> None:
    """Evaluate runs over all judged topics, like trec_eval -c."""
    if baseline and baseline not in runs:
        raise click.UsageError(f"--baseline {baseline} must be one of the runs: {', '.join(runs)}")
    judged = datasets.read_qrels(qrels) if qrels else source.collection().get_qrels()
    if without:
        topics = judged[["qid"]].drop_duplicates()
        if source.dataset:
            known = source.collection().get_topics()
            topics = topics.merge(known, on="qid", how="left").fillna({"query": ""})
        topics = evaluation.exclude_fewshot_topics(topics, _fewshot_topics(without))
        judged = judged[judged["qid"].isin(topics["qid"])]
    if remove_own_document is None:
        remove_own_document = source.dataset in beir.QUERY_IS_DOCUMENT
    measures = [*evaluation.measures(relevance_threshold), NumRet]
    values: dict[str, dict[str, float]] = {}
    results: dict[str, pd.DataFrame] = {}
    for name in runs:
        run = source.run(name)
        if remove_own_document:
            run = evaluation.ExcludeQueryDocument().transform(run)
        if remove_unjudged:
            run = evaluation.JudgedOnly(judged).transform(run)
        if not run["qid"].isin(judged["qid"]).any():
            raise ValueError(f"{name} has no document for any judged topic")
        values[name] = {str(m): value for m, value in pt.Evaluate(run, judged, measures).items()}
        values[name] |= {"NumRet": int(values[name]["NumRet"]), "NumQ": judged["qid"].nunique()}
        results[name] = run
    for name in results if baseline else ():
        if name != baseline:
            values[name] |= _p_values(results[name], results[str(baseline)], judged, measures[:-1])
    if as_json:
        for name in runs:
            click.echo(json.dumps({"run": name, **values[name]}))
    else:
        shown = {
            name: {m: f"{v:.4f}" if isinstance(v, float) else f"{v}" for m, v in row.items()}
            for name, row in values.items()
        }
        click.echo(pd.DataFrame(shown).to_string())


def _p_values(
    run: pd.DataFrame, baseline: pd.DataFrame, qrels: pd.DataFrame, measures: Sequence[Any]
) -> dict[str, float]:
    """Returns the p-values of paired t-tests, with 0 for topics that a run lacks."""
    from scipy.stats import ttest_rel

    values = []
    for results in (run, baseline):
        by_topic = pt.Evaluate(results, qrels, measures, perquery=True)
        frame = pd.DataFrame.from_dict(by_topic, orient="index")
        values.append(frame.reindex(qrels["qid"].unique(), fill_value=0.0))
    return {f"{m} p-value": float(ttest_rel(*(v[str(m)] for v in values)).pvalue) for m in measures}


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
    try:
        commands.main(arguments, prog_name=NAME, standalone_mode=False)
    except click.Abort:
        _fail("interrupted: run the same command again; `generate` and `train` resume", 130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        message = isinstance(error, ERRORS) and _in_options(str(error), arguments)
        _fail(message or f"{type(error).__name__}: {error} (--debug shows the traceback)", 1)


def _in_options(message: str, arguments: Sequence[str]) -> str:
    """Replaces the parameters that an error names by the options of the command."""
    name = next((argument for argument in arguments if argument in commands.commands), None)
    params = commands.commands[name].params if name else []
    options = {str(p.name): p.opts[0] for p in params if isinstance(p, click.Option)}
    if name == "train" and (transformers := sys.modules.get("transformers")):
        fields_of_trainer = transformers.TrainingArguments.__dataclass_fields__
        options |= {field: f"--{field}" for field in fields_of_trainer if field not in options}
    known = set(options.values())
    for parameter, option in ALIASES:
        if option in known:
            options[parameter] = option
    for text, in_options in PHRASES:
        message = re.sub(text, in_options, message)
    message = re.sub(r"^(\w+)(?= must )", lambda m: options.get(m[1], m[1]), message)
    message = re.sub(
        r"(?<![\w.'\"-])(\w+)=(,?)",
        lambda m: f"{options[m[1]]}{m[2] or ' '}" if m[1] in options else m[0],
        message,
    )
    return message.replace("give it a file with topics=...", "give a folder in BEIR's layout")


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"{NAME}: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _check_new(path: str, exists: bool) -> None:
    if exists:
        raise FileExistsError(f"{path} already exists: remove it or choose another path")


def _demo(demo_model: Callable[[], str], model: str) -> str:
    return demo_model() if model == "demo" else model


def _of_runtime(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that a model takes: those of a server, or those of transformers.

    Raises:
        click.UsageError: An option of the other runtime is on the command line.
    """
    is_server = model.startswith(("http://", "https://"))
    server, local = set(ServerOptions.__annotations__), set(BackendOptions.__annotations__)
    refused = local - server if is_server else server - local
    context = click.get_current_context()
    for name in sorted(refused & set(given)):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            kind = "a server" if is_server else "a model of transformers"
            raise click.UsageError(f"--{name} cannot be used with {kind}: {model}")
    return {name: value for name, value in given.items() if name not in refused}


def _rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Reads synthetic queries from a file or folder, with the ids of their few-shot topics."""
    if not os.path.isdir(path):
        yield from toolkit_files.read_queries(path)
        return
    queries = SyntheticQueries(path)
    topics = list(queries.fewshot_topics.get("qid", []))
    for row in queries.iter_results():
        yield row | {"fewshot_examples": topics}


def _fewshot_topics(path: str) -> pd.DataFrame:
    """Returns the topics in the few-shot examples of synthetic queries."""
    if os.path.isdir(path):
        return SyntheticQueries(path).fewshot_topics
    if path.lower().endswith((".tsv", ".tsv.gz")):
        return datasets.read_topics(path)
    known = [row["fewshot_examples"] for row in _rows(path) if "fewshot_examples" in row]
    if not known:
        raise ValueError(f"{path} has no fewshot_examples, so its few-shot topics are unknown")
    return pd.DataFrame({"qid": [qid for topics in known for qid in topics]})


def _prompt(
    name: str,
    entry: str | None,
    source: Source,
    examples: str | None,
    fewshot: dict[str, Any],
) -> str | Prompt:
    """Loads a prompt by name or path; returns ``"auto"`` as it is.

    Args:
        name: Name of a prompt, or path of a text or YAML file.
        entry: Name of the prompt in a YAML file.
        source: Collection of the few-shot examples.
        examples: File of few-shot examples.
        fewshot: Parameters of ``FewShotPrompt``, used if the prompt has examples.
    """
    file = Path(name)
    if name == "auto":
        return name
    if file.is_file() and file.suffix.lower() not in (".yaml", ".yml"):
        return StaticPrompt(read_text(file))
    options: dict[str, Any] = {}
    if examples or (entry or name).startswith(("few-shot", "promptagator-")):
        options = {"examples": source.examples(examples), **fewshot}
    if not file.is_file():
        try:
            return load_prompt(name, **options)
        except DownloadError as error:
            raise DownloadError(
                f"--prompt {name} needs a download; --prompt three-shot needs none. {error}"
            ) from error
    if entry is None:
        raise click.UsageError(f"--prompt_name is required: the name of a prompt in {name}")
    return Prompt.load(file, entry, **options)


def _training(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses options that are fields of ``TrainingArguments``; returns those that are given."""
    from transformers import HfArgumentParser, TrainingArguments

    kind: Any = TrainingArguments
    parser = HfArgumentParser(kind, allow_abbrev=False, add_help=False)
    parser.error = _usage_error  # type: ignore[method-assign]
    missing = Namespace(**{field.name: None for field in fields(kind)})
    given = vars(parser.parse_args(list(arguments), missing))
    return {name: value for name, value in given.items() if value is not None}


def _usage_error(message: str) -> NoReturn:
    raise click.UsageError(message)


@contextmanager
def _redirected(targets: dict[int, int]) -> Iterator[None]:
    """Redirects file descriptors of the process, to which native libraries write."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in targets}
    for number, target in targets.items():
        os.dup2(target, number)
    try:
        yield
    finally:
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def _silenced() -> Iterator[None]:
    """Drops what native libraries write to standard output and standard error."""
    with open(os.devnull, "w") as nothing, _redirected({1: nothing.fileno(), 2: nothing.fileno()}):
        yield
