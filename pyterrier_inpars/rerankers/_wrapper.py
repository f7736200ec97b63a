"""Base class of the stages that apply other rerankers."""

from __future__ import annotations

import pyterrier as pt

from pyterrier_inpars._stage import Stage, with_columns


class RerankerWrapper(Stage):
    """Declares the columns of a stage that applies ``self.reranker``.

    Attributes:
        reranker: Transformer that scores results, or a pipeline that ends with one.
    """

    reranker: pt.Transformer
    _own_columns: tuple[str, ...] = ()

    def _required_columns(self) -> list[str]:
        return with_columns(self._own_columns, *required_by(self.reranker))

    def _output_columns(self, columns: list[str]) -> list[str]:
        return scored(self.reranker, columns)


def required_by(reranker: pt.Transformer) -> list[str]:
    """Returns the columns that a reranker requires."""
    first, *others = pt.inspect.transformer_inputs(reranker, strict=False) or [[]]
    # A filter in the pipeline declares columns that it does not need as its first mode.
    return min(
        (
            mode
            for mode in others
            if set(mode) < set(first)
            and pt.inspect.transformer_outputs(reranker, mode, strict=False) is not None
        ),
        key=len,
        default=first,
    )


def scored(reranker: pt.Transformer, columns: list[str]) -> list[str]:
    """Returns the columns of a reranker's output, with ``score`` and ``rank`` at the end."""
    given = pt.inspect.transformer_outputs(reranker, columns, strict=False) or columns
    return with_columns([c for c in given if c not in ("score", "rank")], "score", "rank")
