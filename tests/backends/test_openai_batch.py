"""OpenAI's batch interface, over a server on the loopback that keeps its forms."""

import json
import time

import pytest
from fault_server import FaultServer, Reply, answer

from pyterrier_inpars.backends import OpenAIBackend, OpenAIBatch, openai_batch
from pyterrier_inpars.backends.base import PromptError, Sampling

PROMPTS = [f"document {i}: the spectrum of a plasma" for i in range(9)]


def batch(server, **options):
    return OpenAIBatch(server.url, poll_seconds=0.01, **options)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_batch_has_the_completions_of_single_requests(endpoint):
    options = {"num_samples": 2, "sampling": Sampling(temperature=1), "seeds": range(18)}
    with FaultServer() as server:
        found = batch(server, endpoint=endpoint).complete(PROMPTS, **options)
        assert not server.requests and len(server.batches) == 1
        assert found == OpenAIBackend(server.url, endpoint=endpoint).complete(PROMPTS, **options)
        lines = list(map(json.loads, server.files["file-0"].splitlines()))
    assert [line["body"]["seed"] for line in lines] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert all(line["url"] == server.batches[0]["endpoint"] for line in lines)


class Interrupted:
    """An answer that is interrupted while it is awaited, once the server has a batch."""

    def __init__(self, future, server):
        self.future, self.server = future, server

    def result(self):
        while not self.server.batches:
            if self.future.done():  # of an earlier request, such as for the name of the model
                return self.future.result()
            time.sleep(0.01)
        raise KeyboardInterrupt

    def cancel(self):
        return self.future.cancel()


def test_an_interrupted_run_waits_for_the_batch_that_it_submitted(monkeypatch):
    with FaultServer() as server:
        backend = OpenAIBatch(server.url, poll_seconds=60)
        connection = backend._backend.connection
        run = connection.run
        monkeypatch.setattr(connection, "run", lambda work: Interrupted(run(work), server))
        with pytest.raises(KeyboardInterrupt):
            backend.complete(PROMPTS)
        assert len(server.batches) == 1
        found = batch(server).complete(PROMPTS)
        assert [completion.text for completion in found] == list(map(answer, PROMPTS))
        assert len(server.batches) == 1
        batch(server).complete(PROMPTS[:3])
        assert len(server.batches) == 2


def test_what_an_expired_batch_left_is_submitted_again():
    with FaultServer() as server:
        server.batch_ends = ["expired"]
        backend = batch(server)
        found = backend.complete(PROMPTS)
        assert [completion.text for completion in found] == list(map(answer, PROMPTS))
        assert [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches] == [
            9,
            5,
        ]
        assert backend.usage["requests"] == 9


def test_a_failed_batch_is_an_error():
    with FaultServer() as server:
        server.batch_ends = ["failed"]
        with pytest.raises(RuntimeError, match="batch-0 at .* ended as 'failed' without results"):
            batch(server).complete(PROMPTS)
        assert batch(server).complete(PROMPTS)[0].text  # submitted again


def test_a_batch_that_expired_without_answers_is_submitted_again_by_the_next_call():
    with FaultServer() as server:
        server.batch_ends = ["expired"]
        with pytest.raises(RuntimeError, match="'expired' without results.*submits it again"):
            batch(server).complete(PROMPTS[:1])
        assert batch(server).complete(PROMPTS[:1])[0].text == answer(PROMPTS[0])


def edited(edit):
    """Server whose files of results are edited: ``edit`` takes and returns their lines."""

    class Edited(FaultServer):
        def _write_results(self, batch, name, results):
            results = edit(results)
            lines = [r if isinstance(r, str) else json.dumps(r) for r in results]
            batch[name] = self.add_file("\n".join(lines))

    return Edited()


def wrong(line, **fields):
    return {**line, **fields}


@pytest.mark.parametrize(
    "edit, batches",
    [
        (lambda lines: lines[:-1], 2),
        (lambda lines: [*lines[:4], json.dumps(lines[4])[:30]], 2),  # the file is cut
        (lambda lines: [*lines, *lines[::-1]], 1),
        (lambda lines: [*lines, wrong(lines[0], custom_id="other"), {}, [], "7", "{"], 1),
        (lambda lines: [wrong(lines[0], response=None, error={"code": "oops"}), *lines[1:]], 2),
        (lambda lines: [wrong(lines[0], response={"status_code": 503}, error="x"), *lines[1:]], 2),
    ],
)
def test_lines_that_are_missing_or_damaged_are_submitted_again(edit, batches):
    def at_first(lines):
        return lines if len(lines) < len(PROMPTS) else edit(lines)

    with edited(at_first) as server:
        backend = batch(server)
        found = backend.complete(PROMPTS)
        assert [completion.text for completion in found] == list(map(answer, PROMPTS))
        assert len(server.batches) == batches and backend.failed == 0
        assert batch(server).complete(PROMPTS) == found and len(server.batches) == batches


@pytest.mark.parametrize(
    "deleted, sent", [("output_file_id", [9, 5, 9]), ("error_file_id", [9, 5])]
)
def test_requests_whose_results_were_deleted_are_submitted_again(deleted, sent):
    """A batch expired with answers to four of nine requests; the others had a second batch."""
    with FaultServer() as server:
        server.batch_ends = ["expired"]
        found = batch(server).complete(PROMPTS)
        del server.files[server.batches[0][deleted]]
        for _ in range(2):  # the second time, a later batch has the results
            with pytest.warns(UserWarning, match="results of the batch batch-0 were deleted .*404"):
                assert batch(server).complete(PROMPTS) == found
        files = [server.files[b["input_file_id"]] for b in server.batches]
        assert [file.count("\n") for file in files] == sent


def test_a_line_that_never_comes_is_a_failed_prompt():
    def lossy(lines):
        return [line for line in lines if line["custom_id"] != "3"]

    with edited(lossy) as server:
        backend = batch(server)
        found = backend.complete(PROMPTS)
    assert backend.failed == 1 and "no answer to this prompt" in found[3].error
    texts = [c.text for c in found[:3] + found[4:]]
    assert texts == [answer(prompt) for prompt in PROMPTS[:3] + PROMPTS[4:]]
    assert len(server.batches) == 2


def test_a_server_that_always_fails_at_a_prompt_is_not_asked_for_ever():
    with FaultServer(lambda prompt, _: "500" if prompt == PROMPTS[3] else None) as server:
        backend = batch(server)
        found = backend.complete(PROMPTS)
    assert "HTTP status 500: The server had an error" in found[3].error and backend.failed == 1
    assert len(server.batches) == 2


def test_answers_to_no_request_are_no_results():
    error = pytest.raises(RuntimeError, match="ended as 'completed' without results")
    with edited(lambda lines: [wrong(line, custom_id="x") for line in lines]) as server, error:
        batch(server).complete(PROMPTS)


def test_errors_that_every_prompt_meets_are_an_error():
    prompts = [f"{PROMPTS[0]} {i}" for i in range(20)]
    faults = ["too long"]
    with FaultServer(lambda prompt, attempt: faults[0]) as server:
        with pytest.raises(RuntimeError, match="on all 20 prompts.*maximum context"):
            batch(server).complete(prompts)
        faults[0] = "no model"
        with pytest.raises(RuntimeError, match="404: The model does not exist.*Check the address"):
            batch(server).complete(PROMPTS)
        faults[0] = None  # the model has come: a batch without answers is submitted again
        assert batch(server).complete(PROMPTS)[0].text == answer(PROMPTS[0])


def test_an_unreachable_server_is_named():
    with FaultServer() as server:
        pass
    with pytest.raises(RuntimeError, match=f"the server {server.url} failed with no connection"):
        batch(server, model="m", max_retries=0).complete(PROMPTS)


def test_a_line_separator_in_an_answer_does_not_end_a_line_of_the_results():
    prompt = "the\u2028spectrum\x85of a plasma, and its temperature"
    with FaultServer() as server:
        assert batch(server).complete([prompt])[0].text == answer(prompt)


def test_failed_prompts_are_skipped_or_an_error():
    faults = {PROMPTS[2]: "too long", PROMPTS[5]: "content filter", PROMPTS[6]: "no choices"}
    with FaultServer(lambda prompt, attempt: faults.get(prompt)) as server:
        backend = batch(server)
        found = backend.complete(PROMPTS)
        assert backend.failed == 3
        errors = [completion.error for completion in found]
        assert [i for i, error in enumerate(errors) if error] == [2, 5, 6]
        assert "HTTP status 400: This model's maximum context" in errors[2]
        assert "0 completions instead of 1" in errors[6]
        with pytest.raises(PromptError, match="at prompt 2"):
            batch(server, on_error="raise").complete(PROMPTS)


@pytest.mark.parametrize("limits", [{"MOST_REQUESTS": 4}, {"MOST_BYTES": 900}])
def test_more_prompts_than_a_batch_takes_are_several_batches(monkeypatch, limits):
    for name, limit in limits.items():
        monkeypatch.setattr(openai_batch, name, limit)
    with FaultServer() as server:
        server.batch_ends = ["expired"]
        found = batch(server).complete(PROMPTS)
        assert [completion.text for completion in found] == list(map(answer, PROMPTS))
        files = [server.files[b["input_file_id"]] for b in server.batches]
        assert len(files) > 2
        assert all(file.count("\n") <= limits.get("MOST_REQUESTS", 9) for file in files)
        assert all(len(file) <= limits.get("MOST_BYTES", 10**6) for file in files)
        batch(server).complete(PROMPTS)  # finds most of them
        assert len(server.batches) <= len(files) + 1
        server.batch_ends = ["failed"]
        with pytest.raises(RuntimeError, match="'failed' without results"):
            batch(server).complete(PROMPTS[::-1])
    with FaultServer() as server:
        assert batch(server).complete([]) == []
        assert not server.batches


def test_the_tokenizer_is_loaded_on_use(tmp_path):
    backend = OpenAIBatch(model="m", tokenizer=str(tmp_path / "none"))
    assert backend.describe()["tokenizer"] == str(tmp_path / "none")
    with pytest.raises((OSError, ValueError)):
        _ = backend.tokenizer


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="poll_seconds must be above 0"):
        OpenAIBatch(poll_seconds=0)
    with pytest.raises(ValueError, match="on_error must be 'skip' or"):
        OpenAIBatch(on_error="ignore")


def test_the_time_out_of_a_request_is_not_that_of_a_file():
    with FaultServer(latency=0.6) as server:
        found = batch(server, model="m", timeout=0.3, max_retries=0).complete(PROMPTS)
    assert [completion.text for completion in found] == list(map(answer, PROMPTS))


@pytest.mark.parametrize("details", [{"reasons": ["x"]}, {}])
def test_a_prompt_that_a_moderation_flagged_is_refused_alone(details):
    reply = Reply({"error": {"message": "input was flagged", "metadata": details}}, 403)
    with FaultServer(lambda prompt, _: reply if prompt == PROMPTS[3] else None) as server:
        backend = batch(server)
        if not details:
            with pytest.raises(RuntimeError, match="403: input was flagged. Check the address"):
                backend.complete(PROMPTS)
            return
        found = backend.complete(PROMPTS)
    assert "HTTP status 403: input was flagged" in found[3].error and backend.failed == 1
    assert len(server.batches) == 1
    assert [c.text for c in found[4:]] == [answer(prompt) for prompt in PROMPTS[4:]]
