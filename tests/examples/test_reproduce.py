"""The reproduction script, end to end on small models; a local server has the published files."""

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import tiny
import tiny_llm
import web as web_server

from pyterrier_inpars import load_reranker
from pyterrier_inpars.datasets import beir, published

pytest.importorskip("pyserini")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # few queries, small models
]
EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = 12
TEXTS = [" ".join(tiny_llm.WORDS[i : i + 6] + [f"w{i % 4}"]) for i in range(DOCS)]
FIGURES = {
    "inpars-v1": [("BM25", "0.678"), ("InPars-v1", "0.774")],
    "inpars-v2": [("BM25", "0.678"), ("InPars-v2", "0.774")],
    "promptagator": [("Promptagator, with FLAN", "0.731"), ("InPars-v2, with its prompt", "0.790")],
    "gpl": [],
}
"""Published figures of a method on SciFact."""


@pytest.fixture(scope="module")
def reproduce():
    spec = importlib.util.spec_from_file_location("reproduce", EXAMPLES / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A collection in BEIR's layout."""
    folder = tmp_path_factory.mktemp("collection")
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(TEXTS)]
    queries = [{"_id": f"t{i}", "text": " ".join(TEXTS[i].split()[1:4])} for i in range(6)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"t{i}\td{i}\t1" for i in range(6))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders in place of the models on the hub."""
    folder = tmp_path_factory.mktemp("models")
    bert = tiny.tiny_bert(folder / "bert")
    return {
        "castorini/monot5-3b-msmarco-10k": tiny.tiny_t5(folder / "t5"),
        "sentence-transformers/msmarco-distilbert-base-tas-b": bert,
        "cross-encoder/ms-marco-MiniLM-L-6-v2": tiny.tiny_classifier(folder / "ce", "bert", 1),
        "EleutherAI/gpt-j-6B": tiny_llm.save(folder / "llm", "llama"),
    }


@pytest.fixture
def web(tmp_path, monkeypatch, models):
    """A local server in place of the hub and of the host of InPars-v1's queries."""
    monkeypatch.setenv("INPARS_LOCAL_MODELS", json.dumps(models))
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        monkeypatch.setattr(published, "QUERIES_V1", web.home + "/v1/{}.jsonl")
        rows = [
            {"doc_id": f"d{i}", "doc_text": text, "question": text[:20], "log_probs": [-float(i)]}
            for i, text in enumerate(TEXTS)
        ]
        web.serve("/v1/scifacts.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        rows = [{"doc_id": f"d{i}", "query": text[:20]} for i, text in enumerate(TEXTS)]
        web.serve(
            "/datasets/inpars/generated-data/resolve/main/scifact/queries.jsonl",
            "".join(json.dumps(row) + "\n" for row in rows).encode(),
        )
        yield web


@pytest.mark.parametrize("method", ["inpars-v1", "inpars-v2", "promptagator", "gpl"])
def test_a_method_from_its_queries_to_the_table(
    reproduce, collection, web, tmp_path, capsys, monkeypatch, method
):
    for recipe in (reproduce.MonoT5, reproduce.BiEncoder):  # at most two steps
        monkeypatch.setattr(
            reproduce, recipe.__name__, lambda model, *, kind=recipe, **o: shortened(kind, model, o)
        )
    words = f"--collection scifact --method {method} --dataset {collection} --num_queries 96"
    settings = reproduce.arguments([*words.split(), "--depth=12", f"--folder={tmp_path / 'out'}"])
    table = reproduce.main(settings)
    assert list(table["name"]) == ["BM25", method]
    assert table["nDCG@10"].between(0, 1).all() and table["nDCG@10"][0] > 0.3
    reranker = load_reranker(tmp_path / "out" / "model")
    assert type(reranker).__name__ == ("BiEncoder" if method == "gpl" else "MonoT5")
    reproduce.show(settings, table)
    shown = capsys.readouterr().out
    assert ("2307.04601" in shown) == (method != "gpl")
    for name, figure in FIGURES[method]:
        assert re.search(rf"\b{name} +{figure}$", shown, re.MULTILINE)

    # A second call uses the trained model, and asks nothing of the server.
    asked = len(web.asked)
    monkeypatch.setattr(reproduce, "train", None)
    pd.testing.assert_frame_equal(reproduce.main(settings), table)
    assert len(web.asked) == asked


def shortened(kind, model, options):
    if "training" in options:
        options["training"] |= {"max_steps": 2, "effective_batch": 4}
    return kind(model, **options)


def test_published_figures_are_those_of_the_method(reproduce):
    """The means are those that the paper prints."""
    assert set(reproduce.PUBLISHED.index) <= set(beir.COLLECTIONS)
    means = reproduce.PUBLISHED.mean().to_dict()
    printed = {"BM25": 0.416, "InPars-v1": 0.523, "InPars-v2": 0.533, "Promptagator": 0.528}
    assert means == pytest.approx(printed | {"its-prompt": 0.517}, abs=1e-3)
    assert set(reproduce.SYSTEMS) == set(reproduce.RERANKERS) - {"gpl"}
    for method, collection in (("gpl", "scifact"), ("inpars-v2", "nq")):
        assert reproduce.published_figures(method, collection).empty
