"""Prompts: what the language model is shown."""

import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import FewShotPrompt, StaticPrompt, load_prompt, prompt_names
from pyterrier_inpars.prompts import truncate

EXAMPLES = pd.DataFrame(
    {
        "qid": ["1", "2", "3", "4"],
        "query": ["tall trees", "deep  sea", "wide\nriver", "{document}"],
        "text": ["Redwoods grow\ntall.", "The trench.", "The Amazon {query}.", "Braces."],
    }
)


def test_a_static_prompt_is_the_template_with_the_document_in_it():
    prompt = StaticPrompt("Example {1}\nDocument: {document}\nQuery: {query}\nignored")
    assert prompt.build("a  b\n{query}") == "Example {1}\nDocument: a b {query}\nQuery:"
    assert prompt.prefix == "Example {1}\nDocument:"


def test_the_query_may_have_a_beginning():
    assert StaticPrompt("{document}\nHow do I {query}?").build("x") == "x\nHow do I"


@pytest.mark.parametrize("template", ["no field", "{document} {document}", "{doc}", ""])
def test_a_template_without_one_document_is_an_error(template):
    with pytest.raises(ValueError, match="must hold {document} once"):
        StaticPrompt(template)


@given(st.text())
def test_a_document_is_put_in_as_it_stands(document):
    prompt = StaticPrompt("before {document} after {query}")
    assert prompt.build(document) == f"before {' '.join(document.split())} after"
    assert prompt.build(document).startswith(prompt.prefix)


def test_few_shot_examples_are_written_like_the_document():
    prompt = FewShotPrompt(EXAMPLES, template="D: {document}\nQ: {query}\n\n", num_examples=4)
    shown = [
        f"D: {' '.join(text.split())}\nQ: {' '.join(query.split())}\n\n"
        for query, text in zip(prompt.examples["query"], prompt.examples["text"], strict=True)
    ]
    assert prompt.build("new {query}") == "".join(shown) + "D: new {query}\nQ:"
    assert set(prompt.examples["qid"]) == {"1", "2", "3", "4"}


def test_which_examples_depends_on_the_seed_and_not_on_the_order():
    first = FewShotPrompt(EXAMPLES, num_examples=2, seed=1)
    again = FewShotPrompt(EXAMPLES.iloc[::-1], num_examples=2, seed=1)
    assert first == again
    assert len({FewShotPrompt(EXAMPLES, num_examples=2, seed=s).build("") for s in range(20)}) > 5


def test_few_shot_errors():
    with pytest.raises(ValueError, match="num_examples is 5, but there are 4"):
        FewShotPrompt(EXAMPLES, num_examples=5)
    with pytest.raises(ValueError, match="num_examples .* not 0"):
        FewShotPrompt(EXAMPLES, num_examples=0)
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        FewShotPrompt(EXAMPLES[["query"]])
    with pytest.raises(ValueError, match="must hold {query}"):
        FewShotPrompt(EXAMPLES, template="{document}")
    with pytest.raises(ValueError, match="query must be a string.*qid '1'"):
        FewShotPrompt(EXAMPLES.assign(query=None))


@pytest.mark.parametrize("name", prompt_names())
def test_every_prompt_that_ships_loads(name):
    options = {"examples": EXAMPLES} if name == "few-shot" else {}
    prompt = load_prompt(name, **options)
    assert "the document here" in prompt.build("the document here")
    assert prompt.build("x").startswith(prompt.prefix)


def test_prompts_of_the_toolkits_form_are_read(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(
        "one:\n  mode: static\n  template: |\n    A {document}\n    B {query}\n"
        "two:\n  mode: dynamic\n  template: |\n    C {document}\n    D {query}\n"
    )
    assert prompt_names(path) == ["one", "two"]
    assert load_prompt("one", path).build("x") == "A x\nB"
    few = load_prompt("two", path, examples=EXAMPLES, num_examples=1, seed=0)
    assert few.build("x").endswith("C x\nD")
    assert few.build("x").count("C ") == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("- a\n- b\n", "map names to prompts"),
        ("a: [", "not YAML"),
        ("", "map names to prompts"),
        ("p: text", "must have a mode"),
        ("p: {mode: other, template: x}", "must have a mode"),
        ("p: {mode: static, template: 3}", "must have a mode"),
        ("p: {mode: static, template: x}", "{document} once"),
        ("q: {mode: static, template: x}", "no prompt 'p'; there are: q"),
        ("p: {mode: dynamic, template: '{document} {query}'}", "examples="),
        ("p: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_files_of_another_form_are_errors(tmp_path, text, message):
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_prompt("p", path)


def test_other_load_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_prompt("p", tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="static and takes no seed"):
        load_prompt("three-shot", seed=3)


@given(st.lists(st.sampled_from([*tiny_llm.WORDS, "<eos>", "漢字", "{x}", "\n"]), max_size=40))
def test_truncation_keeps_a_beginning_of_the_text(words):
    document = " ".join(" ".join(words).split())
    tokenizer = TOKENIZER
    (cut,) = truncate([document], tokenizer, 12)
    assert document.startswith(cut)
    ids = tokenizer(document, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if len(ids) <= 12:
        assert cut == document
    else:
        assert len(cut) < len(document)
        kept = tokenizer(cut, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert kept[:11] == ids[:11]


def test_without_a_tokenizer_words_are_counted():
    assert truncate(["a b  c\nd", "e"], None, 3) == ["a b c", "e"]


TOKENIZER = tiny_llm.tokenizer()
