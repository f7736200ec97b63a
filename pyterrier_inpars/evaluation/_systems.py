"""Application of systems to topics, and their values per query."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
import pyterrier as pt
from ir_measures import Measure

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._counted import counted
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._retrieval import applied
from pyterrier_inpars._stage import as_numbers, check_strings
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.queries.topics import topics_and_qrels
from pyterrier_inpars.training.examples import are_relevant, graded_qrels

FEW = 50
"""Number of queries below which intervals are wide."""

System: TypeAlias = pt.Transformer | pd.DataFrame
Systems: TypeAlias = Sequence[System] | Mapping[str, System]


def named(systems: Systems, names: Sequence[str] | None = None) -> dict[str, System]:
    """Returns systems by name: those given, the keys of a dict, or the ``str`` of each.

    A frame of results without a name is called by its number.

    Raises:
        TypeError: A system is neither a transformer nor a frame of results.
        ValueError: There are no systems, two have one name, or there are more or fewer names.
    """
    if isinstance(systems, Mapping):
        names, systems = list(systems), list(systems.values())
    is_one = isinstance(systems, pt.Transformer | pd.DataFrame)
    systems = [] if is_one or not isinstance(systems, Iterable) else list(systems)
    if not systems:
        raise ValueError("systems must be a list of one system or more, or a dict of them by name")
    for number, system in enumerate(systems):
        if not isinstance(system, pt.Transformer | pd.DataFrame):
            raise TypeError(
                f"system {number} must be a transformer or a frame of results, not {system!r:.200}"
            )
    if names is None:
        names = [
            f"results {number}" if isinstance(system, pd.DataFrame) else str(system)
            for number, system in enumerate(systems)
        ]
    if len(names) != len(systems):
        raise ValueError(f"there are {len(systems)} systems and {len(names)} names")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{names.count(twice[0])} systems are called {twice[0]!r:.200}: give names="
        )
    return dict(zip(names, systems, strict=True))


def check_baseline(baseline: int, systems: int) -> None:
    """Checks that the baseline is the number of a system."""
    if positive_int("baseline", baseline, least=0) >= systems:
        raise ValueError(f"baseline must be a number from 0 to {systems - 1}, not {baseline!r}")


def judged_topics(
    queries: SyntheticQueries | pd.DataFrame, qrels: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns synthetic queries as topics with qrels: their source documents, or those given.

    Topics that the given qrels do not judge are left out. Fewer than 50 topics give a warning.
    """
    topics, sources = topics_and_qrels(queries)
    if qrels is None:
        qrels = sources
    qrels = graded_qrels(qrels)
    topics = topics[topics["qid"].isin(qrels["qid"])].reset_index(drop=True)
    if len(topics) == 0:
        raise ValueError("the qrels judge none of the queries: their qids must be the queries'")
    if len(topics) < FEW:
        warnings.warn(
            f"only {counted(len(topics), 'query')}: confidence intervals are wide, and the order "
            "of systems is uncertain; generate more",
            stacklevel=3,
        )
    return topics, qrels


def run_systems(
    systems: Mapping[str, System], topics: pd.DataFrame, verbose: bool = False
) -> dict[str, pd.DataFrame]:
    """Applies each system to the topics. Stages at the start of several systems run once.

    Args:
        systems: Transformers by name. A frame of results is returned unchanged.
        topics: Frame ``qid, query``.
        verbose: Whether to show progress.

    Returns:
        The results ``qid, docno, score`` of each system, by name.

    Raises:
        RuntimeError: A system fails; the error names it.
        ValueError: A system returns nothing, or invalid results; the error names it.
    """
    topics = topics[["qid", "query"]]
    stages: dict[str, tuple[pt.Transformer, ...]] = {
        name: tuple(system) if isinstance(system, pt.Compose) else (system,)
        for name, system in systems.items()
        if not isinstance(system, pd.DataFrame)
    }
    keys = {name: tuple(map(_key, line)) for name, line in stages.items()}
    uses = Counter(line[:length] for line in keys.values() for length in range(len(line) + 1))
    shared: dict[tuple[Any, ...], pd.DataFrame] = {(): topics}

    def results(name: str, length: int) -> pd.DataFrame:
        key = keys[name][:length]
        if key in shared:
            return shared[key]
        out = applied(stages[name][length - 1], results(name, length - 1))
        if uses[key] > 1:
            shared[key] = out
        return out

    found = {}
    for name, system in Progress(systems.items(), "systems", unit="systems", verbose=verbose):
        try:
            out = system if isinstance(system, pd.DataFrame) else results(name, len(stages[name]))
        except Exception as error:
            raise RuntimeError(f"the system {name!r:.200} failed: {error}") from error
        if len(out) == 0:
            raise ValueError(f"the system {name!r:.200} returned nothing for {len(topics)} queries")
        try:
            found[name] = _checked_results(out, topics)
        except ValueError as error:
            raise ValueError(f"the results of the system {name!r:.200} {error}") from None
    return found


def _key(stage: pt.Transformer) -> Any:
    """Returns what equal stages share: the stage, or its id if it has no hash, as a dataclass."""
    try:
        hash(stage)
    except TypeError:
        return id(stage)
    return stage


def _checked_results(results: pd.DataFrame, topics: pd.DataFrame) -> pd.DataFrame:
    """Returns ``qid, docno, score`` of results, with scores as numbers."""
    if missing := [c for c in ("qid", "docno", "score") if c not in results]:
        raise ValueError(f"have no {', '.join(missing)}, only {', '.join(map(str, results))}")
    try:
        check_strings(results, "qid", "docno")
        scores = as_numbers(results, "score")
    except ValueError as error:
        raise ValueError(f"are invalid: {error}") from None
    if (twice := results.duplicated(["qid", "docno"]).to_numpy()).any():
        qid, docno = results[["qid", "docno"]].iloc[int(twice.argmax())]
        raise ValueError(
            f"have docno {docno!r} twice for qid {qid!r}: keep the row with the higher score, as "
            "pt.text.max_passage() does for passages"
        )
    if not results["qid"].isin(topics["qid"]).any():
        raise ValueError(
            f"are for other queries, such as qid {results['qid'].iloc[0]!r}: the qids must be "
            f"those of the queries, such as {topics['qid'].iloc[0]!r}"
        )
    return results[["qid", "docno"]].assign(score=scores)


def warn_if_not_found(results: Mapping[str, pd.DataFrame], qrels: pd.DataFrame) -> None:
    """Warns if no system finds a relevant document, so that no measure tells them apart."""
    if not any(are_relevant(found, qrels).any() for found in results.values()):
        warnings.warn(
            "no system finds a relevant document of any query: the docnos that are judged, such as "
            f"{qrels['docno'].iloc[0]!r}, must be those of the index",
            stacklevel=3,
        )


def experiment(
    results: Mapping[str, pd.DataFrame],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    measures: Sequence[Measure | str],
    **options: Any,
) -> pd.DataFrame:
    """Returns ``pt.Experiment`` of results that were computed before."""
    return pt.Experiment(
        list(results.values()),
        topics[["qid", "query"]],
        qrels[["qid", "docno", "label"]],
        list(measures),
        names=list(results),
        validate="ignore",
        **options,
    )


def values_of(
    results: Mapping[str, pd.DataFrame],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    measures: Sequence[Measure | str],
) -> dict[str, pd.DataFrame]:
    """Returns for each measure the values of each query (row, by qid) and system (column)."""
    rows = experiment(results, topics, qrels, measures, perquery=True)
    return {
        measure: of.pivot(index="qid", columns="name", values="value")[list(results)]
        for measure, of in rows.groupby("measure", sort=False)
    }
