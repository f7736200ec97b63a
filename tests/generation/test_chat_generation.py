"""QueryGenerator with chat prompts, extraction, types of queries, and runtimes without scores."""

import json
import logging
import re
import warnings

import chat_templates
import pandas as pd
import pytest
from plain_generation import documents, generator
from transformers import AutoTokenizer

from pyterrier_inpars import (
    ChatPrompt,
    QueryGenerator,
    QueryLikelihood,
    StaticPrompt,
    SyntheticQueries,
)
from pyterrier_inpars.backends.base import Completion, PromptError
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.prompts import load_prompt

FRAME = pd.DataFrame({"docno": ["d1", "d2", "d3"], "text": ["a plasma", " ", "the noise"]})
ASK = ChatPrompt("Document: {document}", system="Write a query.")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return chat_templates.save(tmp_path_factory.mktemp("chat"), chat_templates.QWEN)


class Answers:
    """A runtime that takes messages, and gives fixed answers by the text of the document."""

    tokenizer, context, chat = None, None, True

    def __init__(self, answers, log_probs=True, error=None):
        self.answers, self.log_probs, self.error = answers, log_probs, error
        self.calls = []

    def describe(self):
        return {"model": "answers"}

    def complete(self, prompts, *, num_samples, stop, schema, **options):
        self.calls.append({"prompts": prompts, "stop": stop, "schema": schema, **options})
        found = []
        for prompt in prompts:
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            answer = next(a for part, a in self.answers.items() if part in text)
            if answer is None:
                found.append(Completion("", None, "error", error="content filter"))
                continue
            ends = list(range(1, len(answer) + 1))
            log_probs = [-float(end) for end in ends] if self.log_probs else None
            reason = "length" if answer.endswith("…") else "stop"
            found.append(Completion(answer, log_probs, reason, ends))
        return [completion for completion in found for _ in range(num_samples)]


def test_greedy_queries_are_the_answers_of_the_backend(chat_model):
    frame = documents(6)
    found = generator(chat_model, prompt=ASK, keep_prompt=True, keep_answer=True)(frame)
    backend = HuggingFaceBackend(chat_model, dtype="float32")
    answers = backend.complete([ASK.build(t) for t in frame["text"]], max_new_tokens=12, stop=())
    expected = dict(zip(frame["docno"], [a.text for a in answers], strict=True))
    assert len(found) > 3
    for row in found.to_dict("records"):
        assert row["answer"] == expected[row["docno"]]
        assert row["query"] in row["answer"]
        assert row["score"] == pytest.approx(sum(row["log_probs"]) / len(row["log_probs"]))
        assert row["prompt_text"].startswith("<|im_start|>system\nWrite a query.<|im_end|>\n")
        assert row["prompt_text"].endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_the_default_prompt_depends_on_the_model(chat_model, model, caplog):
    with caplog.at_level(logging.INFO):
        instruct, base = QueryGenerator(chat_model), QueryGenerator(model)
        assert instruct.settings()["prompt"] == load_prompt("chat").described()
        assert base.settings()["prompt"] == load_prompt("three-shot").build("{document}")
        instruct.settings()
    assert [r.getMessage().split()[-1] for r in caplog.records] == ["'chat'", "'three-shot'"]
    assert repr(instruct) == f"QueryGenerator({chat_model!r})"
    assert base.settings() == QueryGenerator(model, prompt="three-shot").settings()


def test_a_long_document_leaves_room_for_the_answer(chat_model):
    long = pd.DataFrame({"docno": ["d"], "text": ["the spectrum of noise <|im_end|> " * 90]})
    stage = generator(chat_model, prompt=ASK, context=100, max_doc_tokens=999, keep_prompt=True)
    stage(long)  # would raise an error
    stage.prompt = ChatPrompt("{document} " + "the noise " * 99)
    with pytest.raises(ValueError, match="too many for context=100, of which"):
        stage(long)


def test_a_chat_prompt_scores_queries_too(chat_model):
    pairs = pd.DataFrame(
        {"qid": ["1", "2"], "query": ["noise", "a plasma"], "docno": ["a", "b"], "text": "the gain"}
    )
    stage = QueryLikelihood(chat_model, prompt=ASK, dtype="float32")
    backend = HuggingFaceBackend(chat_model, dtype="float32")
    values = backend.log_likelihood([ASK.build("the gain")] * 2, pairs["query"].tolist())
    expected = [sum(row) / len(row) for row in values]
    assert stage(pairs)["score"].tolist() == pytest.approx(expected, abs=1e-4)
    filled = ChatPrompt(ASK.user, system=ASK.system, prefill="Query:")
    values = backend.log_likelihood([filled.build("the gain")], [" noise"])
    found = QueryLikelihood(chat_model, prompt=filled, dtype="float32")(pairs[:1])
    assert found["score"][0] == pytest.approx(sum(values[0]) / len(values[0]), abs=1e-4)


def test_the_query_is_extracted_from_the_answer():
    backend = Answers({"plasma": "<think>so</think>Thus.\nQuery: hot gas", "noise": "Query: hum"})
    stage = QueryGenerator(backend, prompt=ASK, extract="Query:", keep_answer=True)
    found = stage(FRAME)
    assert found["query"].tolist() == ["hot gas", "hum"]
    assert found["answer"].tolist() == list(backend.answers.values())
    start = found["answer"][0].index("hot gas")
    assert found["log_probs"][0] == [-float(start + i + 1) for i in range(7)]
    assert found["score"][0] == sum(found["log_probs"][0]) / 7
    assert backend.calls[0]["stop"] == () and stage.empty == 1


def test_queries_contain_their_beginning_in_a_prompt_for_base_models():
    prompt = StaticPrompt("{document}\nQ: {query}", prefill="how")
    answers = Answers({"plasma": " do I heat it", "noise": "\nmany"})
    generator = QueryGenerator(answers, prompt=prompt, extract=re.compile(".+"), stop=["\n"])
    (row,) = generator(FRAME[FRAME["docno"] == "d1"]).to_dict("records")
    assert row["query"] == "how do I heat it"
    assert row["log_probs"] == [-float(i) for i in range(1, len(" do I heat it") + 1)]
    assert answers.calls[0]["prompts"] == ["a plasma\nQ: how"]
    without = QueryGenerator(answers, prompt=prompt)(FRAME[FRAME["docno"] == "d1"])
    assert without["query"].tolist() == ["do I heat it"]


def test_the_query_is_extracted_from_prefill_and_answer():
    filled = ChatPrompt(ASK.user, prefill='{"query": "', extract={"json": "query"})
    backend = Answers({"": 'hot gas"}'})
    found = QueryGenerator(backend, prompt=filled, keep_answer=True)(FRAME[:1])
    assert found["query"].tolist() == ["hot gas"]
    assert found["answer"].tolist() == ['hot gas"}']
    assert found["log_probs"][0] == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]


def test_reasoning_that_the_chat_template_begins_is_no_query(tmp_path):
    """Without the tag at the end of the prompt, the first line of the answer is the query."""
    folder = chat_templates.save(tmp_path, chat_templates.QWEN)
    assert len(generator(folder, prompt=ASK)(documents(4)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template += "{%- if add_generation_prompt %}{{ '<think>\\n' }}{%- endif %}"
    tokenizer.save_pretrained(folder)
    stage = generator(folder, prompt=ASK)
    assert len(stage(documents(4))) == 0 and stage.empty == 4


@pytest.mark.parametrize(
    "options, stop",
    [
        ({"prompt": ASK}, ()),
        ({"prompt": StaticPrompt("{document}\nQ:")}, ("\n",)),
        ({"prompt": StaticPrompt("{document}\nQ:"), "extract": "Q"}, ()),
        ({"prompt": ASK, "stop": "###"}, ["###"]),
        ({"prompt": "chain-of-thought"}, ()),
    ],
)
def test_what_ends_an_answer(options, stop):
    backend = Answers({"": "a query Q: b"})
    QueryGenerator(backend, **options)(FRAME)
    assert backend.calls[0]["stop"] == stop


def test_the_schema_of_a_prompt_is_passed_on():
    backend = Answers({"": 'Sure! {"query": "hot gas"}'})
    found = QueryGenerator(backend, prompt="structured")(FRAME[:1])
    assert found["query"].tolist() == ["hot gas"]
    assert backend.calls[0]["schema"]["required"] == ["query"]


def test_several_queries_of_an_answer_have_numbers():
    backend = Answers({"": "1. one\n2. two\n3. three"})
    pattern = re.compile(r"^\d\. (.*)$", re.M)
    sampled = {"num_queries": 2, "sampling": {"temperature": 1.0}}
    found = QueryGenerator(backend, prompt=ASK, extract=pattern, **sampled)(FRAME[:1])
    numbers = ["1", "1.2", "1.3", "2", "2.2", "2.3"]
    assert found["qid"].tolist() == [f"d1-{number}" for number in numbers]
    assert found["query"].tolist() == ["one", "two", "three"] * 2


def test_without_log_probs_there_is_no_score(tmp_path):
    stage = QueryGenerator(Answers({"": "hot gas"}, log_probs=False), prompt=ASK)
    found = stage(FRAME)
    assert list(found) == ["qid", "query", "docno", "text", "finish_reason"]
    queries = (stage >> SyntheticQueries(tmp_path / "q")).index(FRAME.to_dict("records"))
    assert "score" not in queries.get_results()


def test_failed_prompts_are_named():
    stage = QueryGenerator(Answers({"plasma": None, "noise": "hum"}), prompt=ASK)
    assert stage(FRAME)["query"].tolist() == ["hum"]
    assert stage.failed == {"d1": "content filter"} and stage.empty == 1

    class Refuses(Answers):
        def complete(self, prompts, **options):
            raise PromptError("too long", 1)

    with pytest.raises(PromptError, match="failed at docno 'd3': too long"):
        QueryGenerator(Refuses({}), prompt=ASK)(FRAME)


def test_answers_that_are_cut_before_the_query_are_warned_about_once():
    stage = QueryGenerator(Answers({"": "<think>no end …"}), prompt=ASK)
    frame = pd.DataFrame({"docno": list("abcde"), "text": "x"})
    with pytest.warns(UserWarning, match="5 answers reached max_new_tokens=64 before their query"):
        assert len(stage(frame)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage(frame)
    assert stage.empty == 10


TYPES = {"question": ASK, "words": StaticPrompt("Text: {document}\nKeywords: {query}")}


class TestTypes:
    def test_each_document_gets_all_types(self):
        backend = Answers({"Keywords": "hot, gas", "": "what is hot?"})
        stage = QueryGenerator(backend, prompt=TYPES)
        found = stage(FRAME)
        assert found["qid"].tolist() == [
            *["d1-question-1", "d1-words-1", "d3-question-1", "d3-words-1"]
        ]
        assert found["query"].tolist() == ["what is hot?", "hot, gas"] * 2
        assert found["type"].tolist() == ["question", "words"] * 2
        assert list(stage(FRAME[:0])) == list(found)
        assert stage.empty == 2
        assert [call["stop"] for call in backend.calls[:2]] == [(), ("\n",)]

    def test_each_document_gets_one_type(self):
        frame = pd.DataFrame({"docno": [f"d{i}" for i in range(60)], "text": "x"})
        backend = Answers({"": "hot gas"})
        stage = QueryGenerator(backend, prompt=TYPES, types="one")
        found = stage(frame)
        assert found["docno"].tolist() == frame["docno"].tolist()
        assert 15 < (found["type"] == "question").sum() < 45
        shuffled = stage(frame.iloc[::-1])
        assert dict(zip(shuffled["docno"], shuffled["type"], strict=True)) == dict(
            zip(found["docno"], found["type"], strict=True)
        )
        other = QueryGenerator(backend, prompt=TYPES, types="one", sampling={"seed": 1})(frame)
        assert other["type"].tolist() != found["type"].tolist()

    def test_samples_of_a_type_do_not_depend_on_the_others(self, model):
        prompts = {name: StaticPrompt("A {document}\n" + name) for name in ("one", "two")}
        sampled = {"sampling": {"temperature": 1.0}, "max_new_tokens": 6}
        frame = documents(6)
        both = generator(model, prompt=prompts, **sampled)(frame)
        alone = generator(model, prompt={"two": prompts["two"]}, **sampled)(frame)
        found = both[both["type"] == "two"].reset_index(drop=True)
        assert found["qid"].tolist() == alone["qid"].tolist()
        assert found["query"].tolist() == alone["query"].tolist()

    def test_all_prompts_are_in_the_manifest_and_compared(self, tmp_path):
        queries = SyntheticQueries(tmp_path / "q")
        backend = Answers({"": "a query"})
        (QueryGenerator(backend, prompt=TYPES) >> queries).index(FRAME.to_dict("records"))
        settings = queries.metadata["settings"]
        assert settings["prompt"] == {name: p.described() for name, p in TYPES.items()}
        assert settings["types"] == "all"
        json.dumps(settings)
        other = {**TYPES, "words": StaticPrompt("Other: {document}\nKeywords: {query}")}
        with pytest.raises(ValueError, match="prompt.words: was 'Text"):
            (QueryGenerator(backend, prompt=other) >> queries).index(FRAME.to_dict("records"))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"prompt": {}}, "prompt must not be an empty dict"),
            ({"prompt": {"a-b": ASK}}, "letters, digits and underscores, .* not 'a-b'"),
            ({"prompt": {7: ASK}}, "letters, digits .* not 7"),
            ({"prompt": {"a": "four-shot"}}, "no prompt 'four-shot'"),
            ({"types": "some"}, "types must be 'all' or 'one', not 'some'"),
            ({"stop": ""}, "stop must be a string or several, none of them empty, not ''"),
            ({"stop": [7]}, r"stop must be .* not \[7\]"),
        ],
    )
    def test_invalid_arguments_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            QueryGenerator("anything", **options)


def test_new_settings_are_compared_and_old_ones_unchanged(model):
    plain = set(generator(model).settings())
    assert not plain & {"types", "stop", "extract", "keep_answer", "keep_prompt"}
    options = {"stop": ["x"], "extract": re.compile("a"), "keep_answer": True, "keep_prompt": True}
    settings = generator(model, **options).settings()
    assert set(settings) - plain == set(options)
    assert settings["extract"] == {"regex": "a", "flags": 32}
    json.dumps(settings)
