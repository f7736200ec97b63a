"""Tests of what a notebook shows of a generator."""

import pandas as pd
import pytest

from pyterrier_inpars import ChatPrompt, QueryGenerator, StaticPrompt
from pyterrier_inpars.backends.base import Completion

PROMPT = StaticPrompt("<i>Document</i>: {document}\nQuery: What is {query}")


class Knows:
    """A backend whose answers are known in advance."""

    chat, tokenizer, context = False, None, None

    def describe(self):
        return {"model": "knows"}

    def complete(self, prompts, *, progress, **_):
        answers = {"b": None, "c": ""}
        texts = [answers.get(prompt.split()[1], "it") for prompt in prompts]
        progress(len(prompts))
        return [
            Completion("", None, "error", error="no")
            if text is None
            else Completion(text, None, "stop")
            for text in texts
        ]


def test_nothing_is_loaded():
    generator = QueryGenerator(
        "no/such-model", dtype="bfloat16", num_queries=2, sampling={"temperature": 0.7, "seed": 3}
    )
    html = generator._repr_html_()
    for shown in ("no/such-model", "bfloat16", "temperature=0.7", "at most 256 tokens"):
        assert shown in html
    assert "depends on the model" in html and "copied" not in html
    assert "sampling={'temperature': 0.7, 'seed': 3}" in repr(generator)
    assert not {"tokenizer", "model", "chat"} & set(vars(generator._backend))


def test_prompts_are_shown():
    html = QueryGenerator("no/such-model", prompt=PROMPT)._repr_html_()
    assert "&lt;i&gt;Document" in html and "What is " in html and "greedy" in html
    prompts = {"question": PROMPT, "claim": ChatPrompt("Write a claim: {document}")}
    html = QueryGenerator("no/such-model", prompt=prompts, types="one")._repr_html_()
    for shown in ("Prompt: question", "Prompt: claim", "Write a claim: ", ">one<"):
        assert shown in html


def test_the_default_prompt_is_shown_once_it_is_known(model):
    generator = QueryGenerator(model, max_new_tokens=2)
    assert "depends on the model" in generator._repr_html_()
    generator(pd.DataFrame({"docno": ["d"], "text": ["the spectrum of a plasma"]}))
    html = generator._repr_html_()
    assert "depends on the model" not in html
    assert "Document: <mark>{document}</mark>" in html


def test_counts():
    generator = QueryGenerator(Knows(), prompt=StaticPrompt("Document: {document}\nQuery:"))
    with pytest.warns(UserWarning, match="a prompt failed"):
        generator(pd.DataFrame({"docno": list("1234"), "text": ["a", "b", "c", "a a"]}))
    html = generator._repr_html_()
    rows = [
        "documents</th><td>4<",
        "queries</th><td>2<",
        "(empty)</th><td>1<",
        "(failed)</th><td>1<",
    ]
    assert all(row in html for row in rows)
    assert "(copied)" not in html and "(truncated)" not in html
