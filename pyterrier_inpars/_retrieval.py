"""How stages put synthetic queries to a retriever: any retriever, any text an LLM writes."""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import as_numbers, check_columns, check_strings


class _Plain(dict[int, str]):
    """For ``str.translate``: letters, marks and numbers of any script stay, all else is a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if unicodedata.category(char)[0] in "LMN" else " "
        return self[code]


_PLAIN = _Plain()


def clean(text: str) -> str:
    """The words of a text, to which no engine's query language gives a meaning.

    Letters, combining marks and numbers of every script stay, everything else becomes a space,
    white space is folded. Letters are lower case, since Lucene reads ``AND``, ``OR`` and ``NOT`` as
    operators. A text without a word gives ``""``.
    """
    return " ".join(text.lower().translate(_PLAIN).split())


def fold(text: str) -> str:
    """The text with case and white space folded: two texts that fold alike are the same text."""
    return " ".join(text.casefold().split())


def check_retriever(retriever: object) -> pt.Transformer:
    """Gives back ``retriever`` if it is a transformer.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(retriever, pt.Transformer):
        raise TypeError(f"retriever must be a PyTerrier transformer, not {retriever!r}")
    return retriever


def applied(transformer: pt.Transformer, inp: pd.DataFrame) -> pd.DataFrame:
    """What a transformer that others wrote makes of a frame.

    Raises:
        TypeError: that is no frame.
        ValueError: it has two columns of one name.
    """
    out = transformer(inp)
    if not isinstance(out, pd.DataFrame):
        raise TypeError(f"{transformer!r} must give a DataFrame, not {out!r:.200}")
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
    """What a retriever finds for each query, best first, each document once, at most ``depth``.

    The retriever sees a frame of ``qid, query`` alone (with ``docno``, Terrier would rerank), its
    queries cleaned; queries that clean alike are retrieved once, those that clean to nothing not at
    all.

    Args:
        retriever: Any transformer from queries to results with ``qid``, ``docno`` and ``rank`` or
            ``score``; its rows may come in any order.
        queries: ``qid`` (str, each once) and ``query`` (str); other columns are not looked at.
        depth: Documents a query. The cutoff is fused into the retriever where that can be done.
        columns: Columns of the results wanted besides ``docno``.
        batch_size: Queries sent to the retriever in one call, which bounds the memory taken.
        verbose: Show progress.

    Yields:
        A qid and its ``docno`` array, with an array for each of ``columns`` that the retriever
        gives. Queries without results are left out; qids come in no particular order.

    Raises:
        TypeError: the results are no frame.
        ValueError: a qid or query is no string, a qid stands twice, or the results lack a column,
            hold a qid that was not asked, a docno that is no string or a rank that is no number.
    """
    check_strings(queries, "qid", "query")
    if (twice := queries["qid"].duplicated()).any():
        raise ValueError(
            f"qid {queries['qid'][twice].iloc[0]!r} stands twice: each query needs its own"
        )
    asked: dict[str, list[str]] = {}
    for qid, query in zip(queries["qid"], queries["query"], strict=True):
        asked.setdefault(clean(query), []).append(qid)
    asked.pop("", None)
    alike = {qids[0]: qids for qids in asked.values()}
    topics = pd.DataFrame({"qid": list(alike), "query": list(asked)})
    retriever = _cut(retriever, depth)
    starts = range(0, len(topics), batch_size)
    for start in pt.tqdm(starts, disable=not verbose, desc="retrieving", unit="batch"):
        batch = topics[start : start + batch_size].reset_index(drop=True)
        results = applied(retriever, batch)
        for qid, hits in _best_first(results, batch["qid"], depth, columns):
            for same in alike[qid]:
                yield same, hits


def _cut(retriever: pt.Transformer, depth: int) -> pt.Transformer:
    """The retriever with the cutoff fused; what cannot be fused is dropped, as it needs a rank."""
    fused = (retriever % depth).compile()
    if isinstance(fused, pt.Compose) and fused[-1] == pt.RankCutoff(depth):
        return pt.Compose(*list(fused)[:-1])
    return fused


def _best_first(
    results: pd.DataFrame, qids: pd.Series, depth: int, columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    if len(results) == 0:
        return
    order_by = "rank" if "rank" in results else "score"
    if lacking := [c for c in ("qid", "docno", order_by) if c not in results]:
        raise ValueError(
            f"the retriever's results have no {', '.join(lacking)}, only "
            f"{', '.join(map(str, results))}: qid, docno and rank or score are needed"
        )
    codes, given = pd.factorize(results["qid"], use_na_sentinel=False)
    row_query = pd.Index(qids).get_indexer(pd.Index(given))[codes]
    if (strange := row_query < 0).any():
        raise ValueError(
            f"the retriever gave a qid not asked: {results['qid'].iloc[strange.argmax()]!r}"
        )
    docnos = results["docno"].to_numpy(object)
    if (kind := pd.api.types.infer_dtype(docnos, skipna=False)) != "string":
        raise ValueError(f"the docnos that the retriever gives must be strings, not {kind}")

    key = as_numbers(results, order_by)
    order = np.lexsort((key if order_by == "rank" else -key, row_query))
    pairs = row_query * len(docnos) + pd.factorize(docnos)[0]
    order = order[~pd.Series(pairs[order]).duplicated().to_numpy()]
    wanted = {c: results[c].to_numpy(object)[order] for c in columns if c in results}
    wanted = {"docno": docnos[order]} | wanted
    bounds = np.searchsorted(row_query[order], np.arange(len(qids) + 1))
    for qid, start, stop in zip(qids, bounds[:-1], bounds[1:], strict=True):
        if start < stop:
            top = slice(start, min(stop, start + depth))
            yield qid, {column: values[top] for column, values in wanted.items()}
