"""Published synthetic queries, stored as an artifact."""

import hashlib
import json
import shutil

import pandas as pd
import pytest
import web as web_server
from writer import corpus, files, index

from pyterrier_inpars.datasets import published
from pyterrier_inpars.datasets._download import DownloadError
from pyterrier_inpars.queries import _shards as shards
from pyterrier_inpars.queries.artifact import SyntheticQueries

PUBLISHED = [
    {"doc_id": n // 2, "doc_text": f"text {n // 2}", "question": f" q {n}", "log_probs": [-n, -1]}
    for n in range(2_500)
]
V1 = "/inpars/nfcorpus_synthetic_queries_100k.jsonl"


@pytest.fixture
def web(tmp_path, monkeypatch):
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        urls = {version: web.home + "/" + url.split("/", 3)[3] for version, url in QUERIES.items()}
        monkeypatch.setattr("pyterrier_inpars.datasets.published.QUERIES", urls)
        web.serve(V1, jsonl(PUBLISHED))
        yield web


QUERIES = dict(published.QUERIES)


def jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def test_published_queries(web, tmp_path):
    queries = published.synthetic_queries("inpars-v1", "nfcorpus")
    expected = pd.DataFrame(
        [
            {
                "qid": f"{n // 2}-{n % 2 + 1}",
                "query": f"q {n}",
                "docno": str(n // 2),
                "text": f"text {n // 2}",
                "log_probs": [float(-n), -1.0],
                "score": (-n - 1) / 2,
            }
            for n in range(2_500)
        ]
    )
    pd.testing.assert_frame_equal(queries.get_results(), expected)
    assert tmp_path / "home" in queries.path.parents
    assert queries.metadata["settings"] == {
        "published": "inpars-v1",
        "collection": "nfcorpus",
        "url": web.home + V1,
        "sha256": hashlib.sha256(jsonl(PUBLISHED)).hexdigest(),
    }
    assert queries.fewshot_topics.empty
    before = files(queries.path)
    shutil.rmtree(tmp_path / "home" / "inpars" / "downloads")
    web.files.clear()
    again = published.synthetic_queries("inpars-v1", "nfcorpus")
    assert again.path == queries.path and files(again.path) == before and web.asked == [V1]


def test_published_queries_at_a_path(web, tmp_path):
    web.serve(
        "/datasets/inpars/generated-data/resolve/main/trec-covid/queries.jsonl",
        jsonl([{"doc_id": "x", "text": "t", "query": "q"}]),
    )
    queries = published.synthetic_queries("inpars-v2", "trec-covid", tmp_path / "v2")
    assert queries.path == tmp_path / "v2"
    assert queries.get_results().to_dict("records") == [
        {"qid": "x-1", "query": "q", "docno": "x", "text": "t"}
    ]
    for other in [("inpars-v1", "nfcorpus"), ("inpars-v2", "nfcorpus")]:
        with pytest.raises(FileExistsError, match="does not hold inpars-v. for nfcorpus"):
            published.synthetic_queries(*other, tmp_path / "v2")
    index(tmp_path / "own", corpus(3))
    with pytest.raises(FileExistsError, match="give another path"):
        published.synthetic_queries("inpars-v1", "nfcorpus", tmp_path / "own")


def test_published_queries_go_on_where_they_were_stopped(web, tmp_path, monkeypatch):
    whole = published.synthetic_queries("inpars-v1", "nfcorpus")
    path = tmp_path / "again"
    store = shards.Writer.store

    def stop(writer, *args):
        store(writer, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards.Writer, "store", stop)
        published.synthetic_queries("inpars-v1", "nfcorpus", path)
    assert len(files(path)) == 2 and not SyntheticQueries(path).built()
    published.synthetic_queries("inpars-v1", "nfcorpus", path)
    assert files(path) == files(whole.path)


@pytest.mark.parametrize("bad", [{"doc_id": "x", "query": "q"}, {"doc_id": 1.5, "query": "q"}, 404])
def test_published_queries_that_cannot_be_used(web, tmp_path, bad):
    content = jsonl([*PUBLISHED[:5], bad]) if isinstance(bad, dict) else bad
    web.serve(V1, content)
    messages = "no text of document 'x': add the texts|line 6: doc_id must be|answered 404"
    with pytest.raises((ValueError, DownloadError), match=messages):
        published.synthetic_queries("inpars-v1", "nfcorpus", tmp_path / "queries")
    assert not (tmp_path / "queries").exists()


def test_texts_can_be_added(web, tmp_path):
    """As the error says."""
    web.serve(V1, jsonl({"doc_id": n, "query": f"q {n}"} for n in range(3)))
    rows = published.read_queries("inpars-v1", "nfcorpus")
    queries = SyntheticQueries(tmp_path / "queries")
    queries.index(row | {"text": f"text {row['docno']}"} for row in rows)
    assert queries.get_results()["text"].tolist() == ["text 0", "text 1", "text 2"]
