"""Answers that a judge keeps: interrupted calls, refused prompts, other options, two processes."""

import json
import multiprocessing
import pickle
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import chat_templates
import numpy as np
import pandas as pd
import pytest
import tiny_llm
from fault_server import FaultServer, Reply, share
from writer import Writer

from pyterrier_inpars import RelevanceJudge, RoundTripFilter, SyntheticQueries
from pyterrier_inpars._stage import description
from pyterrier_inpars.backends import OpenAIBackend
from pyterrier_inpars.backends.base import Completion
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.queries import _answers

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "passage {document} for {query} is of grade"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


def pairs(count):
    words = tiny_llm.WORDS
    rows = [
        (f"q{i % 5}", words[i % 5], f"d{i}", f"document{i}. {' '.join(words[i % 7 : i % 7 + 4])}")
        for i in range(count)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def graded(prompt):
    content = str(int(4 * share("grade", prompt)))
    return Reply({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})


class Grader:
    """Answers with grades, but for some documents with a fault or a `Reply`.

    Attributes:
        graded: Number of grades by docno.
    """

    def __init__(self, **faults):
        self.faults = faults
        self.graded = Counter()

    def __call__(self, prompt, attempt):
        docno = f"d{prompt.split('document')[1].split('.')[0]}"
        if docno in self.faults:
            return self.faults[docno]
        self.graded[docno] += 1
        return graded(prompt)


def test_an_interrupted_call_asks_a_server_for_the_rest_only(tmp_path):
    frame = pairs(60)
    with FaultServer(Grader()) as server:
        expected = RelevanceJudge(server.url)(frame)
    assert set(expected["grade"]) == {0, 1, 2, 3}
    grader = Grader(d40="unauthorized")
    with FaultServer(grader) as server:
        judge = RelevanceJudge(server.url, concurrency=4, answers=tmp_path / "answers")
        with pytest.raises(RuntimeError, match="401"):
            judge(frame)
        assert len(grader.graded) >= 30
        grader.faults.clear()
        # documents of another order, and a pair twice
        again = pd.concat([frame[::-1], frame[:3]])
        out = judge(again)
        assert len(grader.graded) == 60
        assert grader.graded.total() <= 60 + 4  # those in progress at the error
        whole = again.merge(expected[["docno", "grade"]], on="docno", how="left")
        assert out["grade"].tolist() == whole["grade"].tolist()
        asked = server.attempts.total()
        fresh = RelevanceJudge(server.url, answers=str(tmp_path / "answers"))
        pd.testing.assert_frame_equal(fresh(frame), expected)
        assert server.attempts.total() == asked


def test_another_prompt_scale_limit_or_model_is_another_answer(tmp_path):
    frame, folder = pairs(3), tmp_path / "answers"
    with FaultServer(Grader()) as server:
        for number, options in enumerate(
            (
                {},
                {"max_new_tokens": 20},
                {"scale": (0, 1)},
                {"prompt": "Passage: {document} {query}"},
                {"parameters": {"reasoning_effort": "low"}},
                {"served_model": "another"},
            ),
            1,
        ):
            for _ in range(2):
                judge = RelevanceJudge(server.url, answers=folder, **options)
                judge.unparsed = 1  # without the warning of grades that are not of the scale
                judge(frame)
            assert server.attempts.total() == 3 * number


def test_refused_prompts_are_tried_again_and_answers_without_a_grade_are_not(tmp_path):
    frame, folder = pairs(8), tmp_path / "answers"
    silent = Reply({"choices": [{"message": {"content": "none"}, "finish_reason": "stop"}]})
    with FaultServer(Grader(d2="content filter", d3="too long", d4=silent)) as server:
        judge = RelevanceJudge(server.url, answers=folder)
        with pytest.warns(UserWarning, match="3 of 8 answers have no grade"):
            assert len(judge(frame)) == 5
        assert judge.unparsed == 3
        server.fault = Grader()
        with pytest.warns(UserWarning, match="1 of 8 answers have no grade"):
            out = RelevanceJudge(server.url, answers=folder)(frame)
    assert out["docno"].tolist() == [f"d{i}" for i in range(8) if i != 4]
    attempts = {prompt.split("document")[1][0]: n for prompt, n in server.attempts.items()}
    assert attempts == {str(i): 2 if i in (2, 3) else 1 for i in range(8)}


def test_a_refused_prompt_that_ends_the_call_is_named_by_its_pair(tmp_path):
    grader = Grader(d5="too long")
    with FaultServer(grader) as server:
        judge = RelevanceJudge(server.url, answers=tmp_path / "a", on_error="raise", concurrency=1)
        with pytest.raises(RuntimeError, match="at qid 'q0', docno 'd5': HTTP status 400"):
            judge(pairs(8))
        grader.faults.clear()
        assert len(judge(pairs(8))) == 8
    assert grader.graded.total() <= 8 + 1


class Failing(HuggingFaceBackend):
    """Fails at the call of a number."""

    calls, failing = 0, 0

    def choice_log_probs(self, *args, **options):
        self.calls += 1
        if self.calls == self.failing:
            raise RuntimeError("the power failed")
        return super().choice_log_probs(*args, **options)


def test_probabilities_of_a_model_in_this_process_are_kept(model, tmp_path):
    frame, options = pairs(40), {"prompt": PROMPT, "scale": (0, 1, 2)}
    expected = RelevanceJudge(model, dtype="float32", batch_size=2, **options)(frame)
    backend = Failing(model, dtype="float32", batch_size=2)
    backend.failing = 2
    judge = RelevanceJudge(backend, answers=tmp_path / "answers", **options)
    with pytest.raises(RuntimeError, match="power"):
        judge(frame)
    out = judge(frame)
    assert backend.calls == 2 + 2  # of 16 pairs each, the first of them known
    assert out["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), rel=1e-4)
    pd.testing.assert_frame_equal(judge(frame), out)
    assert backend.calls == 4
    assert judge(frame[:0]).empty


class WithoutNumbers:
    """Computes NaN for one pair, then numbers."""

    tokenizer, context, chat, batch_size = None, None, False, 1
    broken = True

    def choice_log_probs(self, prompts, choices, *, progress, **_):
        found = np.array([[-1.0, -2.0]] * len(prompts))
        found[["document11" in prompt and self.broken for prompt in prompts]] = np.nan
        return found

    def describe(self):
        return {"model": "numbers"}


def test_nan_is_not_kept_and_named_by_its_pair(tmp_path):
    backend = WithoutNumbers()
    judge = RelevanceJudge(backend, scale=(0, 1), answers=tmp_path / "answers")
    with pytest.raises(ValueError, match="NaN .* at qid 'q1', docno 'd11'"):
        judge(pairs(12))
    backend.broken = False
    assert judge(pairs(12))["grade"].tolist() == [0] * 12


class Answering:
    """Answers in calls of any number of prompts, and one of them with an error."""

    tokenizer, context, chat, batch_size = None, None, True, 1

    def __init__(self):
        self.asked = []

    def complete(self, prompts, **_):
        self.asked += prompts
        completion = Completion("2", [-0.5], "stop", ends=[1])
        failed = Completion("", None, "error", error="refused")
        return [failed if "document1." in str(p) else completion for p in prompts]

    def describe(self):
        return {"model": "answering"}


def test_completions_in_calls_are_kept(tmp_path):
    backend, frame = Answering(), pairs(20)
    judge = RelevanceJudge(backend, answers=tmp_path / "answers")
    for asked in (20, 21):
        with pytest.warns(UserWarning, match="1 of 20") if asked == 20 else nullcontext():
            assert len(judge(frame)) == 19
        assert len(backend.asked) == asked


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match="answers= an empty folder or a new path"):
            RelevanceJudge(Answering(), answers=path)(pairs(1))
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(TypeError):
        RelevanceJudge(Answering(), answers=3)


def test_a_backend_that_does_not_describe_itself_cannot_keep_answers(tmp_path):
    class Silent(WithoutNumbers):
        describe = None

    with pytest.raises(TypeError, match="answers= needs a backend with describe"):
        RelevanceJudge(Silent(), scale=(0, 1), answers=tmp_path / "a")(pairs(1))


def hold(folder, ready, done):
    class Slow(Answering):
        def complete(self, prompts, **options):
            ready.set()
            done.wait(60)
            return super().complete(prompts, **options)

    RelevanceJudge(Slow(), answers=folder)(pairs(3)[2:])


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path / "answers"), ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(RuntimeError, match=f"answers .* written by process {other.pid}"):
        RelevanceJudge(Answering(), answers=tmp_path / "answers")(pairs(1))
    done.set()
    other.join(60)
    backend = Answering()
    RelevanceJudge(backend, answers=tmp_path / "answers")(pairs(3)[2:])
    assert not backend.asked and other.exitcode == 0


def killed(url, folder):
    RelevanceJudge(OpenAIBackend(url, concurrency=4), answers=folder)(pairs(200))


def test_a_killed_process_loses_no_answer(tmp_path):
    context = multiprocessing.get_context("spawn")
    folder, grader = tmp_path / "answers", Grader()
    with FaultServer(grader, latency=0.02) as server:
        process = context.Process(target=killed, args=(server.url, str(folder)))
        process.start()
        deadline = time.monotonic() + 60
        while len(grader.graded) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.join()
        stored = [json.loads(s) for s in (folder / "answers-0.jsonl").read_text().split("\n")[:-1]]
        assert 40 - 8 <= len(stored) < 200
        out = RelevanceJudge(server.url, answers=folder)(pairs(200))
        # an answer that was on its way at the kill is asked for again
        assert len(grader.graded) == 200 and grader.graded.total() <= 200 + 8
    with FaultServer(Grader()) as server:
        pd.testing.assert_frame_equal(out, RelevanceJudge(server.url)(pairs(200)))


def test_estimates_are_what_is_sent():
    frame = pairs(9)
    with FaultServer(Grader()) as server:
        judge = RelevanceJudge(server.url, max_new_tokens=5)
        found = judge.estimate(pd.concat([frame, frame[:2]]), prices=(2.0, 8.0))
        assert not server.requests
        judge(frame)
        sent = sum(len(r["messages"][0]["content"]) for r in server.requests)
    assert found.requests == 9 and found.completion_tokens == 45
    assert found.prompt_tokens == pytest.approx(sent / 4, rel=0.05)
    assert found.cost == pytest.approx((found.prompt_tokens * 2 + 45 * 8) / 1e6)
    with pytest.raises(ValueError, match="prices must be two numbers"):
        judge.estimate(frame, prices=(1,))


def test_an_estimate_checks_prices_before_it_builds_prompts():
    judge = RelevanceJudge(Answering())
    judge._seen = None
    with pytest.raises(ValueError, match="prices must be two numbers"):
        judge.estimate(pairs(3), prices=(1,))


@pytest.mark.parametrize("chat", [False, True])
def test_probabilities_of_grades_take_no_completion(model, tmp_path, chat):
    path = chat_templates.save(tmp_path, chat_templates.QWEN) if chat else model
    judge = RelevanceJudge(path, max_new_tokens=9, dtype="float32")
    first = judge.estimate(pairs(4), prices=(0, 1))
    assert first.requests == 4 and first.completion_tokens == (36 if chat else 0)
    judge(pairs(1))
    found = judge.estimate(pairs(4), prices=(0, 1))
    assert found.completion_tokens == 0 and found.cost == 0


def counted_lines(monkeypatch):
    """Returns a list that gets a number for each stored answer that is read."""
    read = []
    loads = json.loads
    own = SimpleNamespace(loads=lambda line: read.append(1) or loads(line), dumps=json.dumps)
    monkeypatch.setattr(_answers, "json", own)
    return read


def test_calls_on_parts_of_a_frame_read_no_answer_again(tmp_path, monkeypatch):
    """A pipeline calls the judge with a batch at a time, and the stored answers become many."""
    read, backend, frame = counted_lines(monkeypatch), Answering(), pairs(40)[2:]
    judge = RelevanceJudge(backend, answers=tmp_path / "answers")
    for start in range(0, 38, 4):
        judge(frame[start : start + 4])
    judge(frame)
    assert not read and len(backend.asked) == 38
    again = RelevanceJudge(backend, answers=tmp_path / "answers")
    for _ in range(3):
        again(frame)
    lines = len((tmp_path / "answers" / "answers-0.jsonl").read_text().splitlines())
    assert len(read) == lines and len(backend.asked) == 38
    copied = pickle.loads(pickle.dumps(again))
    assert copied._stored is None and len(copied(frame)) == 38
    assert not copied.model.asked[38:]


def test_answers_of_others_are_read_where_they_were_appended(tmp_path, monkeypatch):
    folder, frame, backend = tmp_path / "answers", pairs(12)[2:], Answering()
    first, second = (RelevanceJudge(backend, answers=folder) for _ in range(2))
    first(frame[:4])
    second(frame[4:8])
    read = counted_lines(monkeypatch)
    first(frame)
    assert len(backend.asked) == 10 and 4 <= len(read) <= 6
    file = folder / "answers-0.jsonl"
    whole = file.read_bytes()
    for change, asked in [
        (file.unlink, 10),  # all are gone
        (lambda: file.write_bytes(whole[: len(whole) // 2]), 1),  # an earlier copy
        (lambda: file.replace(tmp_path / "moved") and file.write_bytes(whole), 0),
        (lambda: first.set_parameter("answers", tmp_path / "other"), 10),
    ]:
        backend.asked.clear()
        change()
        first(frame)
        assert len(backend.asked) >= asked if asked else not backend.asked


def test_an_answer_that_cannot_be_written_is_not_kept(tmp_path, monkeypatch):
    backend, frame = Answering(), pairs(3)[2:]
    judge = RelevanceJudge(backend, answers=tmp_path / "answers")
    with monkeypatch.context() as patch:
        full = Path("/dev/full")
        patch.setattr(_answers.AnswerLog, "_file", lambda self, end: full.open("wb"))
        with pytest.raises(OSError):
            judge(frame)
    judge(frame)
    assert len(backend.asked) == 2


def test_what_does_not_change_the_rows_is_not_compared(tmp_path):
    """The folder of answers may be given, moved or left out when a run is resumed."""
    corpus = [{"docno": str(i), "text": f"document{i}. of words"} for i in range(4)]
    writer = Writer([1])
    for options in ({}, {"answers": tmp_path / "a"}, {"answers": tmp_path / "b", "verbose": True}):
        queries = SyntheticQueries(tmp_path / "queries")
        (writer >> RelevanceJudge(Answering(), max_doc_tokens=9, **options) >> queries).index(
            corpus
        )
        (stage,) = queries.metadata["stages"]
        assert "max_doc_tokens=9" in stage and str(tmp_path) not in stage and "verbose" not in stage
    with pytest.raises(ValueError, match="other settings"):
        (writer >> RelevanceJudge(Answering()) >> queries).index(corpus)


def test_a_nested_stage_is_described_without_what_does_not_change_the_rows():
    judge = RelevanceJudge(Answering(), answers="folder")
    assert "answers='folder'" in repr(judge) and "answers=" not in description(judge)
    nested = RoundTripFilter(judge)
    assert "answers=" in repr(nested) and "answers=" not in description(nested)
    assert "answers=" in repr(nested)
