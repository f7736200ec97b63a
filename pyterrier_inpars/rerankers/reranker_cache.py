"""RerankerCache: scores of a reranker on disk, by its weights."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars._stage import Stage, check_strings, joined_text
from pyterrier_inpars.rerankers.base import Reranker

TEXT_KEY = "text_sha256"
"""Column of the hash of a document's text, by which scores are stored."""


class RerankerCache(Stage):
    """Keeps the scores of a reranker on disk, and computes only those that are missing.

    It is a ``ScorerCache`` of ``pyterrier_caching`` (extra ``caching``) with two differences. The
    scores are stored by the reranker's fingerprint, so that a retrained reranker, or one with
    another ``max_length``, prompt, template or ``dtype``, never gets old scores; and by query and
    text instead of query and ``docno``, so that a document whose text has changed is scored
    again::

        cached = RerankerCache("scores", monot5)
        pt.Experiment([bm25, bm25 % 100 >> text >> cached], topics, qrels, ["nDCG@10"])

    Scores by earlier weights stay in the folder: load the reranker that had them, and they are used
    again. The network is loaded to compute its fingerprint, also if all scores are stored.

    Only scores of a pair of query and text can be cached, not those that depend on other documents
    of the query, such as of ``ScoreFusion`` or ``VectorPRF``: cache the rerankers in them.

    Args:
        path: Folder, created on first use. It has a ``pyterrier_caching.ScorerCache`` for each
            fingerprint.
        reranker: ``MonoT5``, ``CrossEncoder`` or ``BiEncoder``.
        verbose: Whether to print how many scores were stored, and how many were computed.

    Attributes:
        path: Folder.
        reranker: The reranker.

    Raises:
        TypeError: ``reranker`` is of another class, or ``path`` is not a path.
        FileExistsError: ``path`` is that of a file; on first use.
        ModuleNotFoundError: ``pyterrier_caching`` is not installed.
    """

    schematic = {"label": "RerankerCache", "help_url": None}

    def __init__(self, path: str | os.PathLike[str], reranker: Reranker, *, verbose: bool = False):
        if not isinstance(reranker, Reranker):
            raise TypeError(
                f"RerankerCache needs a MonoT5, CrossEncoder or BiEncoder, which have a "
                f"fingerprint, not {reranker!r:.200}: cache the rerankers in it, or use "
                f"pyterrier_caching.ScorerCache, with a new folder whenever its scores change"
            )
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be that of a folder, not {path!r:.200}")
        if find_spec("pyterrier_caching") is None:
            raise ModuleNotFoundError(
                "RerankerCache needs pyterrier_caching: pip install 'pyterrier_inpars[caching]'"
            )
        self.path = path
        self.reranker = reranker
        self.verbose = verbose

    def _required_columns(self) -> list[str]:
        return self.reranker._required_columns()

    def _output_columns(self, columns: list[str]) -> list[str]:
        return self.reranker._output_columns(columns)

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "query")
        texts = pd.Series(joined_text(inp, self.reranker.text_field))
        keys = ["query", TEXT_KEY]
        rows = inp.assign(**{TEXT_KEY: [sha256(text.encode()).hexdigest() for text in texts]})
        with self._scorer_cache() as cache:
            # ScorerCache fails on a pair that occurs twice, as in two topics with one text.
            scored = cache(rows.drop_duplicates(keys))
        scores = rows[keys].merge(scored[[*keys, "score"]], how="left", on=keys)["score"]
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=scores.astype("float64")))

    def _scorer_cache(self) -> AbstractContextManager[Any]:
        """Returns the open cache of the reranker as it is now."""
        from pyterrier_caching import ScorerCache

        folder = Path(self.path).expanduser()
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file: give RerankerCache the path of a folder")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{type(self.reranker).__name__}-{self.reranker.scores_fingerprint()[:16]}"
        return ScorerCache(
            folder / name, self.reranker, group="query", key=TEXT_KEY, verbose=self.verbose
        )
