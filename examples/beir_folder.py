"""The pipeline of the quickstart on a collection in BEIR's folder layout.

    python examples/beir_folder.py path/to/collection

The folder holds ``corpus.jsonl`` or ``corpus.jsonl.gz`` (``_id, title, text``), ``queries.jsonl``
(``_id, text``) and ``qrels/test.tsv`` (``query-id, corpus-id, score``, with a header).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
from quickstart import Settings, run, show

from pyterrier_inpars import StaticPrompt

ABOUT = StaticPrompt("Abstract: {document}\n\nThis article is about the {query}")


class BeirFolder(pt.datasets.Dataset):
    """A test collection in BEIR's layout, read as it is iterated."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get_corpus_iter(self, *, verbose: bool = False) -> Iterator[dict[str, str]]:
        for record in pt.tqdm(self._lines("corpus"), disable=not verbose):
            text = f"{record.get('title') or ''} {record['text']}".strip()
            yield {"docno": record["_id"], "text": text}

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        rows = [(record["_id"], record["text"]) for record in self._lines("queries")]
        return pd.DataFrame(rows, columns=["qid", "query"])

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        path = self.folder / "qrels" / f"{variant or 'test'}.tsv"
        types = {"qid": str, "docno": str, "label": int}
        return pd.read_csv(path, sep="\t", header=0, names=list(types), dtype=types)

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        plain = self.folder / f"{name}.jsonl"
        path = plain if plain.exists() else f"{plain}.gz"
        with pt.io.autoopen(str(path), "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--documents", type=int, default=320, help="to write queries for")
    parser.add_argument("--folder", type=Path, help="for results")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(f"inpars-{arguments.collection.name}")
    settings = Settings(
        ABOUT,
        documents=arguments.documents,
        max_doc_tokens=128,
        round_trip=1,
        cross_encoder=False,  # on a CPU it takes as long as all the rest
    )
    show(run(BeirFolder(arguments.collection), settings, folder))
