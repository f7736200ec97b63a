"""`report`: one HTML file about synthetic queries, training and systems."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._files import write_text
from pyterrier_inpars._stage import check_columns, check_strings
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.report import sections
from pyterrier_inpars.report.sections import Content


def report(
    queries: SyntheticQueries | pd.DataFrame,
    pipeline: pt.Transformer | None = None,
    examples: pd.DataFrame | None = None,
    rerankers: pt.Transformer | Sequence[pt.Transformer] | Mapping[str, pt.Transformer] = (),
    experiment: Any = None,
    path: str | os.PathLike[str] = "report.html",
    *,
    retriever: pt.Transformer | None = None,
    encoder: Any = None,
    topics: pd.DataFrame | None = None,
    text_field: str | list[str] = "text",
    title: str = "Synthetic queries",
) -> Path:
    """Writes a report as one HTML file, which needs no network and has no scripts.

    Every argument but the queries is optional, and the page ends with what was not given::

        filters = LengthFilter() >> CopyFilter() >> DuplicateFilter()
        report.report(queries, filters, retriever=bm25, path="report.html")

    Parts that would take long on many queries show a sample of fixed seed, and say so: 10,000
    queries for the overlap with the document, 2,000 for near-duplicates, 1,000 for ranks, and the
    examples of 100 queries for scores. The same inputs give the same file.

    Args:
        queries: Synthetic queries, complete or not, or a frame with ``query``, and for most parts
            ``qid, docno`` and the text. Rows whose column ``dropped_by`` is set are shown as
            dropped.
        pipeline: Filters. They are applied to the queries, unless they have run before on others:
            then the counts of their last call are shown, and the queries are those that they kept.
        examples: Training examples ``qid, query, docno, text, label``, to see the scores of
            positives and negatives.
        rerankers: Rerankers, by name: ``{"before": ..., "after": ...}``. They score the examples,
            and the course of their training is shown.
        experiment: Comparison of systems: what ``pt.Experiment(..., perquery=True)`` returned, of
            which means, p-values against the first system and gains by query are shown; a table of
            ``pt.Experiment`` or `evaluation.compare`; a pair of the two; or what
            `evaluation.select` returned.
        path: HTML file to write, with the suffix ``.html``; an existing one is replaced.
        retriever: Any PyTerrier retriever, for the ranks of the source documents.
        encoder: Object whose ``encode`` returns the vectors of texts, such as a `BiEncoder`, for
            near-duplicates and leaks.
        topics: Topics ``qid, query`` of an evaluation, to look for among the queries.
        text_field: Column with the text of the document, or several.
        title: Title of the page.

    Returns:
        The path of the file.

    Raises:
        ModuleNotFoundError: The extra ``report`` is not installed.
        TypeError: An argument has another type.
        pt.validate.InputValidationError: A column is missing.
        ValueError: A value is invalid, or the path has another suffix; the error names it.
        OSError: The file cannot be written.
    """
    template = _template()
    path = _html_file(path)
    frame, metadata = _read(queries)
    check_columns(frame, "query")
    check_strings(frame, "query")
    content = Content()
    if isinstance(queries, SyntheticQueries) and not queries.built():
        content.checks.append(
            f"{queries!r} is unfinished: this report is about what was stored so far."
        )
    named = _named(rerankers)
    frame = sections.filtered(content, frame.reset_index(drop=True), pipeline, text_field)
    content.facts = {"queries": f"{len(frame):,}", **content.facts}
    if len(frame):
        sections.query_section(content, frame, text_field)
        sections.source_section(content, frame, text_field, retriever)
        sections.duplicate_section(content, frame, encoder, topics)
    sections.training_section(content, examples, named)
    sections.system_section(content, experiment)
    sections.provenance_section(content, metadata, named)
    summary = _summary(content, len(frame), metadata)
    if 0 < len(frame) < sections.FEW:
        few = "query is not enough" if len(frame) == 1 else "queries are few"
        content.checks.insert(0, f"{len(frame):,} {few}, and figures uncertain: generate more.")
    page = template.render(title=title, content=content, summary=summary)
    write_text(path, page.encode("utf-8", "replace").decode())  # of lone surrogates
    return path


def _template() -> Any:
    """Returns the template of the page, which escapes all but the HTML of `_html` and of charts.

    Raises:
        ModuleNotFoundError: The extra ``report`` is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a report needs jinja2: pip install 'pyterrier_inpars[report]'"
        ) from error
    environment = Environment(
        loader=PackageLoader("pyterrier_inpars.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    style = resources.files("pyterrier_inpars.report") / "templates" / "report.css"
    environment.globals["style"] = style.read_text(encoding="utf-8")
    return environment.get_template("report.html")


def _html_file(path: str | os.PathLike[str]) -> Path:
    """Checks, before any work, that the path can be that of a report, and not of other data.

    Raises:
        ValueError: It has another suffix.
        OSError: It is a folder, or in a file.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, not {str(path)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the path of an HTML file")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file: {path} cannot be in it")
    return path


def _number(value: Any) -> str:
    """Returns a number with three decimals; an empty string if it is missing."""
    number = pd.to_numeric(value, errors="coerce")
    return "" if pd.isna(number) else f"{number:.3f}"


def _read(queries: Any) -> tuple[pd.DataFrame, Mapping[str, Any] | None]:
    """Returns the queries as a frame, and the manifest of an artifact."""
    if isinstance(queries, SyntheticQueries):
        if queries.built():
            return queries.get_results(), queries.metadata
        return queries.head(max(1, len(queries))), None
    if not isinstance(queries, pd.DataFrame):
        raise TypeError(f"queries must be SyntheticQueries or a DataFrame, not {queries!r:.200}")
    return queries, None


def _named(rerankers: Any) -> dict[str, pt.Transformer]:
    """Returns rerankers by name.

    Raises:
        TypeError: One is not a transformer.
    """
    if isinstance(rerankers, pt.Transformer):
        rerankers = [rerankers]
    if not isinstance(rerankers, Mapping):
        rerankers = {repr(reranker): reranker for reranker in rerankers or ()}
    for name, reranker in rerankers.items():
        if not isinstance(reranker, pt.Transformer):
            raise TypeError(
                f"the reranker {name!r:.200} must be a transformer, not {reranker!r:.200}"
            )
    return dict(rerankers)


def _summary(content: Content, number: int, metadata: Mapping[str, Any] | None) -> str:
    """Returns two sentences: what the queries are, and what ranks and systems show on them."""
    findings = "; ".join(content.findings)
    second = f" {findings[0].upper()}{findings[1:]}." if findings else ""
    facts = content.facts
    if number == 0:
        return "No query is left: look at what the filters dropped, or at the prompt." + second
    settings = sections.flat((metadata or {}).get("settings") or {})
    model = next((settings[key] for key in settings if key.split(".")[-1] == "model"), None)
    text = f"{number:,} {'query' if number == 1 else 'queries'}"
    if isinstance(model, str):
        text += f" by {Path(model).name}"
    if documents := facts.get("documents"):
        text += f" for {documents} {'document' if documents == '1' else 'documents'}"
    if "kept by the filters" in facts:
        text += f" passed the filters ({facts['kept by the filters']})"
    text += f"; the median length is {facts['words per query (median)']} words"
    if "words found in the document" in facts:
        copied = facts["copied from the document"]
        copies = "none is a copy" if copied == "0.0%" else f"{copied} are copies"
        text += f", {facts['words found in the document']} of the words are in the document, and "
        text += copies
    return f"{text}.{second}"
