"""The six commands of the InPars Toolkit over the classes of this package.

``pyterrier-inpars COMMAND --help`` lists the options, which may be written with underscores or
hyphens. What a command computes is in the classes; here are only options, files and errors.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import click
import pandas as pd
import pyterrier as pt
from ir_measures import NumRet

from pyterrier_inpars import datasets, demo, evaluation
from pyterrier_inpars.datasets import beir, published
from pyterrier_inpars.datasets import toolkit_files as formats
from pyterrier_inpars.datasets.lucene import LuceneCollection, LuceneIndex
from pyterrier_inpars.filtering import CopyFilter, LengthFilter, RoundTripFilter, ScoreFilter
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.mining import NegativeMiner
from pyterrier_inpars.prompts.templates import Prompt, StaticPrompt, load_prompt, read_text
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.rerankers import RerankTop, load_reranker

NAME = "pyterrier-inpars"
COUNT = click.IntRange(min=1)
SETTINGS = {
    "token_normalize_func": lambda name: name.replace("-", "_"),
    "show_default": True,
    "max_content_width": 100,
}
ERRORS = (ValueError, TypeError, OSError, KeyError, ImportError, RuntimeError)


def options(*decorators: Callable) -> Callable[[Callable], Callable]:
    """Several options as one decorator; ``--help`` shows them in this order."""
    return lambda command: functools.reduce(lambda f, option: option(f), decorators[::-1], command)


DATASET = options(
    click.option(
        "--dataset",
        help="A BEIR collection, a name in --dataset_source, or a path: a folder in BEIR's layout, "
        "or documents as CSV, TSV or JSON Lines.",
    ),
    click.option(
        "--dataset_source",
        type=click.Choice(["ir_datasets", "pyserini"]),
        default="ir_datasets",
        help="Where a collection comes from that is no path.",
    ),
    click.option("--fix_text", is_flag=True, help="Repair wrongly decoded text, with ftfy."),
)
INDEX = options(
    click.option(
        "--index",
        help="BM25 index: a folder (Lucene, PISA, any that PyTerrier loads), or the name of one "
        "prebuilt by Pyserini. If not given, one of --dataset is built for the time being.",
    ),
    click.option("--threads", type=COUNT, help="Threads of the retriever."),
)
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
    default="auto",
    help="Precision of the model.",
)
DEVICE = click.option("--device", help="cpu, cuda, mps, xla; if not given, the best there is.")
PRECISION = options(
    click.option("--fp16", "dtype", flag_value="float16", help="The same as --dtype float16."),
    click.option("--int8", "dtype", flag_value="int8", help="The same as --dtype int8."),
    DTYPE,  # after its flags: older versions of click take the default of the last
    click.option("--torch_compile", "compile", is_flag=True, help="Compile the model first."),
    DEVICE,
)
SCORING = options(
    PRECISION,
    click.option("--batch_size", type=COUNT, default=16, help="Pairs that are scored at once."),
)
QUERIES = click.option(
    "--input", "queries", required=True, help="Synthetic queries: JSON Lines or a folder."
)
BM25 = "`bm25`: the run published for --dataset or, where there is none, what BM25 finds now"


@dataclass
class Source:
    """What the options of `DATASET` and `INDEX` name."""

    dataset: str | None
    dataset_source: str
    fix_text: bool
    index: str | None = None
    threads: int | None = None

    def collection(self) -> datasets.Collection:
        """The collection, of which the documents can be had."""
        if self.dataset is None:
            raise click.UsageError("--dataset is needed")
        return datasets.collection(self.dataset, self.dataset_source, fix_text=self.fix_text)

    def queries(self, path: str) -> pd.DataFrame:
        """Synthetic queries, with the texts of the collection if the file has none."""
        queries = pd.DataFrame(_rows(path))
        if queries.empty:
            raise ValueError(f"{path} has no queries")
        return queries if "text" in queries else self.collection().text_loader().transform(queries)

    def examples(self, path: str | None) -> pd.DataFrame:
        """Few-shot examples: from a file, as published, or what is judged in the collection."""
        if path:
            return formats.read_fewshot(path)
        if self.dataset in beir.COLLECTIONS:
            return published.fewshot_examples(self.dataset)
        return datasets.judged_pairs(self.collection())

    def run(self, path: str) -> pd.DataFrame:
        """A run: from a file, as published, or found now."""
        if path.lower() != "bm25":
            return formats.read_run(path)
        if self.dataset in beir.COLLECTIONS and self.index is None:
            return published.bm25_run(self.dataset)
        topics = self.collection().get_topics()
        with self.bm25(1000) as bm25:
            return bm25.transform(topics)

    @contextmanager
    def bm25(self, depth: int) -> Iterator[pt.Transformer]:
        """BM25 over the index, or over one of the collection that is removed in the end."""
        with tempfile.TemporaryDirectory() as folder, _stdout_to_stderr():
            index: Any
            if self.index is None:
                index = self._index(os.path.join(folder, "index"))
            elif not os.path.isdir(self.index):
                index = LuceneIndex.prebuilt(self.index)
            elif os.path.exists(os.path.join(self.index, "pt_meta.json")):
                index = pt.Artifact.load(self.index)
            else:
                index = LuceneIndex(self.index)
            yield index.bm25(num_results=depth, threads=self.threads)

    def _index(self, path: str) -> Any:
        """The index that the collection has, or else one that is built now."""
        collection = self.collection()
        if isinstance(collection, LuceneCollection):
            return collection.index
        index: Any = LuceneIndex(path)
        if find_spec("pyterrier_pisa"):
            from pyterrier_pisa import PisaIndex

            index = PisaIndex(path, text_field="text")
        documents = collection.get_corpus_iter(verbose=True)
        if (first := next(documents, None)) is None:
            raise ValueError(f"{self.dataset} has no documents to search")
        index.index(chain([first], documents))
        return index


def with_source(command: Callable) -> Callable:
    """Adds the options of `DATASET` and `INDEX`, which come to the command as its ``source``."""

    @options(DATASET, INDEX)
    @functools.wraps(command)
    def wrapper(
        dataset: str | None,
        dataset_source: str,
        fix_text: bool,
        index: str | None,
        threads: int | None,
        **others: Any,
    ) -> None:
        source = Source(dataset, dataset_source, fix_text, index, threads)
        command(source=source, **others)

    return wrapper


@click.group(NAME, context_settings=SETTINGS)
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def commands(debug: bool) -> None:
    """Synthetic queries for rerankers: written by a language model, filtered, trained on."""


@commands.command()
@DATASET
@click.option("--base_model", "model", default="EleutherAI/gpt-j-6B", help="Name, path or `demo`.")
@click.option("--revision", help="Branch, tag or commit of the model.")
@click.option(
    "--prompt",
    default="inpars",
    help="Name of a prompt, or path: YAML with prompts, or a text with {document} and {query}.",
)
@click.option("--prompt_name", help="Which prompt of a YAML file.")
@click.option(
    "--fewshot_examples",
    help="JSON Lines `query_id, doc_id, query, document` to draw examples from; if not given, "
    "those published for --dataset, or what is judged there.",
)
@click.option(
    "--n_fewshot_examples", type=COUNT, default=3, help="Examples of a prompt that shows some."
)
@click.option(
    "--max_doc_length", "max_doc_tokens", type=COUNT, default=256, help="Tokens of a document."
)
@click.option(
    "--max_query_length",
    "max_query_tokens",
    type=COUNT,
    default=200,
    help="Tokens of an example's query.",
)
@click.option(
    "--max_prompt_length",
    "max_prompt_tokens",
    type=COUNT,
    default=2048,
    help="Tokens of prompt and query together; the document is cut to fit.",
)
@click.option("--max_new_tokens", type=COUNT, default=64, help="Tokens of a query.")
@click.option("--max_generations", type=COUNT, default=100_000, help="Documents, drawn at random.")
@click.option("--num_queries", type=COUNT, default=1, help="Queries for each document.")
@click.option("--temperature", default=0.0, help="0 is greedy; above it, queries are sampled.")
@click.option("--top_p", default=1.0, help="Sample from the likeliest tokens with this share.")
@click.option("--seed", default=1, help="Of the documents, the examples and the sampling.")
@PRECISION
@click.option("--batch_size", type=COUNT, help="Queries written at once; 64 if not given.")
@click.option(
    "--shard_size", type=COUNT, default=1000, help="Documents after which the queries are stored."
)
@click.option(
    "--output",
    required=True,
    help="JSON Lines (.jsonl, .jsonl.gz); with any other name, a folder of SyntheticQueries.",
)
def generate(
    dataset: str | None,
    dataset_source: str,
    fix_text: bool,
    model: str,
    prompt: str,
    prompt_name: str | None,
    fewshot_examples: str | None,
    n_fewshot_examples: int,
    max_generations: int,
    seed: int,
    shard_size: int,
    output: str,
    **generator_options: Any,
) -> None:
    """Write queries for documents with a language model.

    A command that was stopped goes on when it is run again. JSON Lines are written at the end; till
    then the queries are in the folder OUTPUT.queries, which stays, since it knows how they were
    made.
    """
    as_lines = output.endswith((".jsonl", ".jsonl.gz"))
    queries = SyntheticQueries(f"{output}.queries" if as_lines else output, shard_size=shard_size)
    _check_new(output, os.path.exists(output) if as_lines else queries.built())
    source = Source(dataset, dataset_source, fix_text)
    corpus = source.collection().get_corpus_iter(verbose=True)
    shown = _prompt(prompt, prompt_name, fewshot_examples, source, n_fewshot_examples, seed)
    generator = QueryGenerator(
        _demo(demo.language_model, model),
        prompt=shown,
        seed=seed,
        keep_prompt=as_lines,
        verbose=True,
        **generator_options,
    )
    documents = datasets.sample(corpus, max_generations, seed)
    pt.Compose(generator, queries).index(documents)
    if as_lines:
        formats.write_queries(_rows(queries.path), output)
    click.echo(f"{output}: {len(queries):,} queries for {len(documents):,} documents")


@commands.command()
@QUERIES
@click.option(
    "--filter_strategy",
    required=True,
    type=click.Choice(["scores", "reranker", "round_trip"]),
    help="Keep the queries likeliest to the language model, those that a reranker scores highest, "
    "or those by which BM25 finds their document.",
)
@click.option(
    "--keep_top_k", type=COUNT, default=10_000, help="Queries to keep (scores, reranker)."
)
@click.option(
    "--model_name_or_path",
    default="castorini/monot5-3b-msmarco-10k",
    help="Name, path or `demo` (reranker).",
)
@SCORING
@click.option("--k", type=COUNT, default=1, help="Lowest place of the document (round_trip).")
@with_source
@click.option(
    "--min_tokens", default=3, help="Fewest tokens of a query (words, if there are no log_probs)."
)
@click.option("--max_tokens", default=1000, help="Most tokens of a query.")
@click.option(
    "--skip_questions_copied_from_context", is_flag=True, help="Drop queries copied from the text."
)
@click.option("--output", required=True, help="JSON Lines.")
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
    written = source.queries(queries)
    by_tokens = LengthFilter(0, min_tokens=min_tokens, max_tokens=max_tokens)
    by_words = LengthFilter(min_tokens, max_tokens)
    kept = (by_tokens if "log_probs" in written else by_words).transform(written)
    if skip_questions_copied_from_context:
        kept = CopyFilter().transform(kept)
    if filter_strategy == "round_trip":
        with source.bm25(k) as bm25:
            kept = RoundTripFilter(bm25, k).transform(kept)
    else:
        if filter_strategy == "reranker":
            model = _demo(demo.encoder, model_name_or_path)
            kept = load_reranker(model, verbose=True, **scoring).transform(kept)
        kept = ScoreFilter(keep_top_k).transform(kept)
    formats.write_queries(kept.drop(columns="rank", errors="ignore"), output)
    click.echo(f"{output}: {len(kept):,} of {len(written):,} queries")


@commands.command()
@QUERIES
@with_source
@click.option(
    "--max_hits", "depth", type=COUNT, default=1000, help="Documents found by a query to draw from."
)
@click.option(
    "--n_samples", "num_negatives", type=COUNT, default=100, help="Negatives for each query."
)
@click.option("--batch_size", type=COUNT, default=32, help="Queries retrieved at once.")
@click.option("--seed", default=1, help="Of the draws.")
@click.option("--output", required=True, help="TSV: query, relevant text, text not relevant.")
def triples(queries: str, source: Source, depth: int, output: str, **mining: Any) -> None:
    """Add negatives from what BM25 finds for the queries."""
    positives = source.queries(queries)
    texts = source.collection()
    with source.bm25(depth) as bm25:
        miner = NegativeMiner(bm25, depth=depth, texts=texts, verbose=True, **mining)
        formats.write_triples(miner.transform(positives), output)
    click.echo(f"{output}: {miner.seen - miner.dropped:,} of {miner.seen:,} queries")


@commands.command(context_settings={"ignore_unknown_options": True})
@click.option("--triples", help="TSV: query, relevant text, text not relevant.")
@click.option("--pairs", help="TSV: query, text, label (1 relevant, 0 not).")
@click.option("--base_model", "model", default="t5-base", help="Name, path or `demo`.")
@click.option(
    "--max_doc_length",
    "max_length",
    type=COUNT,
    help="Tokens of query and document together; if not given, as many as the model takes.",
)
@click.option("--seed", default=42, help="Of the order of the examples and of the dropout.")
@DTYPE
@DEVICE
@click.option("--output_dir", required=True, help="Folder for the trained reranker.")
@click.argument("training_arguments", nargs=-1, type=click.UNPROCESSED)
def train(
    triples: str | None,
    pairs: str | None,
    model: str,
    dtype: str,
    output_dir: str,
    training_arguments: Sequence[str],
    **reranker_options: Any,
) -> None:
    """Train a reranker.

    Any field of transformers.TrainingArguments is an option too, such as --learning_rate 1e-5. A
    command that was stopped goes on when it is run again. Its checkpoints are in
    OUTPUT_DIR/checkpoints, which is removed in the end unless there is an option --save_...
    """
    if (triples is None) == (pairs is None):
        raise click.UsageError("either --triples or --pairs is needed")
    there = os.listdir(output_dir) if os.path.exists(output_dir) else []
    _check_new(output_dir, not set(there) <= {"checkpoints"})
    checkpoints = os.path.join(output_dir, "checkpoints")
    training = _training(training_arguments)
    for flag, name in (("fp16", "float16"), ("bf16", "bfloat16")):
        dtype = name if training.pop(flag, False) else dtype
    reranker = load_reranker(
        _demo(demo.encoder, model),
        training=training,
        output_dir=checkpoints,
        dtype=dtype,
        verbose=True,
        **reranker_options,
    )
    examples = formats.read_triples(triples) if triples else formats.read_pairs(str(pairs))
    reranker.fit(examples).save(output_dir, overwrite=True)
    if not any(name.startswith("save_") for name in training):
        shutil.rmtree(checkpoints)
    click.echo(
        f"{output_dir}: {type(reranker).__name__}, mean training loss {reranker.train_loss:.4f}"
    )


@commands.command()
@click.option(
    "--model", default="castorini/monot5-small-msmarco-100k", help="Name, path or `demo`."
)
@SCORING
@click.option("--input_run", default="bm25", help=f"TREC run, or {BM25}.")
@with_source
@click.option("--corpus", help="Documents (CSV, TSV, JSON Lines) in place of the dataset's.")
@click.option("--queries", help="Topics (CSV, TSV, JSON Lines) in place of the dataset's.")
@click.option(
    "--top_k", type=COUNT, default=1000, help="Documents of a topic to rerank; the rest follow."
)
@click.option("--output_run", required=True, help="TREC run.")
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
    """Rerank the best documents of a run."""
    reranker = load_reranker(_demo(demo.encoder, model), verbose=True, **scoring)
    texts = datasets.collection(corpus, fix_text=source.fix_text) if corpus else source.collection()
    topics = datasets.read_topics(queries) if queries else source.collection().get_topics()
    run = source.run(input_run).drop(columns="query", errors="ignore")
    run = run.merge(topics[["qid", "query"]], on="qid", how="left")
    run = RerankTop(texts.text_loader() >> reranker, top_k).transform(run)
    formats.write_run(run, output_run, type(reranker).__name__)
    click.echo(f"{output_run}: {len(run):,} documents for {run['qid'].nunique():,} topics")


@commands.command()
@click.option("--run", "runs", required=True, multiple=True, help=f"TREC run, or {BM25}.")
@with_source
@click.option("--qrels", help="Judgements (TREC's form or BEIR's) in place of the dataset's.")
@click.option("--relevance_threshold", default=1, help="Lowest label that is relevant.")
@click.option("--remove_unjudged", is_flag=True, help="Remove documents without a judgement.")
@click.option(
    "--without", help="Synthetic queries: leave out the topics that their writer was shown."
)
@click.option("--json", "as_json", is_flag=True, help="Write a JSON object for each run.")
def evaluate(
    runs: Sequence[str],
    source: Source,
    qrels: str | None,
    relevance_threshold: int,
    remove_unjudged: bool,
    without: str | None,
    as_json: bool,
) -> None:
    """Evaluate runs over all topics that have judgements, as trec_eval -c does."""
    judged = datasets.read_qrels(qrels) if qrels else source.collection().get_qrels()
    if without:
        topics = judged[["qid"]].drop_duplicates()
        if source.dataset:
            known = source.collection().get_topics()
            topics = topics.merge(known, on="qid", how="left").fillna({"query": ""})
        left = evaluation.exclude_fewshot_topics(topics, _shown(without))
        judged = judged[judged["qid"].isin(left["qid"])]
    measures = [*evaluation.measures(relevance_threshold), NumRet]
    values: dict[str, dict[str, float]] = {}
    for name in runs:
        run = source.run(name)
        if remove_unjudged:
            run = evaluation.JudgedOnly(judged).transform(run)
        if not run["qid"].isin(judged["qid"]).any():
            raise ValueError(f"{name} has no document for any topic that has judgements")
        values[name] = {str(m): value for m, value in pt.Evaluate(run, judged, measures).items()}
        values[name] |= {"NumRet": int(values[name]["NumRet"]), "NumQ": judged["qid"].nunique()}
    if as_json:
        for name in runs:
            click.echo(json.dumps({"run": name, **values[name]}))
    else:
        shown = {
            name: {m: f"{v:.4f}" if isinstance(v, float) else f"{v}" for m, v in row.items()}
            for name, row in values.items()
        }
        click.echo(pd.DataFrame(shown).to_string())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command.

    Args:
        arguments: the command and its options; None takes those of this process.

    Raises:
        SystemExit: with 2 if the options are wrong, 1 after any other error, 130 if it was stopped.
            Standard error says in one line what was wrong.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        commands.main(arguments, prog_name=NAME, standalone_mode=False)
    except click.Abort:
        _fail("stopped: run the same command again; `generate` goes on where it was", 130)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        foreseen = isinstance(error, ERRORS) and str(error)
        _fail(foreseen or f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"{NAME}: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _check_new(path: str, there: bool) -> None:
    if there:
        raise FileExistsError(f"{path} is there already: remove it, or give another path")


def _demo(demo_model: Callable[[], str], model: str) -> str:
    return demo_model() if model == "demo" else model


def _rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Synthetic queries of a file or folder, with the ids of the topics shown as examples."""
    if not os.path.isdir(path):
        yield from formats.read_queries(path)
        return
    queries = SyntheticQueries(path)
    topics = list(queries.fewshot_topics.get("qid", []))
    for row in queries.iter_results():
        yield row | {"fewshot_examples": topics}


def _shown(path: str) -> pd.DataFrame:
    """The topics that the writer of synthetic queries was shown."""
    if os.path.isdir(path):
        return SyntheticQueries(path).fewshot_topics
    known = [row["fewshot_examples"] for row in _rows(path) if "fewshot_examples" in row]
    if not known:
        raise ValueError(f"{path} has no fewshot_examples, which tell what topics were shown")
    return pd.DataFrame({"qid": [qid for topics in known for qid in topics]})


def _prompt(
    name: str,
    entry: str | None,
    examples: str | None,
    source: Source,
    num_examples: int,
    seed: int,
) -> Prompt:
    """A prompt by its name or path, with examples if it shows some."""
    file = Path(name)
    if file.is_file() and file.suffix not in (".yaml", ".yml"):
        return StaticPrompt(read_text(file))
    options: dict[str, Any] = {}
    if examples or (entry or name).startswith(("few-shot", "promptagator-")):
        options = {
            "examples": source.examples(examples),
            "num_examples": num_examples,
            "seed": seed,
        }
    if file.is_file():
        if entry is None:
            raise click.UsageError(f"--prompt_name is needed: which prompt of {name}?")
        return Prompt.load(file, entry, **options)
    return load_prompt(name, **options)


def _training(arguments: Sequence[str]) -> dict[str, Any]:
    """The fields of TrainingArguments that are given as options."""
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
def _stdout_to_stderr() -> Iterator[None]:
    """What PISA tells of its work must not get between a command's results."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
