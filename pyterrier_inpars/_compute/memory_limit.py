"""Smaller batches for a device whose memory a batch does not fit into."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")

MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "RESOURCE_EXHAUSTED",
    "bad allocation",
    "_ALLOC_FAILED",
)
"""Parts of the errors of PyTorch's CPU allocator on Linux and Windows, MPS, XLA, oneDNN, and cuBLAS
and cuDNN."""
REMEDY = (
    "limit the length of texts, choose a smaller model or dtype='bfloat16', or free the memory "
    "that other programs use"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory cannot be allocated."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


class MemoryLimit:
    """Number of rows per batch, halved whenever a batch does not fit into memory.

    It stays lowered for later batches. As results do not depend on the batch, they are those of the
    smaller size.

    Args:
        stage: Name of what computes, for warnings and errors.

    Attributes:
        rows: Maximum number of rows; ``None`` until a batch does not fit.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.rows: int | None = None

    def capped(self, size: int) -> int:
        """Returns a batch size, or the limit if that is less."""
        return size if self.rows is None else min(size, self.rows)

    def lower(self, rows: int, longest: str, error: BaseException) -> None:
        """Halves the limit after a batch that did not fit, with a warning.

        Args:
            rows: Number of rows of the batch.
            longest: Its longest row in words, such as ``"a prompt of 512 tokens"``.
            error: The error of the batch.

        Raises:
            MemoryError: The batch has one row.
        """
        if rows <= 1:
            raise MemoryError(
                f"{self.stage}: {longest} does not fit into memory, even alone: {REMEDY}"
            ) from error
        self.rows = rows // 2
        warnings.warn(
            f"{self.stage}: a batch of {rows:,} does not fit into memory: batches of at most "
            f"{self.rows:,} from now on; batch_size={self.rows} avoids the failed attempt",
            stacklevel=3,
        )

    def run(
        self,
        rows: Sequence[int],
        compute: Callable[[list[int]], Result],
        longest: Callable[[int], str],
    ) -> Iterator[tuple[list[int], Result]]:
        """Computes a batch, in as few parts as fit into memory.

        Args:
            rows: Row numbers, longest row first.
            compute: Returns the result of some rows.
            longest: Describes a row, see `lower`.

        Yields:
            The rows of each part and their result, in order.

        Raises:
            MemoryError: One row does not fit.
        """
        waiting = [list(rows)]
        while waiting:
            part = waiting.pop(0)
            size = self.capped(len(part))
            if len(part) > size:
                waiting = [part[:size], part[size:], *waiting]
                continue
            try:
                result = compute(part)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.lower(len(part), longest(part[0]), error)
                waiting.insert(0, part)
            else:
                yield part, result
