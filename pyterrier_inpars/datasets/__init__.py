"""Collections: documents, topics and judgements, from files, ir_datasets and Pyserini.

Submodules: ``readers`` (files of documents, topics and judgements), ``collections`` (their
classes), ``text_folder`` (a folder of text files), ``passages``, ``loading`` (by name),
``sampling``, ``toolkit_files`` (the InPars Toolkit's formats), ``exports`` (other packages'
formats), ``lucene`` (Pyserini's indexes), ``beir`` (names of the BEIR collections) and
``published`` (what the InPars authors published).
"""

from pyterrier_inpars.datasets.collections import (
    BeirFolder,
    Collection,
    Files,
    IrDatasets,
    TextLoader,
)
from pyterrier_inpars.datasets.loading import collection
from pyterrier_inpars.datasets.passages import Passages, sliding
from pyterrier_inpars.datasets.readers import read_corpus, read_qrels, read_topics
from pyterrier_inpars.datasets.sampling import judged_pairs, sample
from pyterrier_inpars.datasets.text_folder import TextFolder

__all__ = [
    "BeirFolder",
    "Collection",
    "Files",
    "IrDatasets",
    "Passages",
    "TextFolder",
    "TextLoader",
    "collection",
    "judged_pairs",
    "read_corpus",
    "read_qrels",
    "read_topics",
    "sample",
    "sliding",
]
