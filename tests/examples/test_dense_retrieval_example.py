"""The comparison of dense retrieval with BM25, on a tiny model and a tiny collection."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from pyterrier_inpars import BiEncoder
from pyterrier_inpars.datasets import BeirFolder

pytest.importorskip("pyterrier_dr", reason="needs the extra dense")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("dense_retrieval")
    del sys.modules["dense_retrieval"]


@pytest.fixture
def dataset(tmp_path):
    texts = [f"{word} {other}" for word in tiny.WORDS[:8] for other in tiny.WORDS[10:15]]
    lines = [
        json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(texts)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    topics = [json.dumps({"_id": f"t{i}", "text": texts[5 * i]}) for i in range(8)]
    (tmp_path / "queries.jsonl").write_text("\n".join(topics))
    (tmp_path / "qrels").mkdir()
    rows = ["query-id\tcorpus-id\tscore", *(f"t{i}\td{5 * i}\t1" for i in range(8))]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return BeirFolder(tmp_path)


@pytest.mark.filterwarnings("ignore")  # p-values of equal systems
def test_table(example, dataset, tmp_path, monkeypatch, one_thread):
    encoder = BiEncoder(tiny.tiny_bert(tmp_path / "bert"), dtype="float32", device="cpu")
    table = example.compare(dataset, encoder, tmp_path / "indexes")
    assert table["name"].tolist()[:2] == ["BM25", "dense"] and len(table) == 5
    measured = table.set_index("name")[["nDCG@10", "R@100"]]
    assert np.allclose(measured.loc["dense"], 1)  # a query is the text of its document
    assert measured.loc["BM25", "R@100"] == 1
    monkeypatch.setattr(BiEncoder, "doc_encoder", None)  # the complete index is used again
    again = example.compare(dataset, encoder, tmp_path / "indexes")
    assert again.equals(table)
    shorter = BiEncoder(encoder.model, max_length=8, dtype="float32", device="cpu")
    with pytest.raises(TypeError):  # other vectors, which the index does not have
        example.compare(dataset, shorter, tmp_path / "indexes")
