"""Retrieval with synthetic queries: any retriever, and any text that an LLM writes."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._passages import Sources
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars._stage import as_numbers, check_columns, check_strings
from pyterrier_inpars._words import split_words, word_pairs, words_and_pairs


class _Visible(dict[int, str]):
    """Table for ``str.translate``: removes characters that change only how others look.

    These are format characters, such as soft hyphens and byte order marks, and variation selectors,
    which choose between a sign and its emoji. Search engines ignore them within words (Unicode's
    annex 29). A zero-width space becomes a space, and so does a non-joiner, as in Lucene's Persian
    analyzer.
    """

    def __missing__(self, code: int) -> str:
        char = chr(code)
        is_variation = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
        is_invisible = is_variation or unicodedata.category(char) == "Cf"
        self[code] = " " if char in "\u200b\u200c" else "" if is_invisible else char
        return self[code]


class _Words(dict[int, str]):
    """Table for ``str.translate``: keeps letters, marks and numbers; the rest becomes spaces."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if unicodedata.category(char)[0] in "LMN" else " "
        return self[code]


_VISIBLE = _Visible()
_WORDS = _Words()


def clean(text: str) -> str:
    """Removes everything from a query that a search engine may read as an operator.

    Letters, combining marks and numbers of every script are kept; invisible characters within words
    are removed, such as soft hyphens; every other character becomes a space, and white space is
    normalized. Letters become lowercase, because Lucene reads ``AND``, ``OR`` and ``NOT`` as
    operators. The result is in Unicode's form NFC. A text without words becomes ``""``.
    """
    visible = text.lower().translate(_VISIBLE)
    return " ".join(unicodedata.normalize("NFC", visible).translate(_WORDS).split())


def fold(text: str) -> str:
    """Folds case, normalizes Unicode to NFC and white space to single spaces, to compare texts.

    Invisible characters are removed.
    """
    folded = unicodedata.normalize("NFD", text.translate(_VISIBLE)).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def clean_folded(text: str) -> str:
    """Returns a text to compare its words: as `clean` leaves it, with case folded."""
    return clean(text.casefold())


def words_of(text: str) -> list[str]:
    """Returns the words of `clean_folded`, as `split_words` does."""
    return split_words(clean_folded(text))


def shared_words(query: str, text: str) -> float:
    """Returns the share of a query's distinct words that are in a text; 0 if it has no words.

    Words are compared as `clean_folded` leaves them. In scripts without spaces, pairs of letters
    are compared; see `word_pairs`.
    """
    words = set(word_pairs(clean_folded(query)))
    if not words:
        return 0.0
    # A letter that is single in the query may be in a pair of the text.
    return len(words & words_and_pairs(clean_folded(text))) / len(words)


def check_retriever(retriever: object) -> pt.Transformer:
    """Returns ``retriever`` if it is a transformer.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(retriever, pt.Transformer):
        raise TypeError(f"retriever must be a PyTerrier transformer, not {retriever!r}")
    return retriever


def applied(transformer: pt.Transformer, inp: pd.DataFrame) -> pd.DataFrame:
    """Applies a user's transformer to a copy of a frame and checks its output.

    The transformer may change the copy, as ``pt.apply.generic`` makes easy.

    Raises:
        TypeError: The output is not a frame.
        ValueError: The output has duplicate column names.
    """
    out = transformer(inp.copy())
    if not isinstance(out, pd.DataFrame):
        raise TypeError(f"{transformer!r} must return a DataFrame, not {out!r:.200}")
    check_columns(out)
    return out


def retrieve(
    retriever: pt.Transformer,
    queries: pd.DataFrame,
    depth: int,
    *,
    columns: Sequence[str] = (),
    batch_size: int = 100,
    verbose: bool = False,
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Retrieves the top documents of each query, in rank order and without duplicates.

    The retriever gets a frame with only ``qid`` and ``query``, since Terrier reranks a frame that
    has a ``docno``. Queries are cleaned by `clean`. Queries that are equal after cleaning are
    retrieved once, and empty ones are skipped.

    Args:
        retriever: Transformer from queries to results with ``qid``, ``docno`` and ``rank`` or
            ``score``, in any order of rows.
        queries: Frame with ``qid`` (str, unique) and ``query`` (str). A column ``docno``, the
            source documents, is used only to detect an engine that cuts ids at white space, and
            passages where documents are compared; other columns are ignored.
        depth: Largest number of documents for each query. The cutoff is fused into the retriever
            where possible.
        columns: Columns of the results to return besides ``docno``.
        batch_size: Number of queries in one call of the retriever, which bounds the memory use.
        verbose: Whether to show progress.

    Yields:
        The qid and a dict of arrays: ``docno``, and those of ``columns`` that the results have.
        Queries without results are left out. The order of the qids is undefined.

    Raises:
        TypeError: The results are not a frame.
        ValueError: A qid or query is not a string, or a qid is a duplicate. Or the results lack a
            column, or have an unknown qid, a docno that is not a string or is cut at white space,
            or a rank that is not a number. Or they have documents where the queries have passages,
            or passages where the queries have documents.
    """
    check_strings(queries, "qid", "query")
    if (duplicate := queries["qid"].duplicated()).any():
        raise ValueError(
            f"duplicate qid {queries['qid'][duplicate].iloc[0]!r}: each query needs its own qid"
        )
    qids_of: dict[str, list[str]] = {}
    for qid, query in zip(queries["qid"], queries["query"], strict=True):
        qids_of.setdefault(clean(query), []).append(qid)
    qids_of.pop("", None)
    equal = {qids[0]: qids for qids in qids_of.values()}
    topics = pd.DataFrame({"qid": list(equal), "query": list(qids_of)})
    sources = [docno for docno in queries.get("docno", ()) if isinstance(docno, str)]
    units = Sources(sources)
    with_space = {d.split()[0]: d for d in sources if d.strip() and d.split() != [d]}

    def check(docnos: Iterable[str]) -> None:
        _check_ids_uncut(docnos, with_space)
        units.check(docnos)

    retriever = with_cutoff(retriever, depth)
    starts = range(0, len(topics), batch_size)
    for start in Progress(starts, "retrieving", unit="batches", verbose=verbose):
        batch = topics[start : start + batch_size].reset_index(drop=True)
        results = applied(retriever, batch)
        for qid, hits in _best_first(results, batch["qid"], depth, columns, check):
            for other in equal[qid]:
                yield other, hits


def _check_ids_uncut(docnos: Iterable[str], with_space: Mapping[str, str]) -> None:
    """Checks that an engine returns docnos with white space whole.

    Args:
        docnos: Docnos of results.
        with_space: Source documents whose docno contains white space, by its first word.

    Raises:
        ValueError: There is the first word of such a docno, and no docno with white space.
    """
    if not with_space:
        return
    found = set(docnos)
    if (cut := with_space.keys() & found) and all(docno.split() == [docno] for docno in found):
        first = min(cut)
        raise ValueError(
            f"the retriever returns the docno {first!r}, but the document is {with_space[first]!r}:"
            " it cuts ids at white space, as PISA does. Index the collection under ids without "
            "white space, or use another engine, such as LuceneIndex"
        )


def with_cutoff(retriever: pt.Transformer, depth: int) -> pt.Transformer:
    """Fuses a rank cutoff into the retriever, or drops it, since a separate one needs ranks."""
    depth = max(depth, 2)  # retrievers of pyterrier_dr 0.8 return lists in the columns for 1
    fused = (retriever % depth).compile()
    if isinstance(fused, pt.Compose) and fused[-1] == pt.RankCutoff(depth):
        return pt.Compose(*list(fused)[:-1])
    return fused


def _best_first(
    results: pd.DataFrame,
    qids: pd.Series,
    depth: int,
    columns: Sequence[str],
    check: Callable[[Iterable[str]], None],
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields each qid with its top documents, as `retrieve` does, from the results of a batch.

    Args:
        results: The results.
        qids: Qids of the batch.
        depth: See `retrieve`.
        columns: See `retrieve`.
        check: Check of the docnos, which gets each of them once, since there are few of them
            compared with the rows.
    """
    if len(results) == 0:
        return
    order_by = "rank" if "rank" in results else "score"
    if missing := [c for c in ("qid", "docno", order_by) if c not in results]:
        raise ValueError(
            f"the retriever's results have no {', '.join(missing)}, only "
            f"{', '.join(map(str, results))}: qid, docno and rank or score are required"
        )
    codes, given = pd.factorize(results["qid"], use_na_sentinel=False)
    row_query = pd.Index(qids).get_indexer(pd.Index(given))[codes]
    if (unknown := row_query < 0).any():
        raise ValueError(
            f"the retriever returned an unknown qid: {results['qid'].iloc[unknown.argmax()]!r}"
        )
    docnos = results["docno"].to_numpy(object)
    if (kind := pd.api.types.infer_dtype(docnos, skipna=False)) != "string":
        raise ValueError(f"the docnos of the retriever must be strings, not {kind}")
    docno_codes, distinct = pd.factorize(docnos)
    check(distinct)

    key = as_numbers(results, order_by)
    order = np.lexsort((key if order_by == "rank" else -key, row_query))
    pairs = row_query * len(docnos) + docno_codes
    order = order[~pd.Series(pairs[order]).duplicated().to_numpy()]
    wanted = {c: results[c].to_numpy(object)[order] for c in columns if c in results}
    wanted = {"docno": docnos[order]} | wanted
    bounds = np.searchsorted(row_query[order], np.arange(len(qids) + 1))
    for qid, start, stop in zip(qids, bounds[:-1], bounds[1:], strict=True):
        if start < stop:
            top = slice(start, min(stop, start + depth))
            yield qid, {column: values[top] for column, values in wanted.items()}


def warn_if_shallow(found: int, name: str, depth: int) -> bool:
    """Warns if a retriever returns fewer documents than a stage uses.

    Args:
        found: Largest number of documents that the retriever returned for a query.
        name: Parameter with the number of documents that the stage uses.
        depth: Value of the parameter.

    Returns:
        Whether there was a warning.
    """
    if shallow := 0 < found < depth:
        warnings.warn(
            f"the retriever returned at most {found:,} documents for a query, fewer than "
            f"{name}={depth}: let it return more, such as bm25(num_results={depth}), or lower "
            f"{name}",
            stacklevel=user_level(),
        )
    return shallow
