"""ChatPrompt: messages, examples, YAML entries, invalid arguments."""

import json
import re
import warnings
from types import MappingProxyType

import pandas as pd
import pytest
import tiny_llm

from pyterrier_inpars import ChatPrompt, FewShotPrompt, Prompt, load_prompt
from pyterrier_inpars.datasets.toolkit_files import read_fewshot
from pyterrier_inpars.prompts.extraction import queries_of

PAIRS = pd.DataFrame(
    {
        "qid": ["1", "2"],
        "query": ["tall trees", "deep  seas"],
        "text": ["Redwoods grow\ntall.", "Trenches are deep."],
    }
)


def test_messages_in_order():
    prompt = ChatPrompt("Text: {document}\n", system=" Be brief. ")
    assert prompt.build("a {document}\n b") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Text: a {document} b"},
    ]
    assert prompt.prefix == prompt.build("") and prompt.continuation("a b") == "a b"


def test_examples_are_turns_and_a_prefill_begins_every_answer():
    prompt = ChatPrompt("Text: {document}", examples=PAIRS, num_examples=None, prefill="Query: ")
    assert prompt.build("x") == [
        {"role": "user", "content": "Text: Redwoods grow tall."},
        {"role": "assistant", "content": "Query: tall trees"},
        {"role": "user", "content": "Text: Trenches are deep."},
        {"role": "assistant", "content": "Query: deep  seas"},
        {"role": "user", "content": "Text: x"},
        {"role": "assistant", "content": "Query:"},
    ]
    assert prompt.continuation("a b") == " a b"
    assert prompt.topics == [
        {"qid": "1", "query": "tall trees"},
        {"qid": "2", "query": "deep  seas"},
    ]
    assert prompt.copies(["Tall trees?", "high trees", "trenches are deep"]) == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "options, answer",
    [
        ({"extract": {"json": "q"}}, '{"q": "deep  seas"}'),
        ({"extract": {"json": "q"}, "prefill": '{"q": "'}, '{"q": "deep  seas"}'),
        ({"extract": "Query:"}, "Query: deep  seas"),
        ({"extract": "Query:", "prefill": "Think."}, "Think.\nQuery: deep  seas"),
        ({"extract": "Query:", "prefill": "Query:"}, "Query: deep  seas"),
        ({"extract": re.compile("(?m)^.+$")}, "deep  seas"),
        ({"extract": str.strip}, "deep  seas"),
    ],
)
def test_answers_of_examples_have_the_form_that_extract_expects(options, answer):
    prompt = ChatPrompt("{document}", examples=PAIRS, num_examples=None, **options)
    assert prompt.build("x")[3] == {"role": "assistant", "content": answer}


@pytest.mark.parametrize(
    "extract", [None, "Query:", {"json": "q"}, re.compile(".+"), lambda answer: answer]
)
@pytest.mark.parametrize(
    "query",
    [
        *("# of calories in rice", "> operator bash", "1. FC Köln", "answer: the movie"),
        *("* in sql", '"carpe diem"', "_ is the capital of _"),
    ],
)
def test_queries_that_look_like_markdown_can_be_examples(query, extract):
    prompt = ChatPrompt("{document}", examples=[{"query": query, "text": "x"}], extract=extract)
    assert prompt.example_queries()[0] == query


@pytest.mark.parametrize(
    "options",
    [
        {"extract": re.compile("<(.*)>")},
        {"extract": {"json": "q"}, "prefill": "["},
        {"extract": lambda answer: None},
    ],
)
def test_answers_of_an_unknown_form_must_be_given(options):
    with pytest.raises(ValueError, match="deep  seas.*give the examples the column answer"):
        ChatPrompt("{document}", examples=PAIRS[1:], num_examples=None, **options)
    given = PAIRS.assign(answer="whole")
    assert ChatPrompt("{document}", examples=given, num_examples=1, **options).examples is not None


@pytest.mark.parametrize(
    "prefill, query, extract, answer",
    [
        ("How do I", "how do I sort a list", None, "How do I sort a list"),
        ("How do I", "How do I sort a list", re.compile(".+"), "How do I sort a list"),
        ("How do I", "how do I sort a list", re.compile("How.*"), "How do I sort a list"),
        ("How do I", "how do I sort a list", lambda text: text, "How do I sort a list"),
        ("Query: How do I", "how do I sort", "Query:", "Query: How do I sort"),
        ("Question: how", "how to sort", None, "Question: how to sort"),
        ("如何", "如何排序", re.compile(".+"), "如何排序"),
        ('{"q": "How do I', "How do I sort", {"json": "q"}, '{"q": "How do I sort"}'),
        ("कैसे", "कैसे करें", re.compile(".+"), "कैसे करें"),
        ("Query:", "query: language", None, "Query: query: language"),
    ],
)
def test_the_query_of_an_example_does_not_repeat_the_prefill(prefill, query, extract, answer):
    examples = [{"query": query, "text": "x"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = ChatPrompt("{document}", examples=examples, prefill=prefill, extract=extract)
    assert prompt.build("y")[1]["content"] == answer
    assert prompt.truncated(None, 9).build("y")[1]["content"] == answer


@pytest.mark.parametrize("query", ["deep seas", "how do icebergs float", "how do I"])
def test_a_query_that_does_not_begin_with_the_prefill_gives_a_warning(query):
    examples = [{"query": query, "text": "x"}]
    with pytest.warns(UserWarning, match=f"How do I {query}.*begin with prefill='How do I'"):
        ChatPrompt("{document}", examples=examples, prefill="How do I")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatPrompt("{document}", examples=examples, prefill="Query:")
        whole = [{**examples[0], "answer": f"How do I {query}"}]
        ChatPrompt("{document}", examples=whole, prefill="How do I")


@pytest.mark.parametrize(
    "prefill, query, answer",
    [
        ("如何", "学习中文", "如何学习中文"),
        ("问题：", "如何学习中文", "问题：如何学习中文"),
        ("วิธี", "เรียนภาษา", "วิธีเรียนภาษา"),
        ("how", "学习", "how学习"),
        ("Query:", "学习中文", "Query: 学习中文"),
        ("how", "to sort", "how to sort"),
        ("Query:", "# of calories", "Query: # of calories"),
        ("कैसे", "करें", "कैसे करें"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*begin with prefill")
def test_spaces_after_a_prefill(prefill, query, answer):
    """Where a prefill is part of the query, those of the examples and of the model are the same."""
    prompt = ChatPrompt("{document}", examples=[{"query": query, "text": "x"}], prefill=prefill)
    assert prompt.build("y")[1]["content"] == answer
    if not prefill.endswith(":"):
        found = queries_of(query, re.compile(".+"), chat=True, prefill=prefill)
        assert [q.text for q in found] == [answer]


def test_examples_of_ones_own_have_the_reasoning_of_the_shipped_ones():
    """The model answers as the examples do, so that it would not reason."""
    with pytest.warns(UserWarning, match="'chain-of-thought' are more than the query, such as"):
        prompt = load_prompt("chain-of-thought", examples=PAIRS)
    assert prompt.build("x")[2]["content"] == "Query: tall trees"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = "So.\nQuery: " + PAIRS["query"]
        load_prompt("chain-of-thought", examples=PAIRS.assign(answer=answers))
        for name in ("chat", "structured", "question", "keywords", "claim", "title"):
            load_prompt(name, examples=PAIRS)


@pytest.mark.parametrize("field", ["{title}", "{document}"])
def test_a_field_in_the_system_message_gives_a_warning(field):
    with pytest.warns(UserWarning, match=f"system has no fields, but contains {field}, which"):
        ChatPrompt("{document}", system=f"Of {field}. {{x}}")


def test_fewer_examples_than_are_drawn_are_taken_as_they_stand():
    """So a user who writes two examples need not count them."""
    assert ChatPrompt("{document}", examples=PAIRS).examples.equals(PAIRS.reset_index(drop=True))
    with pytest.raises(ValueError, match="num_examples must be"):
        ChatPrompt("{document}", examples=PAIRS, num_examples=0)


def test_examples_may_be_a_list_of_dicts():
    rows = PAIRS.to_dict("records")
    assert ChatPrompt("{document}", examples=rows) == ChatPrompt("{document}", examples=PAIRS)
    assert FewShotPrompt(rows, num_examples=2) == FewShotPrompt(PAIRS, num_examples=2)
    with pytest.raises(TypeError, match=r"a DataFrame is needed, not \['tall"):
        ChatPrompt("{document}", examples=["tall trees"])


def test_examples_are_drawn_and_truncated():
    one = ChatPrompt("{document}", examples=PAIRS, num_examples=1, max_query_tokens=1)
    assert one.examples["query"].tolist() == ["tall trees"] or one.examples["query"].size == 1
    short = one.truncated(tiny_llm.tokenizer(), 2)
    assert len(short.build("x")[0]["content"]) < len(one.build("x")[0]["content"])
    assert short.topics == one.topics and short != one
    assert short.truncated(None, 99).build("x")[0] == one.build("x")[0]


def test_equal_prompts():
    prompts = [ChatPrompt("{document}", extract=extract) for extract in ("Query:", "Query:", "Q:")]
    assert prompts[0] == prompts[1] != prompts[2] and hash(prompts[0]) == hash(prompts[1])
    assert prompts[0] != ChatPrompt("{document}")
    assert repr(prompts[0]) == "ChatPrompt('{document}', extract='Query:')"


def test_any_mapping_is_stored_as_a_dict():
    fields = {"type": "object", "required": ["q"]}
    mappings = {"extract": MappingProxyType({"json": "q"}), "schema": MappingProxyType(fields)}
    prompt = ChatPrompt("{document}", **mappings)
    other = ChatPrompt("{document}", extract={"json": "q"}, schema=dict(reversed(fields.items())))
    assert prompt == other and hash(prompt) == hash(other)
    json.dumps(prompt.described())


ENTRY = """\
mine:
  mode: chat
  system: Be brief.
  user: "Text: {document}"
  prefill: '{"query":'
  extract: {json: query}
  schema: {type: object}
  examples:
    - {document: Redwoods grow tall., query: tall trees}
    - {document: Another., query: another}
"""


def test_an_entry_of_a_yaml_file(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text(ENTRY)
    prompt = Prompt.load(path, "mine")
    expected = ChatPrompt(
        "Text: {document}",
        system="Be brief.",
        prefill='{"query":',
        extract={"json": "query"},
        schema={"type": "object"},
        examples=pd.DataFrame(
            {"query": ["tall trees", "another"], "text": ["Redwoods grow tall.", "Another."]}
        ),
        num_examples=None,
    )
    assert prompt == expected
    assert prompt.topics == [] and len(expected.topics) == 2
    other = Prompt.load(path, "mine", examples=PAIRS, num_examples=1)
    assert len(other.examples) == 1 and other.topics[0]["qid"] in ("1", "2")


def test_the_shipped_examples_can_be_replaced():
    prompt = load_prompt("chat", examples=PAIRS, num_examples=2)
    assert {topic["query"] for topic in prompt.topics} == set(PAIRS["query"])
    assert prompt.system == load_prompt("chat").system


def test_examples_with_whole_answers(tmp_path):
    answers = PAIRS.assign(answer=["Trees.\nQuery: tall trees", "Seas.\nQuery: deep seas"])
    prompt = ChatPrompt("{document}", examples=answers, num_examples=None, extract="Query:")
    assert [m["content"] for m in prompt.build("x")[1::2]] == answers["answer"].tolist()
    assert prompt.truncated(None, 1).build("x")[1] == prompt.build("x")[1]
    assert prompt.copies(["tall trees"]) == [True]
    path = tmp_path / "prompts.yaml"
    path.write_text(
        "mine:\n  mode: chat\n  user: '{document}'\n  examples:\n"
        "    - {document: a, query: b, answer: B!}\n"
    )
    assert Prompt.load(path, "mine").build("x")[1] == {"role": "assistant", "content": "B!"}


@pytest.mark.parametrize("name", ["chat", "structured", "question"])
def test_answers_of_another_prompt_are_ignored(name, tmp_path):
    """A file for chain-of-thought gives the others the same prompt as without its answers."""
    path = tmp_path / "examples.jsonl"
    lines = [
        {"query_id": i, "doc_id": i, "query": f"what is {i} thing", "document": f"Text {i}."}
        for i in range(3)
    ]
    answers = [{"answer": f"Reason {i}. Query: what is {i} thing"} for i in range(3)]
    path.write_text("\n".join(json.dumps(a | b) for a, b in zip(lines, answers, strict=True)))
    examples = read_fewshot(path)
    with pytest.warns(UserWarning, match="answer of the examples is ignored.*'what is . thing'"):
        prompt = load_prompt(name, examples=examples)
    assert prompt == load_prompt(name, examples=examples.drop(columns="answer"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = load_prompt("chain-of-thought", examples=examples)
    assert {m["content"] for m in prompt.build("x")} > {a["answer"] for a in answers}


def test_answers_that_no_form_fits_are_kept():
    """An extract that changes what it finds: no answer could be made from the query."""
    answers = PAIRS.assign(answer="Query: " + PAIRS["query"])
    prompt = ChatPrompt("{document}", examples=answers, extract=lambda text: text[7:][::-1])
    assert prompt.build("x")[1]["content"] == answers["answer"][0]


@pytest.mark.parametrize("extract", [None, re.compile(".+"), "Query:"])
def test_an_answer_with_the_text_of_before_resumes(extract):
    """Before 0.2.0, the answer was the prefill and the whole query."""
    old = {"query": "how do I sort", "text": "x", "answer": "Query: How do I how do I sort"}
    prefill = "Query: How do I"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt = ChatPrompt("{document}", examples=[old], prefill=prefill, extract=extract)
    assert prompt.described()["messages"][1]["content"] == old["answer"]


@pytest.mark.parametrize(
    "entry, message",
    [
        ("{mode: chat}", "must have the field user"),
        ("{mode: chat, user: [a]}", "must have the field user"),
        ("{mode: chat, user: 'a'}", "contains it 0 times"),
        ("{mode: chat, user: '{document}', template: a}", "no field 'template'; there are: mode"),
        ("{mode: chat, user: '{document}', examples: [a]}", "list with the fields document and"),
        ("{mode: chat, user: '{document}', examples: [{query: a}]}", "fields document and query"),
        (
            "{mode: chat, user: '{document}', examples: [{query: 7, document: a}]}",
            "query must be a",
        ),
        (
            "{mode: chat, user: '{document}', "
            "examples: [{query: a, document: a, answer: c}, {query: a, document: a}]}",
            "answer in all or none",
        ),
        ("{mode: chat, user: '{document}', extract: ''}", "must not be an empty string"),
        ("{mode: chat, user: '{document}', num_examples: 5}", "chat .* no field 'num_examples'"),
        (
            "{mode: static, template: '{document}', prefill: how}",
            "static .* no field 'prefill'; t",
        ),
        ("{mode: static, template: '{document}', 7: how}", "no field 7; there are: mode, template"),
        ("{mode: dynamic, template: '{document}{query}', examples: []}", "dynamic .* 'examples'"),
    ],
)
def test_invalid_entries_are_refused(tmp_path, entry, message):
    path = tmp_path / "prompts.yaml"
    path.write_text(f"mine: {entry}")
    with pytest.raises(ValueError, match=message):
        Prompt.load(path, "mine")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"user": "a"}, ValueError, "contains it 0 times"),
        ({"user": "{document} {query}"}, ValueError, "user must not contain {query}: the query is"),
        ({"system": 7}, ValueError, "system must be a string .* not 7"),
        ({"prefill": None}, ValueError, "prefill must be a string .* not None"),
        ({"system": "\ud800"}, ValueError, "system must be a string that UTF-8 can encode"),
        ({"schema": "a"}, TypeError, "schema must be a dict with a JSON schema, not 'a'"),
        ({"extract": 7}, TypeError, "extract must be a marker"),
        ({"max_query_tokens": 0}, ValueError, "max_query_tokens .* not 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message.replace("{", r"\{")):
        ChatPrompt(**{"user": "{document}", **arguments})
