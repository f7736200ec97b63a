"""Stages that add the vectors of a bi-encoder to a frame, for indexes of dense vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pyterrier_inpars._stage import Stage, check_strings, fields_of, joined_text, with_columns
from pyterrier_inpars.rerankers.base import NOT_FINITE
from pyterrier_inpars.training._finite import NotFiniteError

DOCUMENTS = 1024
"""Number of documents of a stream that are encoded together."""


class Encoder(Stage):
    """Base class of the two encoders, which use the network and the settings of a bi-encoder.

    They follow the bi-encoder: after a ``fit``, they give the vectors of the trained weights.
    Two encoders are equal if they belong to the same object, so that ``pt.Experiment`` with
    ``plan="tree"`` encodes the queries once for several indexes.

    Args:
        encoder: `BiEncoder`.
    """

    _task: str
    _vector: str
    _made_by: str

    def __init__(self, encoder: Any):
        self.encoder = encoder

    def subtransformers(self) -> dict:
        """Returns nothing: the bi-encoder itself is a reranker, which is not applied."""
        return {}

    def _texts(self, inp: pd.DataFrame) -> list[str]:
        raise NotImplementedError

    def _output_columns(self, columns: list[str]) -> list[str]:
        return with_columns(columns, self._vector)

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        vectors = self.encoder.encode(self._texts(inp), self._task)
        if (bad := ~np.isfinite(vectors).all(axis=1)).any():
            column = self._required_columns()[0]
            raise NotFiniteError(
                f"{self!r} computed a vector that is not finite for {column} "
                f"{inp[column].iloc[bad.argmax()]!r}: {NOT_FINITE}"
            )
        return inp.assign(**{self._vector: pd.Series(list(vectors), dtype=object)})

    def __repr__(self) -> str:
        return f"{self.encoder!r}.{self._made_by}()"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.encoder is self.encoder

    def __hash__(self) -> int:
        return hash((type(self), id(self.encoder)))


class QueryEncoder(Encoder):
    """Adds the column ``query_vec``; see `BiEncoder.query_encoder`."""

    schematic = {"label": "QueryEncoder", "help_url": None}
    _task, _vector, _made_by = "query", "query_vec", "query_encoder"

    def _required_columns(self) -> list[str]:
        return ["qid", "query"]

    def _texts(self, inp: pd.DataFrame) -> list[str]:
        check_strings(inp, "query")
        return inp["query"].tolist()


class DocEncoder(Encoder):
    """Adds the column ``doc_vec``; see `BiEncoder.doc_encoder`."""

    schematic = {"label": "DocEncoder", "help_url": None}
    _task, _vector, _made_by = "document", "doc_vec", "doc_encoder"

    @property
    def batch_size(self) -> int:
        """Number of documents that ``pipeline.index(...)`` passes at once.

        It is more than the batch of the network, so that documents of similar length share one.
        """
        return max(DOCUMENTS, self.encoder.batch_size)

    def _required_columns(self) -> list[str]:
        return ["docno", *fields_of(self.encoder.text_field)]

    def _texts(self, inp: pd.DataFrame) -> list[str]:
        return joined_text(inp, self.encoder.text_field)
