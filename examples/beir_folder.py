"""Runs the pipeline of the quickstart on a collection in BEIR's folder layout.

    python examples/beir_folder.py path/to/collection

The folder contains ``corpus.jsonl`` or ``corpus.jsonl.gz`` (``_id, title, text``),
``queries.jsonl`` (``_id, text``) and ``qrels/test.tsv`` (``query-id, corpus-id, score``, with a
header).
"""

import argparse
from pathlib import Path

from quickstart import Settings, run, show

from pyterrier_inpars import StaticPrompt
from pyterrier_inpars.datasets import BeirFolder
from pyterrier_inpars.demo import mute_native_log

ASKS = StaticPrompt("Abstract: {document}\n\nA researcher asks: how {query}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--documents", type=int, default=320, help="number of source documents")
    parser.add_argument("--folder", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(f"inpars-{arguments.collection.resolve().name}")
    settings = Settings(ASKS, documents=arguments.documents, max_doc_tokens=128, max_length=256)
    mute_native_log()
    show(run(BeirFolder(arguments.collection), settings, folder))
