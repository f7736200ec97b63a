"""What the authors of InPars published, as files of the same form on a server on this machine."""

import json

import pytest
import web as web_server

from pyterrier_inpars.datasets import beir, published
from pyterrier_inpars.datasets._download import DownloadError


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The published URLs, with a server on this machine in place of their hosts."""
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path) as web:

        def here(url):
            return web.home + "/" + url.split("/", 3)[3]

        for name in ("TEMPLATES", "FEWSHOT", "RUN"):
            monkeypatch.setattr(published, name, here(getattr(published, name)))
        monkeypatch.setattr(
            published, "QUERIES", {v: here(url) for v, url in published.QUERIES.items()}
        )
        yield web


V1 = "/inpars/{}_synthetic_queries_100k.jsonl"
V2 = "/datasets/inpars/generated-data/resolve/main/{}/queries.jsonl"


def test_both_versions_of_the_queries(web):
    web.serve(
        V1.format("trec_covid"),
        lines(
            {
                "doc_id": "x1",
                "doc_text": "one",
                "question": " Is\tit?\nYes ",
                "log_probs": [-1, -3],
            },
            {"doc_id": "x1", "doc_text": "one", "question": "  ", "log_probs": []},
            {"doc_id": 7, "doc_text": " ", "question": "about nothing", "log_probs": [-1]},
            {"doc_id": "x1", "doc_text": "one", "question": "again", "log_probs": [-2]},
        ),
    )
    assert list(published.read_queries("inpars-v1", "trec-covid")) == [
        {
            "qid": "x1-1",
            "query": "Is it? Yes",
            "docno": "x1",
            "text": "one",
            "log_probs": [-1.0, -3.0],
            "score": -2.0,
        },
        {
            "qid": "x1-3",
            "query": "again",
            "docno": "x1",
            "text": "one",
            "log_probs": [-2.0],
            "score": -2.0,
        },
    ]
    web.serve(V2.format("trec-covid"), lines({"doc_id": 3, "query": "q", "score": -0.5}))
    assert list(published.read_queries("inpars-v2", "trec-covid")) == [
        {"qid": "3-1", "query": "q", "docno": "3", "score": -0.5}
    ]
    assert web.asked == [V1.format("trec_covid"), V2.format("trec-covid")]


@pytest.mark.parametrize(
    "name",
    "msmarco robust04 nq trec_covid fiqa dbpedia scidocs scifacts arguana bioasq climate_fever "
    "cqadupstack fever hotpotqa nfcorpus quora signal touche trec_news".split(),
)
def test_every_file_of_version_1_has_a_collection(name):
    urls = []
    for collection in beir.COLLECTIONS:
        try:
            urls.append(published.queries_url("inpars-v1", collection))
        except ValueError:
            assert collection.startswith("cqadupstack-")
    url = f"https://zav-public.s3.amazonaws.com/inpars/{name}_synthetic_queries_100k.jsonl"
    assert urls.count(url) == 1 and len(urls) == 19


def test_unknown_versions_and_collections_are_errors_at_once(web):
    with pytest.raises(ValueError, match="one of inpars-v1, inpars-v2, not 'v1'"):
        published.read_queries("v1", "nfcorpus")
    with pytest.raises(ValueError, match="'trec_covid' is no BEIR collection: trec-covid"):
        published.read_queries("inpars-v1", "trec_covid")
    with pytest.raises(ValueError, match="'nf' is no BEIR collection"):
        published.fewshot_examples("nf")
    with pytest.raises(ValueError, match="'nf' is no BEIR collection"):
        published.bm25_run("nf")
    with pytest.raises(ValueError, match="'nf' is no BEIR collection"):
        published.model("nf")
    with pytest.raises(DownloadError, match="404"):
        published.read_queries("inpars-v1", "nfcorpus")
    assert len(web.asked) == 1


FEWSHOT = "/datasets/inpars/fewshot-examples/resolve/main/data/scifact.json"


def test_fewshot_examples(web):
    web.serve(
        FEWSHOT,
        lines(
            {"query_id": 1, "doc_id": "007", "query": "a", "document": "b", "more": 0},
            {"query_id": "02", "doc_id": 8, "query": "c", "document": "d"},
        ),
    )
    assert published.fewshot_examples("scifact").to_dict("records") == [
        {"qid": "1", "query": "a", "docno": "007", "text": "b"},
        {"qid": "02", "query": "c", "docno": "8", "text": "d"},
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"document": 3}, "line 2: document must be a string, not 3"),
        ({"query": None}, "line 2: query must be a string, not None"),
        ({"query_id": 0.5}, "line 2: query_id must be a string or a whole number, not 0.5"),
        ({"doc_id": None}, "line 2: doc_id must be"),
    ],
)
def test_fewshot_examples_of_another_form(web, change, message):
    good = {"query_id": 1, "doc_id": "7", "query": "a", "document": "b"}
    web.serve(FEWSHOT, lines(good, good | change))
    with pytest.raises(ValueError, match=f"scifact.json, {message}"):
        published.fewshot_examples("scifact")


def test_fewshot_examples_that_lack_a_field(web):
    web.serve(FEWSHOT, lines({"query": "a", "text": "b"}))
    with pytest.raises(ValueError, match="line 1: lacks query_id, doc_id, document; it has only"):
        published.fewshot_examples("scifact")


RUN = "/datasets/unicamp-dl/beir-runs/resolve/main/bm25/run.beir-v1.0.0-fever-flat.trec"


def test_a_run_keeps_every_id_as_it_is(web):
    web.serve(
        RUN,
        b'007 Q0 NaN 1 9.5 Anserini\n007 Q0 "Heroes" 2 9.25 Anserini\n'
        b"007\tQ0\t\xc3\x89tude 3 9.25 Anserini\n\n"
        b"2 Q0 null 1 3 Anserini\n2 Q0 1.0 2 2e-1 Anserini\n",
    )
    run = published.bm25_run("fever")
    assert run.to_dict("list") == {
        "qid": ["007", "007", "007", "2", "2"],
        "docno": ["NaN", '"Heroes"', "Étude", "null", "1.0"],
        "score": [9.5, 9.25, 9.25, 3.0, 0.2],
        "rank": [0, 1, 2, 0, 1],
    }


def test_the_run_of_ms_marco_has_another_name(web):
    web.serve(RUN.replace("fever-flat.trec", "msmarco-flat-trec"), b"1 Q0 d 1 9.5 Anserini\n")
    assert list(published.bm25_run("msmarco")["docno"]) == ["d"]


@pytest.mark.parametrize(
    "line", [b"1 Q0 d 1 2.0", b"1 Q0 d 1 x run", b"1 Q0 d d 1 2.0 run", b"1 Q0 \xff 1 2.0 run"]
)
def test_a_run_of_another_form(web, line):
    web.serve(RUN, b"1 Q0 d 1 9.5 Anserini\n" + line)
    with pytest.raises(ValueError, match="fever-flat.trec, line 2: must be `qid Q0 docno rank"):
        published.bm25_run("fever")


def test_the_known_urls():
    """Those of the issue, written out."""
    assert published.FEWSHOT.format("fiqa") == (
        "https://huggingface.co/datasets/inpars/fewshot-examples/resolve/main/data/fiqa.json"
    )
    assert published.queries_url("inpars-v2", "webis-touche2020") == (
        "https://huggingface.co/datasets/inpars/generated-data/resolve/main/"
        "webis-touche2020/queries.jsonl"
    )
    assert published.model("webis-touche2020") == "zeta-alpha-ai/monot5-3b-inpars-v2-touche"
    assert published.model("scifact") == "zeta-alpha-ai/monot5-3b-inpars-v2-scifact"
