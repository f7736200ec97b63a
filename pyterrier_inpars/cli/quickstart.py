"""``quickstart``: from a folder of text files to a choice of a system, and a report."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyterrier as pt

from pyterrier_inpars import datasets, demo, evaluation
from pyterrier_inpars._counted import counted
from pyterrier_inpars._native_output import silenced
from pyterrier_inpars.cli._help import Command, section
from pyterrier_inpars.cli._options import (
    COUNT,
    FOLDER,
    MODEL,
    SERVER,
    demo_or_name,
    is_server,
    of_runtime,
    output_folder,
)
from pyterrier_inpars.datasets import Collection, TextFolder, toolkit_files
from pyterrier_inpars.filtering import CopyFilter, DuplicateFilter, LengthFilter, OverlapFilter
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.prompts.templates import StaticPrompt
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.report import report
from pyterrier_inpars.rerankers import BiEncoder, ScoreFusion, VectorPRF

EXAMPLE = r"""
pyterrier-inpars quickstart my_notes --output my_report
"""
# The prompt contains the first word of the query. Without it, a model this small copies the first
# words of the document.
PROMPT = StaticPrompt("Text: {document}\n\nA reader asks: {query}", prefill="how")
WHOLE_QUESTION = re.compile(".+")
"""Makes the first word a part of the query."""
DOCUMENT_TOKENS = 128
"""Number of tokens of a document that the language model reads."""
ENCODER_TOKENS = 256
"""Number of tokens that an encoder reads."""
WORDS_READ = 190
"""Number of English words that have about ``ENCODER_TOKENS`` tokens."""
DEPTH = 100
"""Number of documents that the systems retrieve."""


@click.command(cls=Command, example=EXAMPLE)
@click.argument("collection", metavar="FOLDER")
@section(
    "Collection and result",
    click.option(
        "--output",
        type=FOLDER,
        required=True,
        callback=output_folder,
        help="Folder for the queries, the choice and the report.",
    ),
    click.option(
        "--encoding",
        metavar="NAME",
        help="Encoding of text files that are not in UTF-8 and have no byte order mark, such as "
        "cp1252. By default, such files are left out.",
    ),
)
@section(
    "Queries",
    click.option(
        "--documents", type=COUNT, default=200, help="Number of documents to write a query for."
    ),
    click.option(
        "--base_model",
        "model",
        type=MODEL,
        default="demo",
        help="Language model: `demo` (Gemma 3 270M), name on the hub, path, or address of an "
        "OpenAI-compatible server.",
    ),
    click.option(
        "--encoder",
        type=MODEL,
        default="demo",
        help="Encoder of dense retrieval: `demo` (MiniLM), or name on the hub, or path.",
    ),
    click.option("--seed", default=0, metavar="N", help="Random seed of the documents."),
)
@SERVER
def quickstart(
    collection: str,
    output: str,
    encoding: str | None,
    documents: int,
    model: str,
    encoder: str,
    seed: int,
    **server: Any,
) -> None:
    """Choose the best system for a folder of text files.

    FOLDER has text files (.txt, .md), in subfolders too, or is a collection in BEIR's layout. A
    language model writes an English query for each of some documents, filters drop the poor ones,
    and on the others BM25, dense retrieval and fusions of the two are compared without labels.

    Running the same command again resumes an interrupted run. With the demo models, 200 documents
    take a few minutes on two cores. Needs the extras demo and report.
    """
    server = of_runtime(model, server)
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "queries").is_dir():
        raise FileExistsError(
            f"{output} has other files: give a new folder, or that of an earlier quickstart"
        )
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {text}")

    dataset = _collection(collection, encoding)
    with warnings.catch_warnings(record=True) as skipped:
        warnings.simplefilter("always")
        corpus = pd.DataFrame(dataset.get_corpus_iter())
    for warning in skipped:
        click.echo(f"warning: {warning.message}", err=True)
    if len(corpus) < 2:
        raise ValueError(
            f"{collection} has {counted(len(corpus), 'document')} with text: give more, since "
            "systems differ in how they rank several"
        )
    say(f"{counted(len(corpus), 'document')} in {collection}")
    if cut := int((corpus["text"].str.split().str.len() > WORDS_READ).sum()):
        say(f"{counted(cut, 'document')} with over {WORDS_READ} words: models read the beginning")

    bi_encoder = BiEncoder(
        demo_or_name(demo.encoder, encoder),
        max_length=ENCODER_TOKENS if encoder == "demo" else None,
        vector_cache=2 * len(corpus) + documents,
    )
    with silenced():
        bi_encoder.network  # noqa: B018 (an encoder that cannot be loaded is found before the work)
    queries = SyntheticQueries(folder / "queries", verbose=True)
    completed = {"prompt": PROMPT, "extract": WHOLE_QUESTION, "stop": ["\n", ".", "?"]}
    answered = {"prompt": "auto", **server}  # by a chat prompt, unless --endpoint is completions
    continues = not is_server(model) or server["endpoint"] == "completions"
    generator = QueryGenerator(
        demo_or_name(demo.language_model, model),
        max_doc_tokens=DOCUMENT_TOKENS,
        max_new_tokens=24 if continues else 64,
        **(completed | server if continues else answered),
    )
    sample = datasets.sample(corpus.to_dict("records"), documents, seed)
    pt.Compose(generator, queries).index(sample)
    say(f"{counted(len(queries), 'query')} for {counted(len(sample), 'document')}")

    filters = LengthFilter(4) >> CopyFilter() >> DuplicateFilter() >> OverlapFilter(0.6)
    kept = filters.transform(queries.get_results())
    if kept.empty:
        report(queries, filters, path=folder / "report.html")
        raise ValueError(
            f"no query passed the filters, of {len(queries):,}; {folder / 'report.html'} shows why"
        )
    toolkit_files.write_queries(kept.to_dict("records"), folder / "queries.jsonl")
    say(f"{counted(len(kept), 'query')} passed the filters")

    say("indexing the documents")
    with silenced():
        bm25, dense, hybrid = _retrievers(corpus, bi_encoder, folder)
    say("comparing systems")
    with silenced():
        candidates, fused = hybrid >> dataset.text_loader(), ScoreFusion(bi_encoder)
        name = "MiniLM" if encoder == "demo" else Path(encoder).name
        systems = {
            "BM25": bm25,
            name: dense,
            f"BM25 + {name}": hybrid,
            f"BM25 + {name}, reranked": candidates >> fused,
            f"BM25 + {name}, feedback": candidates >> ScoreFusion(fused >> VectorPRF(bi_encoder)),
        }
        # Documents similar to a query's source are partly relevant, as in human judgements.
        qrels = evaluation.similar_qrels(kept, candidates >> fused)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report says that queries are few
            choice = evaluation.select(systems, kept, qrels=qrels)
        choice.table.to_csv(folder / "systems.csv", index=False)
        path = report(
            queries,
            filters,
            experiment=choice,
            path=folder / "report.html",
            retriever=bm25,
            encoder=bi_encoder,
            title=f"Synthetic queries for {Path(collection).resolve().name}",
        )
    say("done")
    click.echo(f"\n{choice}\n")
    for name, text in (
        (path.name, "open it in a browser: what the queries and the filters are worth"),
        ("systems.csv", "the comparison of systems"),
        ("queries.jsonl", "the queries that passed the filters"),
        ("queries", "all queries, for SyntheticQueries"),
        ("index", "the index of BM25, for PisaIndex"),
        ("vectors", "the vectors of the documents, for FlexIndex"),
    ):
        click.echo(f"{folder / name}: {text}")
    click.echo(
        "\nNext: read a few queries in the report. If they do not look like your users' queries, "
        "try another --base_model; then compare more systems with evaluation.select()."
    )


def _collection(folder: str, encoding: str | None) -> Collection:
    """Returns the collection in a folder; text files that cannot be read are skipped."""
    found = datasets.collection(folder)
    if isinstance(found, TextFolder):
        return TextFolder(folder, encoding=encoding, unreadable="skip")
    return found


def _retrievers(
    corpus: pd.DataFrame, encoder: BiEncoder, folder: Path
) -> tuple[pt.Transformer, pt.Transformer, pt.Transformer]:
    """Returns BM25, dense retrieval, and their fusion, over new indexes of the corpus."""
    try:
        from pyterrier_alpha.fusion import RRFusion
        from pyterrier_dr import FlexIndex
        from pyterrier_pisa import PisaIndex
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'pyterrier_inpars[demo]'"
        ) from error
    documents = corpus[["docno", "text"]].to_dict("records")
    index: Any = PisaIndex(str(folder / "index"), text_field="text", overwrite=True)
    bm25 = index.index(documents).bm25(num_results=DEPTH)
    vectors = FlexIndex(str(folder / "vectors"), verbose=False)
    (encoder.doc_encoder() >> vectors.indexer(mode="overwrite")).index(documents)
    dense = encoder.query_encoder() >> vectors.retriever(num_results=DEPTH, drop_query_vec=True)
    return bm25, dense, RRFusion(bm25, dense, num_results=DEPTH)
