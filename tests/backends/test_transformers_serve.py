"""The server of transformers, a real OpenAI-compatible one, over tiny models."""

import contextlib
import json
import socket
import time
from pathlib import Path

import chat_templates
import pytest
import tiny_llm
from plain_generation import documents, generator

from pyterrier_inpars import ChatPrompt, QueryGenerator
from pyterrier_inpars.backends import OpenAIBackend

pytest.importorskip("uvicorn")


@contextlib.contextmanager
def serving(model):
    """Serves a model in a thread, and yields the address."""
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Serve(
        force_model=model,
        host="127.0.0.1",
        port=port,
        device="cpu",
        log_level="error",
        non_blocking=True,
    )
    try:
        end = time.monotonic() + 60
        while not server.server.started and time.monotonic() < end:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill_server()


def with_special_end(model):
    """Lets a special token alone end the text: the server returns the texts of the others."""
    for name in ("config.json", "generation_config.json"):
        file = Path(model, name)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 1}))
    return model


def test_greedy_queries_of_a_base_model_are_those_of_transformers(tmp_path):
    model = with_special_end(tiny_llm.save(tmp_path, "llama"))
    frame = documents(12)
    expected = generator(model)(frame)
    with serving(model) as url:
        backend = OpenAIBackend(url, model, endpoint="completions", log_probs=False)
        found = generator(backend)(frame)
    assert len(found) > 8 and "score" not in found
    assert found["query"].tolist() == expected["query"].tolist()
    assert backend.usage["requests"] == 12 and backend.usage["prompt_tokens"] > 120


def test_greedy_answers_to_messages_are_those_of_transformers(tmp_path):
    model = with_special_end(chat_templates.save(tmp_path, chat_templates.QWEN))
    prompt = ChatPrompt("Document: {document}", system="Write a query.")
    options = {"prompt": prompt, "max_new_tokens": 12, "keep_answer": True}
    frame = documents(6)
    expected = generator(model, **options)(frame)
    with serving(model) as url:
        backend = OpenAIBackend(url, model, tokenizer=model)
        found = QueryGenerator(backend, **options)(frame)
        assert found["answer"].tolist() == expected["answer"].tolist()
        assert len(found) > 3 and backend.chat and "score" not in found
