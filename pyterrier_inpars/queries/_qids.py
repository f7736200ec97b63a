"""All qids of an artifact, to find duplicates."""

import numpy as np


class QidSet:
    """The set of all qids, compact for many: those of stored shards take eight bytes each.

    Attributes:
        recent: The qids of the open shard.
        hashes: Hashes of the other qids, a sorted array of int64.
    """

    def __init__(self) -> None:
        self.recent: set[str] = set()
        self.hashes = np.empty(0, np.int64)

    def add(self, qid: str) -> bool:
        """Adds a qid and returns whether it is new."""
        key = hash(qid)
        at = np.searchsorted(self.hashes, key)
        new = qid not in self.recent and not (at < len(self.hashes) and self.hashes[at] == key)
        self.recent.add(qid)
        return new

    def compact(self) -> None:
        """Replaces the recent qids by their hashes."""
        new = np.sort(np.fromiter(map(hash, self.recent), np.int64, len(self.recent)))
        self.hashes = np.insert(self.hashes, np.searchsorted(self.hashes, new), new)
        self.recent = set()
