"""Queries of a server that fails: what a later ``index()`` sends again, and what it keeps."""

import json
import random
import warnings
from collections import Counter
from contextlib import suppress

import pyterrier as pt
import pytest
from fault_server import FaultServer, Reply
from plain_generation import documents

from pyterrier_inpars import CopyFilter, QueryGenerator, StaticPrompt, SyntheticQueries
from pyterrier_inpars._fingerprint import digest
from pyterrier_inpars.backends.openai import OpenAIBackend
from pyterrier_inpars.backends.openai_batch import OpenAIBatch
from pyterrier_inpars.queries._answers import AnswerLog

PROMPT = StaticPrompt("{document}\nQuery:")
TYPES = {"long": PROMPT, "short": StaticPrompt("{document}\nKeywords:")}
FRAME = documents(60)
FRAME["text"] = FRAME["docno"] + " " + FRAME["text"]
CORPUS = FRAME[["docno", "text"]].to_dict("records")
CORPUS_IDS = [document["docno"] for document in CORPUS]
INVALID_KEY = Reply([{"error": {"code": 400, "message": "API key not valid."}}], 400)
NO_LOG_PROBS = Reply({"error": {"message": "logprobs is not supported with this model"}}, 400)


class Server(FaultServer):
    """A server whose faults, by docno or by the beginning of a prompt, can change.

    Attributes:
        asked: Number of requests by docno since `mend`.
    """

    def __init__(self, faults=None, **options):
        self.faults, self.asked = faults or {}, Counter()
        super().__init__(self.answer_to, **options)

    def answer_to(self, prompt, attempt):
        docno = prompt.split()[0]
        self.asked[docno] += 1
        return self.faults.get(docno) or self.faults.get(prompt.rpartition("\n")[2] + docno)

    def mend(self, *docnos):
        for docno in docnos or list(self.faults):
            del self.faults[docno]
        self.asked.clear()


def index(server, path, backend=OpenAIBackend, corpus=CORPUS, stages=(), **options):
    options = {"prompt": PROMPT, **options}
    own = {"concurrency": 4, "max_retries": 0, "endpoint": "completions"}
    if backend is OpenAIBatch:
        own["poll_seconds"] = 0.01
    own |= options.pop("own", {})
    pipeline = QueryGenerator(backend(server.url, **own), **options)
    for stage in stages:
        pipeline = pipeline >> stage
    artifact = SyntheticQueries(path, shard_size=20)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a prompt failed|.* may get queries from the same")
        (pipeline >> artifact).index(corpus, batch_size=10)
    return artifact


def content(artifact, server):
    """Returns all files of an artifact, without the address of its server."""
    return {
        file.name: file.read_bytes().replace(server.url.encode(), b"URL")
        for file in artifact.path.iterdir()
    }


def shards(path):
    return json.loads((path / "progress.json").read_bytes())["shards"]


def whole(tmp_path, **options):
    with Server() as server:
        return content(index(server, tmp_path / "whole", **options), server)


@pytest.mark.parametrize("backend", [OpenAIBackend, OpenAIBatch])
@pytest.mark.parametrize("fault", [INVALID_KEY, NO_LOG_PROBS, "503", "500"])
@pytest.mark.parametrize("count", [1, 19])
def test_a_run_without_an_answer_is_an_error_and_stores_nothing(tmp_path, backend, fault, count):
    """Whatever the number of documents: a first try has few."""
    corpus, path = CORPUS[:count], tmp_path / "queries"
    reason = fault.body if isinstance(fault, Reply) else "The server"
    reason = "API key not valid" if fault is INVALID_KEY else reason
    reason = "logprobs is not supported" if fault is NO_LOG_PROBS else reason
    with Server({document["docno"]: fault for document in corpus}) as server:
        with pytest.raises(RuntimeError, match=rf"no prompt was answered.*'d0'.*{reason}.*Nothing"):
            index(server, path, backend, corpus)
        queries = SyntheticQueries(path)
        assert not queries.built() and queries.status.state == "empty"
        server.mend()
        other = {"parameters": {"temperature": None}}  # may be the remedy
        assert len(index(server, path, backend, corpus, own=other)) == count
    assert queries.failed.empty


@pytest.mark.parametrize("fault", ["503", INVALID_KEY, "cut", "malformed"])
def test_the_last_documents_of_a_corpus_are_tried_again(tmp_path, fault):
    """A server that ends, or a key that expires, with fewer than 20 documents left."""
    failed = [f"d{i}" for i in range(41, 60)]
    with Server(dict.fromkeys(failed, fault)) as server:
        queries = index(server, tmp_path / "queries")
        assert queries.built() and len(queries) == 41
        assert queries.failed["docno"].tolist() == failed and queries.status.unanswered == 19
        assert "19 documents, 19 to be tried again by index()" in repr(queries.status)
        server.mend()
        queries = index(server, tmp_path / "queries")
        assert server.asked == dict.fromkeys(failed, 1)
        assert queries.verify() == {} and queries.failed.empty
        assert content(queries, server) == whole(tmp_path)


@pytest.mark.parametrize("backend", [OpenAIBackend, OpenAIBatch])
def test_documents_at_which_the_server_failed_are_tried_again_and_refused_ones_are_not(
    tmp_path, backend
):
    faults = {"d3": "500", "d7": "too long", "d19": "503", "d20": "500", "d44": "content filter"}
    with Server(dict(faults)) as server:
        queries = index(server, tmp_path / "queries", backend)
        unanswered = ["d3", "d19", "d20"]
        assert list(queries.failed["docno"]) == list(faults)
        entries = queries.metadata["shards"]
        assert [entry.get("unanswered") for entry in entries] == [["d3", "d19"], ["d20"], None]
        server.mend(*unanswered)
        queries = index(server, tmp_path / "queries", backend)
        assert list(queries.failed["docno"]) == ["d7", "d44"] and queries.verify() == {}
        asked = dict(server.asked)
        server.mend()
        index(server, tmp_path / "queries", backend)
        assert not server.asked
    if backend is OpenAIBackend:
        assert asked == dict.fromkeys(unanswered, 1)
    with Server({"d7": "too long", "d44": "content filter"}) as other:
        expected = index(other, tmp_path / "expected", backend)
        assert content(queries, server) == content(expected, other)


@pytest.mark.parametrize("backend", [OpenAIBackend, OpenAIBatch])
@pytest.mark.parametrize("refused", [["d3", "d7", "d59"], ["d7", "d58", "d59"], ["d3", "d7"]])
def test_a_refusal_after_which_no_answer_came_is_tried_again_once(tmp_path, backend, refused):
    """The others are final at once, and all are in a second run."""
    last = [docno for docno in refused if int(docno[1:]) > 50]
    with Server(dict.fromkeys(refused, "too long")) as server:
        queries = index(server, tmp_path / "queries", backend)
        entries = queries.metadata["shards"]
        assert [entry.get("unanswered", []) for entry in entries] == [[], [], last]
        server.asked.clear()
        queries = index(server, tmp_path / "queries", backend)
        if backend is OpenAIBackend:
            assert server.asked == dict.fromkeys(last, 1)
        assert queries.status.unanswered == 0 and queries.failed["docno"].tolist() == refused
        server.mend()
        index(server, tmp_path / "queries", backend)
        assert not server.asked and len(queries) == 60 - len(refused)


def test_refused_prompts_keep_no_other_from_being_tried_again(tmp_path):
    """However many they are, in both runs: the server failed at them before it refused them."""
    refused = [f"d{i}" for i in range(0, 58, 2)]
    faults = {"d1": "too long", **dict.fromkeys(refused, "503"), "d59": "503"}
    with Server(dict(faults)) as server:
        queries = index(server, tmp_path / "queries")
        assert queries.status.unanswered == len(refused) + 1
        server.mend()
        server.faults = dict.fromkeys(refused, "too long")
        queries = index(server, tmp_path / "queries")
        assert server.asked == dict.fromkeys([*refused, "d59"], 1)
        assert queries.status.unanswered == 0 and len(queries) == 60 - len(refused) - 1


def test_an_answer_of_an_earlier_run_confirms_no_refusal(tmp_path):
    """An interrupted run has answers to later documents, and the key expires before the next."""
    with Server({"d52": "unauthorized"}, latency=0.01) as server:
        with pytest.raises(RuntimeError, match="401"):
            index(server, tmp_path / "queries", own={"concurrency": 1})
        server.mend()
        file = tmp_path / "queries" / "answers-60.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[1:]))  # its first answer was not written
        server.faults = dict.fromkeys(CORPUS_IDS, INVALID_KEY)
        queries = index(server, tmp_path / "queries")
        refused = queries.failed["docno"].tolist()
        assert {"d50", "d59"} <= set(refused) == set(server.asked) and "d51" not in refused
        assert queries.status.unanswered == len(refused)
        server.mend()
        queries = index(server, tmp_path / "queries")
        assert content(queries, server) == whole(tmp_path)


def test_many_prompts_are_tried_again_at_once(tmp_path):
    """Not only those of one batch, of which few failed."""
    failed = [f"d{i}" for i in range(3, 60, 10)]
    with Server(dict.fromkeys(failed, "500"), latency=0.2) as server:
        index(server, tmp_path / "queries", own={"concurrency": 60})
        server.mend()
        server.most = 0
        queries = index(server, tmp_path / "queries", own={"concurrency": 60})
        assert server.most == len(failed)
        assert server.asked == dict.fromkeys(failed, 1)
        assert content(queries, server) == whole(tmp_path)


class Later(pt.Transformer):
    """A stage after the generator that may fail."""

    error = None

    def __repr__(self):
        return "Later()"

    def transform(self, inp):
        if self.error:
            raise self.error
        return inp


def test_an_error_of_a_later_stage_is_not_taken_for_one_of_the_server(tmp_path):
    later = Later()
    with Server({"d3": "500"}) as server:
        index(server, tmp_path / "queries", stages=[later])
        server.mend()
        later.error = RuntimeError("CUDA error: device-side assert")
        with pytest.raises(RuntimeError, match="device-side assert"):
            index(server, tmp_path / "queries", stages=[later])
        later.error = None
        server.asked.clear()
        queries = index(server, tmp_path / "queries", stages=[later])
        assert not server.asked and queries.failed.empty and len(queries) == 60


def test_a_prompt_that_raises_leaves_a_complete_artifact_usable(tmp_path):
    with Server({"d3": "500"}) as server:
        index(server, tmp_path / "queries")
        with pytest.warns(UserWarning, match="could not be tried again: .*docno 'd3'"):
            queries = index(server, tmp_path / "queries", own={"on_error": "raise"})
        assert queries.built() and len(queries) == 59


def test_interrupted_runs_without_an_answer_store_nothing(tmp_path):
    """More failures than one batch has."""
    with Server(dict.fromkeys(CORPUS_IDS, "503")) as server:
        for _ in range(4):
            with pytest.raises(RuntimeError, match="20 prompts in a row"):
                index(server, tmp_path / "queries")
        assert SyntheticQueries(tmp_path / "queries").status.state == "empty"


@pytest.mark.parametrize(
    "parameters", [{"temperature": None}, {"seed": None}, {"temperature": None, "seed": None}]
)
def test_answers_keep_their_keys(tmp_path, parameters):
    """An artifact of an earlier version resumes with the answers that it stored."""
    generator = QueryGenerator(
        OpenAIBackend("http://127.0.0.1:1/v1", "m", endpoint="completions", parameters=parameters),
        prompt=PROMPT,
    )
    settings = {n: v for n, v in generator.settings().items() if n != "versions"}
    if "temperature" in parameters:  # the others were described as given
        settings |= {"top_p": 1.0, "seed": 0} | parameters
    assert generator._run_key("") == digest([settings, ""])


def test_what_fails_again_is_tried_again(tmp_path):
    with Server({"d5": "500", "d25": "500"}) as server:
        index(server, tmp_path / "queries")
        server.mend("d25")
        queries = index(server, tmp_path / "queries")
        assert queries.built() and queries.failed["docno"].tolist() == ["d5"]
        assert server.asked == {"d5": 1, "d25": 1} and len(queries) == 59
        server.mend()
        queries = index(server, tmp_path / "queries")
        assert server.asked == {"d5": 1}
        assert content(queries, server) == whole(tmp_path)


def test_the_queries_of_other_prompts_of_a_document_are_kept(tmp_path):
    with Server({"Keywords:d5": "500", "Query:d25": "500"}) as server:
        queries = index(server, tmp_path / "queries", prompt=TYPES)
        assert len(queries) == 118 and queries.failed["docno"].tolist() == ["d5", "d25"]
        queries = index(server, tmp_path / "queries", prompt=TYPES)
        assert len(queries) == 118 and queries.verify() == {}
        server.faults = {"Query:d5": "500", "Query:d25": "500"}  # each prompt failed once
        queries = index(server, tmp_path / "queries", prompt=TYPES)
        qids = {row["qid"] for row in queries}
        assert len(queries) == 119 and {"d5-long-1", "d5-short-1", "d25-short-1"} < qids
        server.mend()
        queries = index(server, tmp_path / "queries", prompt=TYPES)
        assert content(queries, server) == whole(tmp_path, prompt=TYPES)


def test_later_stages_get_the_queries_of_documents_that_are_tried_again(tmp_path):
    stages = [CopyFilter()]
    with Server({"d5": "500", "d59": "500"}) as server:
        index(server, tmp_path / "queries", stages=stages)
        server.mend()
        queries = index(server, tmp_path / "queries", stages=stages)
        assert content(queries, server) == whole(tmp_path, stages=stages)


def test_an_interrupted_run_that_tries_again_loses_no_answer(tmp_path):
    failed = ["d3", "d5", "d25", "d45"]
    with Server(dict.fromkeys(failed, "500")) as server:
        index(server, tmp_path / "queries")
        server.mend()
        server.faults = {"d45": "unauthorized"}
        with pytest.warns(UserWarning, match="could not be tried again: the server.* 401"):
            queries = index(server, tmp_path / "queries")
        assert queries.built() and queries.verify() == {} and len(queries) >= 56
        asked = dict(server.asked)
        server.mend()
        queries = index(server, tmp_path / "queries")
        assert asked == dict.fromkeys(failed, 1) and server.asked == {"d45": 1}
        assert content(queries, server) == whole(tmp_path)


def test_an_interrupted_run_tries_again_what_the_server_failed_at(tmp_path):
    """Such documents are not among those that it keeps."""
    with Server({"d3": "500", "d23": "500", "d37": "unauthorized"}, latency=0.005) as server:
        with pytest.raises(RuntimeError, match="401"):
            index(server, tmp_path / "queries")
        stored = len(AnswerLog(tmp_path / "queries"))
        stored += sum(len(shard["failed"]) == 1 and 19 for shard in shards(tmp_path / "queries"))
        assert stored >= 28  # all of the batches before that of d37, but for d3 and d23
        server.mend()
        queries = index(server, tmp_path / "queries")
        assert {"d3", "d23", "d37"} <= set(server.asked)
        assert len(server.asked) == 60 - stored
        assert content(queries, server) == whole(tmp_path)


def test_a_damaged_shard_with_documents_to_try_again_is_regenerated(tmp_path):
    with Server({"d3": "500", "d25": "500"}) as server:
        queries = index(server, tmp_path / "queries")
        (queries.path / "queries-00000.jsonl.gz").write_bytes(b"damaged")
        server.mend()
        with pytest.warns(UserWarning, match="not with the same bytes"):
            queries = index(server, tmp_path / "queries")
        assert set(server.asked) == {f"d{i}" for i in range(20)} | {"d25"}
        expected = whole(tmp_path)
        found = content(queries, server)
        assert {n: d for n, d in found.items() if n.endswith(".gz")} == {
            n: d for n, d in expected.items() if n.endswith(".gz")
        }


def test_failures_of_an_earlier_version_are_kept_as_they_are(tmp_path):
    """It did not store which of them could be tried again."""
    with Server({"d3": "500"}) as server:
        queries = index(server, tmp_path / "queries")
        manifest = json.loads((queries.path / "pt_meta.json").read_bytes())
        for entry in manifest["shards"]:
            entry.pop("unanswered", None)
        (queries.path / "pt_meta.json").write_text(json.dumps(manifest))
        server.mend()
        queries = index(server, tmp_path / "queries")
        assert not server.asked and queries.failed["docno"].tolist() == ["d3"]


def test_the_end_of_a_run_says_what_another_one_sends_again(tmp_path):
    with Server({"d3": "500", "d25": "too long"}) as server:
        generator = QueryGenerator(server.url, endpoint="completions", prompt=PROMPT, max_retries=0)
        pipeline = generator >> SyntheticQueries(tmp_path / "queries")
        with pytest.warns(UserWarning, match=r"^1 document of Syn.* may get queries from the same"):
            pipeline.index(CORPUS)


@pytest.mark.parametrize("seed", range(6))
def test_runs_with_any_failures_end_with_the_files_of_one_without(tmp_path, seed):
    """Failures and ends of runs, with several prompts a document."""
    draw = random.Random(seed)
    kinds = ["500", "503", "cut", "html", "malformed", "unauthorized"]
    keys = [f"{name}:d{i}" for name in ("Query", "Keywords") for i in range(60)]
    with Server() as server:
        for share in (0.3, 0.1, 0.2, 0.05, 0.1, 0.03, 0.02, 0):
            failing = draw.sample(keys, int(share * len(keys)))
            server.faults = {key: draw.choices(kinds, [4, 4, 4, 4, 4, 1])[0] for key in failing}
            with suppress(RuntimeError):
                queries = index(server, tmp_path / "queries", prompt=TYPES)
        assert queries.verify() == {} and queries.failed.empty
        assert content(queries, server) == whole(tmp_path, prompt=TYPES)


def test_the_queries_of_a_complete_artifact_do_not_need_the_server(tmp_path):
    """A script that runs again, when the server has gone."""
    own = {"model": "m"}
    with Server({"d3": "500"}) as server:
        before = content(index(server, tmp_path / "queries", own=own), server)
    with pytest.warns(UserWarning, match="could not be tried again: .* no connection"):
        queries = index(server, tmp_path / "queries", own=own)
    assert content(queries, server) == before and len(queries) == 59
    queries.path.joinpath("queries-00001.jsonl.gz").unlink()
    with pytest.raises(RuntimeError, match="no connection"):
        index(server, tmp_path / "queries", own=own)
