"""Collections: documents, topics and judgements, from files, ir_datasets and Pyserini."""

from pyterrier_inpars.datasets.collections import (
    BeirFolder,
    Collection,
    Files,
    IrDatasets,
    TextLoader,
    collection,
    judged_pairs,
    read_corpus,
    read_qrels,
    read_topics,
    sample,
)

__all__ = [
    "BeirFolder",
    "Collection",
    "Files",
    "IrDatasets",
    "TextLoader",
    "collection",
    "judged_pairs",
    "read_corpus",
    "read_qrels",
    "read_topics",
    "sample",
]
