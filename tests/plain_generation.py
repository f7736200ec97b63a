"""Greedy generation without batches or caches: the oracle for ``QueryGenerator``."""

import random
from pathlib import Path

import pandas as pd
import pytest
import tiny_llm
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import QueryGenerator, StaticPrompt

PROMPT = StaticPrompt("Document: the noise of the receiver\nQuery: a\nDocument: {document}\nQuery:")
MOST = 12


def documents(count=10, seed=3):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(tiny_llm.WORDS, k=rng.randint(1, 40))) for _ in range(count)]
    return pd.DataFrame({"docno": [f"d{i}" for i in range(count)], "text": texts})


def generator(model, **options):
    exact = {"dtype": "float32"} if isinstance(model, str | Path) else {}
    return QueryGenerator(model, **{"prompt": PROMPT, "max_new_tokens": MOST, **exact, **options})


def plainly(folder, frame, prompt=PROMPT, most=MOST):
    """Generates for one document at a time, with the whole sequence computed for each token."""
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = llm.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    rows = []
    for docno, text in zip(frame["docno"], frame["text"], strict=True):
        # special tokens written out in a document are plain text
        ids = tokenizer(prompt.build(text), split_special_tokens=True)["input_ids"]
        start, log_probs, reason = len(ids), [], "length"
        for _ in range(most):
            with torch.no_grad():
                scores = llm(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            token = int(scores.argmax())
            piece = "\n" if token in ends else tokenizer.decode([token])
            written = piece.split("\n")[0]
            if written.strip() or "\n" not in piece:
                ids, log_probs = [*ids, token], [*log_probs, float(scores.max())]
            if "\n" in piece:
                reason = "stop"
                break
        kept = [i for i, token in enumerate(ids[start:]) if token not in tokenizer.all_special_ids]
        log_probs = [log_probs[i] for i in kept]
        ids = ids[:start] + [ids[start + i] for i in kept]
        text = tokenizer.decode(ids[start:]).split("\n")[0]
        if reason == "length" and text.endswith("\ufffd"):  # a character was cut
            text = text.rstrip("\ufffd")
            while len(ids) > start and tokenizer.decode(ids[start:-1]).rstrip("\ufffd") == text:
                ids, log_probs = ids[:-1], log_probs[:-1]
        text = text.strip()
        if text and not prompt.copies([text])[0]:  # tested on its own
            rows.append((f"{docno}-1", text, log_probs, reason))
    return rows


def check(found, expected):
    assert list(found["qid"]) == [qid for qid, *_ in expected]
    assert list(found["query"]) == [query for _, query, *_ in expected]
    assert list(found["finish_reason"]) == [reason for *_, reason in expected]
    for log_probs, score, row in zip(found["log_probs"], found["score"], expected, strict=True):
        assert log_probs == pytest.approx(row[2], abs=1e-4)
        assert score == pytest.approx(sum(log_probs) / len(log_probs))
