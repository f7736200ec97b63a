"""What the InPars authors published, as files of the same form on a server on this machine."""

import hashlib
import json
import shutil

import pandas as pd
import pytest
import web as web_server
from writer import corpus, files, index

from pyterrier_inpars import SyntheticQueries
from pyterrier_inpars.datasets import beir, published
from pyterrier_inpars.datasets.published import DownloadError
from pyterrier_inpars.queries import _shards as shards


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server on this machine in place of the hub and of the host of InPars-v1's queries."""
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path / "home") as web:
        path = published.QUERIES_V1.split("/", 3)[3]
        monkeypatch.setattr(published, "QUERIES_V1", f"{web.home}/{path}")
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
    v2 = V2.format("trec-covid")
    assert web.asked == [V1.format("trec_covid"), f"HEAD {v2}", v2]


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
    with pytest.raises(ValueError, match="must be 'inpars-v1' or 'inpars-v2', not 'v1'"):
        published.read_queries("v1", "nfcorpus")
    with pytest.raises(
        ValueError, match="'trec_covid' is not a BEIR collection; choose one of trec-covid"
    ):
        published.read_queries("inpars-v1", "trec_covid")
    with pytest.raises(ValueError, match="'nf' is not a BEIR collection"):
        published.fewshot_examples("nf")
    with pytest.raises(ValueError, match="'nf' is not a BEIR collection"):
        published.bm25_run("nf")
    with pytest.raises(ValueError, match="'nf' is not a BEIR collection"):
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
    """Those of the issue, written out; the tests above have the paths on the hub."""
    assert published.queries_url("inpars-v2", "webis-touche2020") == (
        "https://huggingface.co/datasets/inpars/generated-data/resolve/main/"
        "webis-touche2020/queries.jsonl"
    )
    assert published.model("webis-touche2020") == "zeta-alpha-ai/monot5-3b-inpars-v2-touche"
    assert published.model("scifact") == "zeta-alpha-ai/monot5-3b-inpars-v2-scifact"


# ---- published queries as an artifact

NFCORPUS = V1.format("nfcorpus")
PUBLISHED = [
    {"doc_id": n // 2, "doc_text": f"text {n // 2}", "question": f" q {n}", "log_probs": [-n, -1]}
    for n in range(2_500)
]


@pytest.fixture
def nfcorpus(web):
    web.serve(NFCORPUS, lines(*PUBLISHED))
    return web


def test_published_queries_become_an_artifact_that_needs_no_network(nfcorpus, tmp_path):
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
        "url": nfcorpus.home + NFCORPUS,
        "sha256": hashlib.sha256(lines(*PUBLISHED)).hexdigest(),
    }
    assert queries.fewshot_topics.empty
    before = files(queries.path)
    shutil.rmtree(tmp_path / "home" / "inpars" / "downloads")
    nfcorpus.files.clear()
    again = published.synthetic_queries("inpars-v1", "nfcorpus")
    assert again.path == queries.path and files(again.path) == before
    assert nfcorpus.asked == [NFCORPUS]


def test_published_queries_are_stored_at_a_path(nfcorpus, tmp_path):
    nfcorpus.serve(V2.format("trec-covid"), lines({"doc_id": "x", "text": "t", "query": "q"}))
    queries = published.synthetic_queries("inpars-v2", "trec-covid", tmp_path / "v2")
    assert queries.path == tmp_path / "v2"
    assert queries.get_results().to_dict("records") == [
        {"qid": "x-1", "query": "q", "docno": "x", "text": "t"}
    ]
    assert queries.metadata["settings"]["url"] == (
        "https://huggingface.co/datasets/inpars/generated-data/resolve/main/"
        "trec-covid/queries.jsonl"
    )
    for other in [("inpars-v1", "nfcorpus"), ("inpars-v2", "nfcorpus")]:
        with pytest.raises(FileExistsError, match="does not hold inpars-v. for nfcorpus"):
            published.synthetic_queries(*other, tmp_path / "v2")
    index(tmp_path / "own", corpus(3))
    with pytest.raises(FileExistsError, match="give another path"):
        published.synthetic_queries("inpars-v1", "nfcorpus", tmp_path / "own")


def test_an_interrupted_artifact_of_published_queries_is_resumed(nfcorpus, tmp_path, monkeypatch):
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
def test_published_queries_that_cannot_be_used_leave_no_artifact(web, tmp_path, bad):
    content = lines(*PUBLISHED[:5], bad) if isinstance(bad, dict) else bad
    web.serve(NFCORPUS, content)
    messages = "no text of document 'x': add the texts|line 6: doc_id must be|HTTP Error 404"
    with pytest.raises((ValueError, DownloadError), match=messages):
        published.synthetic_queries("inpars-v1", "nfcorpus", tmp_path / "queries")
    assert not (tmp_path / "queries").exists()


def test_texts_can_be_added_to_published_queries(web, tmp_path):
    """As the error says."""
    web.serve(NFCORPUS, lines(*({"doc_id": n, "query": f"q {n}"} for n in range(3))))
    rows = published.read_queries("inpars-v1", "nfcorpus")
    queries = SyntheticQueries(tmp_path / "queries")
    queries.index(row | {"text": f"text {row['docno']}"} for row in rows)
    assert queries.get_results()["text"].tolist() == ["text 0", "text 1", "text 2"]
