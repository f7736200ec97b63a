"""The quickstart, on tiny models and a tiny collection."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_llm

from pyterrier_inpars import StaticPrompt, SyntheticQueries
from pyterrier_inpars.datasets import BeirFolder

pytest.importorskip("pyterrier_dr", reason="needs the extra dense")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # few queries, small models
]
EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = [f"{word} {other} {third}" for word, other, third in zip(
    tiny.WORDS[:20] * 2, tiny.WORDS[3:23] * 2, tiny.WORDS[7:23] * 3, strict=False
)]  # fmt: skip


@pytest.fixture
def quickstart(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("quickstart")
    bert = tiny.tiny_bert(tmp_path / "bert")
    module.encoder = module.strong_encoder = lambda: bert
    llm = tiny_llm.save(tmp_path / "llm", "llama")
    module.language_model = lambda: llm
    yield module
    del sys.modules["quickstart"]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(TEXTS)]
    topics = [{"_id": f"t{i}", "text": TEXTS[i]} for i in range(8)]
    for name, rows in (("corpus", corpus), ("queries", topics)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *(f"t{i}\td{i}\t1" for i in range(8))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return BeirFolder(folder)


def test_quickstart(quickstart, dataset, tmp_path, capsys):
    settings = quickstart.Settings(
        StaticPrompt("{document}\n{query}"), documents=30, max_length=16, overlap=1.0
    )
    table = quickstart.run(dataset, settings, tmp_path / "results")
    quickstart.show(table)
    printed = capsys.readouterr().out
    assert f"chosen by synthetic queries: {table['system'][0]}, nDCG@10" in printed
    assert table["synthetic queries"].is_monotonic_decreasing
    systems = table.set_index("system")
    assert systems["topics"].between(0, 1).all() and systems["topics"]["BM25"] > 0.5
    assert systems["p against BM25"].isna()["BM25"]
    # A topic is the text of its document, and both encoders are the same one.
    assert np.allclose(systems["topics"]["mpnet"], systems["topics"]["MiniLM"])
    assert systems["topics"]["mpnet"] > 0.9
    assert len(SyntheticQueries(tmp_path / "results" / "queries")) > 0
