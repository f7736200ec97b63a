"""Prompt templates, few-shot prompts, and YAML files of prompts."""

import warnings

import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import FewShotPrompt, Prompt, StaticPrompt, load_prompt, prompt_names
from pyterrier_inpars.prompts._truncation import truncate
from pyterrier_inpars.prompts.templates import read_text

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
    prompt = StaticPrompt("{document}\nAsk: {query}", prefill="how ")
    assert prompt.build("x") == "x\nAsk: how" and prompt.prefill == "how"
    assert StaticPrompt("{document}\n{query}", prefill="how").build("x") == "x\nhow"
    assert repr(prompt) == "StaticPrompt('{document}\\nAsk: {query}', prefill='how')"


@pytest.mark.parametrize("template", ["no field", "{document} {document}", "{doc}", ""])
def test_a_template_without_one_document_is_an_error(template):
    with pytest.raises(ValueError, match="must contain {document} once"):
        StaticPrompt(template)


@pytest.mark.parametrize("field", ["{title}", "{doc_text}", "{question}"])
def test_an_unknown_field_in_a_template_is_an_error(field):
    template = f"{field}\nDocument: {{document}}\nQuery: {{query}}"
    for make in (StaticPrompt, lambda t: FewShotPrompt(EXAMPLES, template=t)):
        with pytest.raises(ValueError, match=f"but not {field}.*text column"):
            make(template)


def test_the_paragraph_of_the_query_is_another_one():
    """As the documentation says: beside {document} alone, a field is an error."""
    template = "Document: {document}\n\nWrite {n} words as a query: {query}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StaticPrompt(template).build("x").endswith("Write {n} words as a query:")
    with pytest.warns(UserWarning, match="not {title}, which the model gets as"):
        StaticPrompt(template.replace("{n}", "{title}"))
    with pytest.raises(ValueError, match="not {n}, which is in the paragraph of {document}: "):
        StaticPrompt(template.replace("\n\n", "\n"))


@pytest.mark.parametrize("field, warns", [("{title}", 1), ("{docno}", 1), ("{x}", 0), ("{}", 0)])
def test_a_field_in_another_paragraph_of_a_template_is_text(field, warns):
    """An example there may be program code. A name that columns have gives a warning."""
    template = f"Owls {field}.\n\nText: {{document}} {{query}}"
    for make in (StaticPrompt, lambda t: FewShotPrompt(EXAMPLES, template=t)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert make(template).build("{title}").startswith(f"Owls {field}.")
        assert [str(w.message).count(f"but not {field}, which") for w in caught] == [1] * warns


@pytest.mark.parametrize("template", ["{document}\n{query}", "Q?\n{document}\nAsked:\n{query}\n"])
def test_a_line_end_before_the_query_is_part_of_the_prompt(template):
    """Without it, the model would end its query where it begins."""
    after = template[template.index("}") + 1 : template.index("{query}")]
    assert StaticPrompt(template).build("x").endswith(f"x{after}")
    assert FewShotPrompt(EXAMPLES, template=template).build("x").endswith(f"x{after}")
    assert StaticPrompt("Document: {document}\nQuery:\n").build("x") == "Document: x\nQuery:"


GOOD_AND_BAD = """Example 1:
Document: Coffee contains caffeine.
Good Question: How much caffeine is in a cup of coffee?
Bad Question: Is coffee good?

Example 2:
Document: {document}
Good Question: {query}"""


@pytest.mark.parametrize(
    "prompt, copies, others",
    [
        (
            StaticPrompt(GOOD_AND_BAD),
            [
                "How much caffeine is in a cup of coffee?",
                "how much CAFFEINE is in a cup of coffee",
                "how much caffeine is in one cup of coffee",
                "how much caffeine is in a cup of",
                "Is coffee good?",
                "Coffee contains caffeine.",
            ],
            ["caffeine", "how much sugar is in a glass of milk?", "coffee", ""],
        ),
        (
            FewShotPrompt(EXAMPLES, template="{document}\n{query}\n", num_examples=4),
            ["tall trees", "Deep sea!", "wide river"],
            ["tall", "tall trees of the coast", "a deep lake"],
        ),
        (
            FewShotPrompt(EXAMPLES, template="{document}\nIs it true that {query}?\n"),
            ["deep sea"],
            ["it is true"],
        ),
        (StaticPrompt("A text: x\nQuery: lasers\n{document}\nQuery:"), ["Lasers"], ["a laser"]),
        (load_prompt("zero-shot"), [], ["search query", "document"]),
    ],
)
def test_copies_of_the_examples_are_found(prompt, copies, others):
    assert prompt.copies([*copies, *others]) == [True] * len(copies) + [False] * len(others)


def test_copies_of_truncated_examples_are_found():
    prompt = FewShotPrompt(EXAMPLES.assign(query="a b c d e f g h"), max_query_tokens=3)
    assert prompt.truncated(None, 9).copies(["a b c", "a b c d e f g h", "b d"]) == [
        *[True, True, False]
    ]


@given(st.text())
def test_a_document_is_inserted_unchanged(document):
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


def test_drawn_examples_depend_on_the_seed_and_not_on_the_order():
    first = FewShotPrompt(EXAMPLES, num_examples=2, seed=1)
    again = FewShotPrompt(EXAMPLES.iloc[::-1], num_examples=2, seed=1)
    assert first == again
    assert len({FewShotPrompt(EXAMPLES, num_examples=2, seed=s).build("") for s in range(20)}) > 5


def test_invalid_few_shot_prompts_are_refused():
    with pytest.raises(ValueError, match="num_examples is 5, but there are only 4"):
        FewShotPrompt(EXAMPLES, num_examples=5)
    with pytest.raises(ValueError, match="num_examples .* not 0"):
        FewShotPrompt(EXAMPLES, num_examples=0)
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        FewShotPrompt(EXAMPLES[["query"]])
    with pytest.raises(ValueError, match="must contain {query}"):
        FewShotPrompt(EXAMPLES, template="{document}")
    with pytest.raises(ValueError, match="query must be a string.*qid '1'"):
        FewShotPrompt(EXAMPLES.assign(query=None))


def test_examples_end_with_their_line():
    """The last template of the toolkit has no line end, so its examples would run together."""
    prompt = FewShotPrompt(EXAMPLES[:1], template="{document}\nQ {query}", num_examples=1)
    assert prompt.build("x") == "Redwoods grow tall.\nQ tall trees\nx\nQ"


def test_topics_are_those_of_the_drawn_examples():
    shown = FewShotPrompt(EXAMPLES, num_examples=2, seed=3)
    assert shown.topics == shown.examples[["qid", "query"]].to_dict("records")
    assert len(shown.topics) == 2
    twice = pd.concat([EXAMPLES, EXAMPLES.assign(text="other")])
    assert len(FewShotPrompt(twice, num_examples=8).topics) == 4
    unnamed = FewShotPrompt(EXAMPLES.drop(columns="qid"), num_examples=4)
    assert sorted(topic["query"] for topic in unnamed.topics) == sorted(EXAMPLES["query"])
    assert all(list(topic) == ["query"] for topic in unnamed.topics)
    assert StaticPrompt("{document}").topics == []
    with pytest.raises(ValueError, match="qid must be a string, but is 1"):
        FewShotPrompt(EXAMPLES.assign(qid=1))


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_truncated_prompt_has_the_same_examples_truncated(max_doc_tokens, max_query_tokens):
    words = " ".join(tiny_llm.WORDS)
    examples = EXAMPLES.assign(
        text=[words * (n + 1) for n in range(4)], query=words + EXAMPLES["qid"]
    )
    prompt = FewShotPrompt(
        examples,
        template="D {document}\nQ {query}\n",
        num_examples=3,
        seed=5,
        max_query_tokens=max_query_tokens,
    )
    whole = prompt.build("x")
    cut = prompt.truncated(TOKENIZER, max_doc_tokens)
    lines = []
    for query, text in zip(prompt.examples["query"], prompt.examples["text"], strict=True):
        lines += ["D " + truncate([text], TOKENIZER, max_doc_tokens)[0].rstrip()]
        lines += ["Q " + truncate([query], TOKENIZER, max_query_tokens)[0].rstrip()]
    assert cut.build("x") == "\n".join([*lines, "D x", "Q"])
    assert cut.topics == prompt.topics
    assert prompt.build("x") == whole


def test_prompts_that_need_no_truncation_are_equal():
    static = StaticPrompt("a b c d e {document}")
    assert static.truncated(TOKENIZER, 1) is static
    few = FewShotPrompt(EXAMPLES)
    short = FewShotPrompt(EXAMPLES, max_query_tokens=1)
    assert few.truncated(TOKENIZER, 1) != few != short.truncated(TOKENIZER, 99)
    assert few.truncated(TOKENIZER, 99) == few
    assert hash(few.truncated(None, 99)) == hash(few)


SHIPPED = [name for name in prompt_names() if name not in ("inpars", "inpars-gbq")]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_prompt_that_ships_loads(name):
    options = {"examples": EXAMPLES} if name.startswith(("few-shot", "promptagator")) else {}
    prompt = load_prompt(name, **options)
    built = prompt.build("the document here")
    if prompt.chat:
        built, prefix = built[-1]["content"], "\n".join(m["content"] for m in prompt.prefix)
    else:
        prefix = prompt.prefix
        assert built.startswith(prefix)
    assert "the document here" in built and "the document here" not in prefix


def test_files_of_the_toolkit_are_read(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(
        "one:\n  mode: static\n  template: |\n    A {document}\n    B {query}\n"
        "two:\n  mode: dynamic\n  template: |\n    C {document}\n    D {query}\n"
    )
    assert Prompt.load(path, "one").build("x") == "A x\nB"
    few = Prompt.load(str(path), "two", examples=EXAMPLES, num_examples=1, seed=0)
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
        ("q: {mode: static, template: x}", "no prompt 'p' in .*; there are: q"),
        ("p: {mode: dynamic, template: '{document} {query}'}", "examples="),
        ("p: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_files_in_another_format_are_refused(tmp_path, text, message):
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Prompt.load(path, "p")


def test_missing_files_and_unknown_options_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        Prompt.load(tmp_path / "nowhere.yaml", "p")
    with pytest.raises(ValueError, match="static and has no option seed"):
        load_prompt("three-shot", seed=3)


TOKENIZER = tiny_llm.tokenizer()


def test_files_with_a_byte_order_mark_under_the_home_folder(tmp_path, monkeypatch):
    """Editors on Windows write the mark, which is not part of the prompt."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prompt.txt").write_text("Doc: {document}\nQ:", encoding="utf-8-sig")
    assert StaticPrompt(read_text("~/prompt.txt")).build("x") == "Doc: x\nQ:"
    entry = "p: {mode: static, template: 'Doc: {document}'}"
    (tmp_path / "prompts.yaml").write_text(entry, encoding="utf-8-sig")
    assert Prompt.load("~/prompts.yaml", "p").build("x") == "Doc: x"
