"""Synthetic queries and training examples in the formats of other packages, and back.

Frames go in and come out. Writers check everything before they write; a suffix ``.gz``, ``.bz2``
or ``.lz4`` of JSON Lines selects compression. Formats: Parquet and the data sets of ``datasets``,
BEIR's folder (arXiv 2104.08663), sentence-transformers' triplets and labelled lists, and the
training files of Tevatron (arXiv 2203.05765) and FlagEmbedding.
"""

from pyterrier_inpars.datasets.exports._arrow import (
    from_dataset,
    read_parquet,
    to_dataset,
    write_parquet,
)
from pyterrier_inpars.datasets.exports._beir import read_beir, write_beir
from pyterrier_inpars.datasets.exports._flag_embedding import (
    read_flag_embedding,
    write_flag_embedding,
)
from pyterrier_inpars.datasets.exports._sentence_transformers import (
    from_lists,
    from_triplets,
    to_lists,
    to_triplets,
)
from pyterrier_inpars.datasets.exports._tevatron import read_tevatron, write_tevatron

__all__ = [
    "to_dataset",
    "from_dataset",
    "write_parquet",
    "read_parquet",
    "write_beir",
    "read_beir",
    "to_triplets",
    "from_triplets",
    "to_lists",
    "from_lists",
    "write_tevatron",
    "read_tevatron",
    "write_flag_embedding",
    "read_flag_embedding",
]
