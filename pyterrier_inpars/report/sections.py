"""Sections of the report: what each one shows of the inputs, and what it adds to the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars import _html
from pyterrier_inpars._html import number
from pyterrier_inpars._measures import comparable
from pyterrier_inpars._stage import DROPPED_BY, check_columns, fields_of, joined_text
from pyterrier_inpars.evaluation import leaked_topics, overlap
from pyterrier_inpars.filtering import CopyFilter, DuplicateFilter, Filter, funnel
from pyterrier_inpars.generation import QueryGenerator
from pyterrier_inpars.report import figures
from pyterrier_inpars.report._numbers import (
    MOST_LISTS,
    MOST_RETRIEVED,
    MOST_TEXTS,
    MOST_VECTORS,
    beginnings,
    first_measure,
    gains_by_topic,
    mean_log_probs,
    nearest_cosines,
    of_all,
    ranks_of_sources,
    sampled,
    scores_of_examples,
    tables_of,
    word_counts,
)

if TYPE_CHECKING:
    from pyterrier_inpars.report.chart import Chart

FEW = 50
"""Number of queries below which figures on them are uncertain."""
EXAMPLES = 8
"""Number of queries that are shown."""
EXCERPT = 160
"""Number of characters of a document that are shown."""
NEAR = 0.9
"""Lowest cosine of near-duplicates."""
DEPTH = 100
"""Largest rank of a source document that is looked for."""
MANY = 0.05
"""Share of faulty queries from which the summary names them."""


@dataclass
class Part:
    """A figure, a table or queries, with a heading and a sentence on how to read it.

    Attributes:
        heading: Heading.
        reading: What the part shows, and how to read it.
        chart: The figure.
        table: HTML of the table.
        queries: Frame ``query``, with ``document`` and ``score`` if known.
    """

    heading: str
    reading: str = ""
    chart: Chart | None = None
    table: _html.Html = _html.Html("")
    queries: pd.DataFrame | None = None


@dataclass
class Section:
    """A heading of the page, and what follows it."""

    name: str
    title: str
    parts: list[Part]

    def layout(self) -> list[tuple[Part, str]]:
        """Returns the parts, with the class of each: ``half`` a row, or a ``whole`` one.

        Two figures in succession share a row.
        """
        classes: list[str] = []
        for part in self.parts:
            waiting = bool(classes) and classes[-1] == "waiting"
            if part.chart is not None and waiting:
                classes[-1:] = ["half", "half"]
            else:
                classes.append("whole" if part.chart is None else "waiting")
        shown = ("whole" if name == "waiting" else name for name in classes)
        return list(zip(self.parts, shown, strict=True))


@dataclass
class Content:
    """What the page shows.

    Attributes:
        sections: The sections, in order.
        facts: Figures on top of the page, by their names.
        findings: What ranks and systems show, for the second sentence of the summary.
        checks: What deserves attention, each with its remedy.
        missing: What was not given, with the argument to give.
    """

    sections: list[Section] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, title: str, parts: Sequence[Part | None]) -> None:
        """Adds a section, unless it has no parts."""
        if kept := [part for part in parts if part is not None]:
            self.sections.append(Section(name, title, kept))


def query_section(content: Content, frame: pd.DataFrame, text_field: str | list[str]) -> None:
    """Adds examples, lengths, log-probabilities, first words and types."""
    if "docno" in frame:
        documents = frame["docno"].nunique()
        content.facts["documents"] = f"{documents:,}"
    examples = sampled(frame.reset_index(drop=True), EXAMPLES)
    content.add(
        "queries",
        "Queries",
        [
            Part(
                "Examples",
                f"{len(examples)} of {len(frame):,} queries, drawn at random, with the beginning "
                "of their documents.",
                queries=excerpts(examples, text_field),
            ),
            _lengths(content, frame),
            _log_probabilities(content, frame),
            _beginnings(content, frame),
            _types(content, frame),
        ],
    )
    if "finish_reason" in frame and (share := (frame["finish_reason"] == "length").mean()) >= MANY:
        content.checks.append(
            f"{share:.0%} of the queries were cut at the largest number of tokens: raise "
            "max_new_tokens, or give stop= to the generator."
        )


def _lengths(content: Content, frame: pd.DataFrame) -> Part:
    words = float(np.median(word_counts(frame)))
    content.facts["words per query (median)"] = number(words)
    return Part(
        "Length",
        "Very short queries are vague, and very long ones are often answers or copies. "
        "LengthFilter drops both. Compare with queries of your users, if you have some.",
        figures.query_lengths(frame),
    )


def _log_probabilities(content: Content, frame: pd.DataFrame) -> Part | None:
    found = "log_probs" in frame or "score" in frame
    if not found or len(mean_log_probs(frame)) == 0:
        content.missing["log-probabilities"] = "the language model gave none"
        return None
    kind = "token log-probability" if "log_probs" in frame else "score"
    return Part(
        f"Mean {kind}",
        "Closer to 0 is what the model finds likely. The likeliest queries are often copies, the "
        "least likely ones off topic: ScoreFilter keeps the best k.",
        figures.log_probabilities(frame),
    )


def _beginnings(content: Content, frame: pd.DataFrame) -> Part:
    words, counts = next(
        (words, counts)
        for words in (2, 3, 4)
        if (counts := beginnings(frame, words)).iloc[0] < 0.9 * len(frame) or words == 4
    )
    share = counts.iloc[0] / len(frame)
    if share >= 0.5 and len(frame) >= FEW:
        content.checks.append(
            f"{share:.0%} of the queries begin with “{counts.index[0]}”: give several prompts, or "
            "other examples in the prompt, for more variety."
        )
    return Part(
        "First words",
        f"The first {words} words of the queries, {len(counts):,} different ones. If a few "
        "dominate, the prompt or the model repeats itself.",
        figures.first_words(frame, words),
    )


def _types(content: Content, frame: pd.DataFrame) -> Part | None:
    if "type" not in frame:
        content.missing["query types"] = "QueryGenerator(prompt={name: prompt, ...})"
        return None
    return Part("Types", "The prompt that each query was written with.", figures.query_types(frame))


def source_section(
    content: Content, frame: pd.DataFrame, text_field: str | list[str], retriever: Any
) -> None:
    """Adds overlap, copies and the rank of the source document."""
    parts: list[Part | None] = []
    if all(name in frame for name in fields_of(text_field)):
        parts += _overlap(content, frame, text_field)
    else:
        content.missing["overlap with the document"] = f"queries with the column {text_field}"
    if retriever is None:
        content.missing["rank of the source document"] = "retriever=bm25"
    else:
        parts.append(_ranks(content, frame, retriever))
    content.add("source", "Queries and their documents", parts)


def _overlap(
    content: Content, frame: pd.DataFrame, text_field: str | list[str]
) -> list[Part | None]:
    sample = sampled(frame, MOST_TEXTS)
    shares = overlap(sample, text_field).to_numpy(float)
    mean = float(shares.mean())
    checked = CopyFilter(text_field=text_field, explain=True).transform(sample)
    copies = sample[checked[DROPPED_BY].notna().to_numpy()]
    share = len(copies) / len(sample)
    content.facts["words found in the document"] = f"{mean:.0%}"
    content.facts["copied from the document"] = f"{share:.1%}"
    if share >= MANY:
        content.checks.append(
            f"{share:.0%} of the queries are copied word for word from their document, which any "
            "lexical system finds: CopyFilter drops them."
        )
    if mean >= 0.7:
        content.checks.append(
            f"The queries share {mean:.0%} of their words with their document, which favors "
            "lexical systems such as BM25 in a comparison: OverlapFilter(0.7) drops the easiest."
        )
    chart = figures.overlap_chart(shares, of_all(frame, MOST_TEXTS))
    parts: list[Part | None] = [
        Part(
            "Overlap with the document",
            "Share of a query's distinct words that are in its document: at 1 the query only "
            "repeats it.",
            chart,
        )
    ]
    if len(copies):
        parts.append(
            Part(
                "Copied queries",
                f"{len(copies):,} of {len(sample):,} queries are a passage of their document, "
                f"ignoring case and punctuation{of_all(frame, MOST_TEXTS)}. Three of them:",
                queries=excerpts(copies.head(3), text_field),
            )
        )
    return parts


def _ranks(content: Content, frame: pd.DataFrame, retriever: Any) -> Part:
    check_columns(frame, "qid", "query", "docno")
    ranks = ranks_of_sources(frame, retriever, DEPTH)
    first, lost = float((ranks == 1).mean()), float(np.isinf(ranks).mean())
    content.facts["source document ranked first"] = f"{first:.0%}"
    if lost >= 0.3:
        content.checks.append(
            f"The retriever does not find the source document of {lost:.0%} of the queries in its "
            f"top {DEPTH}: these are off topic, or too general. RoundTripFilter drops them."
        )
    content.findings.append(
        f"the retriever ranks the source document first for {first:.0%} of the queries"
    )
    return Part(
        "Rank of the source document",
        "Where a retriever finds the document that a query was written for. RoundTripFilter(k) "
        "keeps the top k. Queries all at rank 1 are too easy to tell systems apart; many that are "
        "not found are off topic, or too general.",
        figures.ranks_chart(ranks, DEPTH, of_all(frame, MOST_RETRIEVED)),
    )


def duplicate_section(content: Content, frame: pd.DataFrame, encoder: Any, topics: Any) -> None:
    """Adds duplicates, near-duplicates, and topics that are among the queries."""
    unique = len(DuplicateFilter().transform(frame))
    share = 1 - unique / len(frame)
    content.facts["duplicates"] = f"{share:.1%}"
    if share >= MANY:
        content.checks.append(
            f"{share:.0%} of the queries are duplicates of others: DuplicateFilter keeps one of "
            "each."
        )
    counts = frame["query"].value_counts()
    counts = counts[counts > 1].head(5)
    parts: list[Part | None] = []
    if len(counts):
        repeated = pd.DataFrame({"query": counts.index, "times": counts.to_numpy()})
        parts.append(
            Part(
                "Duplicates",
                f"{len(frame) - unique:,} of {len(frame):,} queries repeat another one, ignoring "
                "case and white space. The most frequent ones:",
                table=_html.table(repeated),
            )
        )
    if encoder is None:
        content.missing["near-duplicates"] = "encoder=BiEncoder(model)"
    elif len(frame) > 1:
        parts.append(_near_duplicates(content, frame, encoder))
    if topics is None:
        content.missing["leak check"] = "topics=, those of the evaluation"
    else:
        parts.append(_leaks(content, frame, encoder, topics))
    content.add("duplicates", "Duplicates and leaks", parts)


def _near_duplicates(content: Content, frame: pd.DataFrame, encoder: Any) -> Part:
    cosines = nearest_cosines(frame, encoder)
    near = float((cosines >= NEAR).mean())
    if near >= 0.1:
        content.checks.append(
            f"{near:.0%} of the queries have a near-duplicate: SemanticDuplicateFilter(encoder) "
            "keeps one of each."
        )
    return Part(
        "Near-duplicates",
        f"Cosine of each query and the one most similar to it{of_all(frame, MOST_VECTORS)}. "
        f"{near:.1%} have another with at least {NEAR}, which says the same in other words.",
        figures.nearest_chart(cosines, of_all(frame, MOST_VECTORS)),
    )


def _leaks(content: Content, frame: pd.DataFrame, encoder: Any, topics: pd.DataFrame) -> Part:
    found = leaked_topics(frame, topics)
    if encoder is not None:
        near = leaked_topics(sampled(frame, MOST_VECTORS), topics, encoder, NEAR)
        found = pd.concat([found, near]).drop_duplicates("qid")
    kind = "equal or nearly equal" if encoder is not None else "equal"
    sample = of_all(frame, MOST_VECTORS) if encoder is not None else ""
    reading = (
        f"{len(found):,} of {len(topics):,} topics are {kind} to a synthetic query, ignoring case "
        f"and punctuation{sample}."
    )
    if len(found) == 0:
        return Part("Leak check", reading)
    content.checks.append(
        f"{len(found):,} of {len(topics):,} evaluation topics are among the queries: exclude "
        "them from the evaluation, see evaluation.leaked_topics."
    )
    return Part(
        "Leak check",
        f"{reading} Their results in an evaluation are too good.",
        table=_html.table(found.head(10)[["qid", "query", "synthetic_query", "similarity"]]),
    )


def filtered(
    content: Content, frame: pd.DataFrame, pipeline: Any, text_field: str | list[str]
) -> pd.DataFrame:
    """Adds the section on filters; returns the queries that they keep."""
    dropped_by = pd.Series(frame.get("dropped_by"), frame.index, dtype=object)
    if pipeline is None and dropped_by.isna().all():
        content.missing["filters"] = "pipeline=LengthFilter() >> CopyFilter(), or the like"
        return frame.drop(columns="dropped_by", errors="ignore")
    if pipeline is None:
        counts = dropped_by.value_counts()
        table = pd.DataFrame({"filter": counts.index, "dropped": counts.to_numpy()})
        samples = {str(name): frame[dropped_by == name].head(3) for name in counts.index}
        parts = [
            Part(
                "Dropped queries",
                "Queries by the filter that dropped them.",
                table=_html.table(table),
            )
        ]
    else:
        frame, counted, samples = _run(frame, pipeline)
        parts = [
            Part(
                "Queries after each filter",
                "Each bar is what a filter left. One that drops most of what it sees is too "
                "strict, or the prompt does not suit it.",
                figures.filter_funnel(counted),
                _html.table(counted),
            )
        ]
        _funnel_facts(content, counted)
    for name, rows in samples.items():
        if len(rows):
            parts.append(Part(f"{name} dropped, for example", queries=excerpts(rows, text_field)))
    content.add("filters", "What the filters dropped", parts)
    dropped = (
        frame["dropped_by"].notna() if "dropped_by" in frame else pd.Series(False, frame.index)
    )
    return frame[~dropped].drop(columns="dropped_by", errors="ignore").reset_index(drop=True)


def _run(
    frame: pd.DataFrame, pipeline: pt.Transformer
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Returns kept queries, the table of `funnel`, and dropped queries by the filters' names.

    The filters run if they have not, or if the frame has as many rows as their last input, and no
    row that they dropped with ``explain=True``.
    """
    stages = list(pipeline) if isinstance(pipeline, pt.Compose) else [pipeline]
    filters = [stage for stage in stages if isinstance(stage, Filter)]
    if not filters:
        return frame, funnel(pipeline), {}
    generates = any(isinstance(stage, QueryGenerator) for stage in stages)
    has_run = any(stage.last_seen for stage in filters)
    explained = "dropped_by" in frame and frame["dropped_by"].notna().any()
    unfiltered = len(frame) == filters[0].last_seen and not explained
    drops = any(stage.last_dropped for stage in filters)
    if not generates and (not has_run or (unfiltered and drops)):
        frame = pipeline.transform(frame)
    samples: dict[str, pd.DataFrame] = {}
    for stage in filters:
        samples.setdefault(type(stage).__name__, stage.dropped_examples.head(3))
    return frame, funnel(pipeline), samples


def _funnel_facts(content: Content, table: pd.DataFrame) -> None:
    before, after = int(table["seen"].iloc[0]), int(table["kept"].iloc[-1])
    if before:
        content.facts["kept by the filters"] = f"{after / before:.0%} of {before:,}"
    for row in table.to_dict("records"):
        if row["seen"] >= FEW and row["dropped"] >= 0.5 * row["seen"]:
            content.checks.append(
                f"{row['stage']} dropped {row['dropped'] / row['seen']:.0%} of the queries that it "
                "saw: look at its examples below."
            )


def training_section(
    content: Content, examples: Any, rerankers: Mapping[str, pt.Transformer]
) -> None:
    """Adds scores of positives and negatives, and the curves of each training."""
    parts: list[Part | None] = []
    if examples is not None:
        check_columns(examples, "qid", "docno", "label")
    if examples is None:
        content.missing["positives and negatives"] = "examples=, of a NegativeMiner"
    elif not rerankers and "score" not in examples:
        content.missing["positives and negatives"] = "rerankers={'before': ..., 'after': ...}"
    else:
        parts.append(_scores(examples, rerankers))
    logs = {name: getattr(reranker, "training_log", None) for name, reranker in rerankers.items()}
    logs = {name: log for name, log in logs.items() if log is not None and len(log)}
    for name, log in logs.items():
        parts.append(
            Part(
                f"{name}: loss and validation",
                "The loss should fall, and the measure on validation queries should rise. Step 0 "
                "is before training.",
                figures.training_curves(log),
            )
        )
        parts.append(_verdict(content, name, rerankers[name]))
    if not logs:
        content.missing["loss and validation"] = "rerankers=, trained ones"
    content.add("training", "Training", parts)


def _scores(examples: pd.DataFrame, rerankers: Mapping[str, pt.Transformer]) -> Part:
    rows, table = scores_of_examples(examples, rerankers)
    queries = pd.DataFrame({"qid": examples["qid"].unique()})
    return Part(
        "Positives and negatives",
        f"Scores of the examples{of_all(queries, MOST_LISTS)}. The further apart the two "
        "are, the better a reranker separates them. “ordered” is the share of pairs in which the "
        "positive has the higher score: 0.5 is chance.",
        figures.scores_chart(rows),
        _html.table(table),
    )


def _verdict(content: Content, name: str, reranker: Any) -> Part | None:
    table = getattr(reranker, "verdict", None)
    if table is None:
        return None
    known = (getattr(reranker, "provenance", None) or {}).get("verdict")  # a loaded one has none
    reading = f"{known['summary'][0].upper()}{known['summary'][1:]}." if known else ""
    if known and known["helped"] is False:
        content.checks.append(f"{name}: {known['summary']}.")
    measured = table.drop(columns=["system", "queries", "p", "kept"], errors="ignore").notna()
    shown = _html.table(table) if measured.to_numpy().any() else _html.Html("")
    return Part(f"{name}: did training help?", reading, table=shown)


def system_section(content: Content, experiment: Any) -> None:
    """Adds the table of an experiment, the means, and the gains by topic."""
    if experiment is None:
        content.missing["comparison of systems"] = (
            "experiment=, of pt.Experiment(..., perquery=True) or evaluation.select"
        )
        return
    table, values = tables_of(experiment)
    parts: list[Part | None] = []
    if table is not None:
        if "type" in table:  # of compare(by_type=True)
            table = table[table["type"] == "all"]
        measure = first_measure(table)
        means = figures.system_means(table, measure)
        best = table.loc[comparable(pd.to_numeric(table[measure])).idxmax()]
        content.findings.append(_best(table, best, measure))
        parts.append(
            Part(
                "Means",
                "Each dot is the mean of a system over the queries or topics; lines are confidence "
                "intervals, where the table has them.",
                means,
            )
        )
        parts.append(
            Part(
                "Table",
                "A p-value below 0.05 means that a difference is unlikely to be chance; of several "
                "comparisons, use corrected ones.",
                table=_html.table(table),
            )
        )
    if values is None:
        content.missing["gains by query"] = "experiment=pt.Experiment(..., perquery=True)"
    elif values["name"].nunique() > 1:
        _, measure, baseline = gains_by_topic(values)
        parts.append(
            Part(
                "Gain by query",
                f"{measure} of each query less that of {baseline}, in descending order: filled is "
                "a gain, hatched a loss. A mean gain from a few queries is fragile.",
                figures.topic_gains(values),
            )
        )
    content.add("systems", "Comparison of systems", parts)


def _best(table: pd.DataFrame, best: pd.Series, measure: str) -> str:
    """Returns a clause on the best system."""
    if len(table) == 1:
        return f"{best['name']} has a {measure} of {float(best[measure]):.3f}"
    text = f"of {len(table):,} systems, {best['name']} has the highest {measure}, "
    text += f"{float(best[measure]):.3f}"
    first = table.iloc[0]
    if first["name"] != best["name"]:
        text += f", against {float(first[measure]):.3f} of {first['name']}"
        p = best.get(f"{measure} p-value corrected", best.get(f"{measure} p-value"))
        if p is not None and pd.notna(p):
            text += f" (p = {float(p):.2g})"
    elif "candidate" in table and (others := int(table["candidate"].sum()) - 1):
        text += f"; {others:,} {'is' if others == 1 else 'are'} not significantly worse"
    return text


def provenance_section(
    content: Content, metadata: Mapping[str, Any] | None, rerankers: Mapping[str, Any]
) -> None:
    """Adds the settings, versions and fingerprints of queries and rerankers."""
    parts: list[Part | None] = []
    if metadata is None:
        content.missing["provenance of the queries"] = "queries=SyntheticQueries(path), not a frame"
    else:
        parts += _query_provenance(metadata)
    for name, reranker in rerankers.items():
        if known := getattr(reranker, "provenance", None):
            settings = dict(known.get("settings") or {})
            settings.pop("validation_qrels", None)  # a whole table
            facts = {"reranker": repr(reranker), "weights": known.get("weights")} | flat(settings)
            facts |= flat({key: known.get(key) for key in ("batches", "versions")})
            parts.append(Part(f"{name}: training", table=_html.facts(facts)))
    parts.append(
        Part(
            "This report",
            "",
            table=_html.facts(
                {"pyterrier_inpars": version("pyterrier_inpars"), "pyterrier": pt.__version__}
            ),
        )
    )
    content.add("provenance", "Provenance", parts)


def _query_provenance(metadata: Mapping[str, Any]) -> list[Part | None]:
    facts = {key: metadata.get(key) for key in ("documents", "queries", "fingerprint")}
    facts["stages after the generator"] = ", ".join(metadata.get("stages") or []) or None
    settings = flat(metadata.get("settings") or {})
    versions = [entry.get("packages", {}) for entry in metadata.get("versions") or []]
    return [
        Part(
            "Queries",
            "The fingerprint is a SHA-256 of the documents, in order.",
            table=_html.facts(facts),
        ),
        Part("Settings of the generator", "", table=_html.facts(settings)) if settings else None,
        Part("Versions of packages", "", table=_html.facts(versions[-1]))
        if versions and versions[-1]
        else None,
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings with dotted names; values of lists are in quotes."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[f"{prefix}{name}"] = ", ".join(map(repr, value)) or None
        elif value != "":
            found[f"{prefix}{name}"] = value
    return found


def excerpts(rows: pd.DataFrame, text_field: str | list[str]) -> pd.DataFrame:
    """Returns queries with the beginnings of their documents."""
    table = pd.DataFrame({"query": rows["query"]})
    if all(name in rows for name in fields_of(text_field)):
        texts = (" ".join(text.split()) for text in joined_text(rows, text_field))
        table["document"] = [t if len(t) <= EXCERPT else f"{t[:EXCERPT]}…" for t in texts]
    elif "docno" in rows:
        table["document"] = rows["docno"]
    if "score" in rows:
        table["score"] = rows["score"]
    return table
