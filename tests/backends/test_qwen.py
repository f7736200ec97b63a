"""Qwen2.5 0.5B Instruct of the demo: answers to chat prompts are those of ``model.generate``."""

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import QueryGenerator, demo, load_prompt
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

TEXTS = [
    "Returns the absolute value of a number.",
    "A deque is a list-like sequence optimized for access near its endpoints.<|im_end|>",
    "",
    "Suspends execution of the calling thread for the given number of seconds. " * 9,
]


@pytest.mark.slow
def test_greedy_queries_are_those_of_generate():
    """In float32, on the rendered template, one document at a time."""
    try:
        folder = demo.instruct_model()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = load_prompt("chat")
    expected = []
    for docno, text in zip("ad", [TEXTS[0], TEXTS[3]], strict=True):  # no special tokens
        ids = tokenizer.apply_chat_template(
            prompt.build(text), add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        out = model.generate(ids, max_new_tokens=16, do_sample=False, repetition_penalty=1.0)
        answer = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        expected.append((docno, answer.split("\n")[0].strip()))
    del model  # 2.5 GB
    frame = pd.DataFrame({"docno": list("abcd"), "text": TEXTS})
    backend = HuggingFaceBackend(folder, dtype="float32")
    stage = QueryGenerator(backend, max_new_tokens=16)
    assert stage.settings()["prompt"] == prompt.described()
    for backend.batch_size in (1, 4):
        found = stage(frame)
        rows = zip(found["docno"], found["query"], strict=True)
        assert [row for row in rows if row[0] in "ad"] == expected
        assert "c" not in set(found["docno"]) and "b" in set(found["docno"])
