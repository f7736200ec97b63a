"""Prompts: what the language model is shown."""

import hashlib
import json

import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
import web as web_server
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pyterrier_inpars import FewShotPrompt, Prompt, StaticPrompt, load_prompt, prompt_names
from pyterrier_inpars.datasets import published
from pyterrier_inpars.datasets._download import DownloadError, url_path
from pyterrier_inpars.prompts.templates import truncate

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


def test_examples_end_with_their_line():
    """The toolkit's last template lacks its line end, so that its examples run together."""
    prompt = FewShotPrompt(EXAMPLES[:1], template="{document}\nQ {query}", num_examples=1)
    assert prompt.build("x") == "Redwoods grow tall.\nQ tall trees\nx\nQ"


def test_topics_are_those_of_the_examples_shown():
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
def test_a_shortened_prompt_shows_the_same_examples_cut(max_doc_tokens, max_query_tokens):
    words = " ".join(tiny_llm.WORDS)
    examples = EXAMPLES.assign(
        text=[words * (n + 1) for n in range(4)], query=words + EXAMPLES["qid"]
    )
    prompt = FewShotPrompt(examples, template="D {document}\nQ {query}\n", num_examples=3, seed=5)
    whole = prompt.build("x")
    cut = prompt.shortened(TOKENIZER, max_doc_tokens, max_query_tokens)
    lines = []
    for query, text in zip(prompt.examples["query"], prompt.examples["text"], strict=True):
        lines += ["D " + truncate([text], TOKENIZER, max_doc_tokens)[0].rstrip()]
        lines += ["Q " + truncate([query], TOKENIZER, max_query_tokens)[0].rstrip()]
    assert cut.build("x") == "\n".join([*lines, "D x", "Q"])
    assert cut.topics == prompt.topics
    assert prompt.build("x") == whole


def test_what_needs_no_cutting_is_the_same_prompt():
    static = StaticPrompt("a b c d e {document}")
    assert static.shortened(TOKENIZER, 1, 1) is static
    few = FewShotPrompt(EXAMPLES)
    assert few.shortened(TOKENIZER, 1, 99) != few != few.shortened(TOKENIZER, 99, 1)
    assert few.shortened(TOKENIZER, 99, 99) == few
    assert hash(few.shortened(None, 99, 99)) == hash(few)


SHIPPED = [name for name in prompt_names() if name not in ("inpars", "inpars-gbq")]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_prompt_that_ships_loads(name):
    options = {} if name in ("three-shot", "zero-shot") else {"examples": EXAMPLES}
    prompt = load_prompt(name, **options)
    assert "the document here" in prompt.build("the document here")
    assert prompt.build("x").startswith(prompt.prefix)


# ---- what others have published


STATIC = """
    Document: Owls {hunt} at night.
    Good Question: when do owls hunt
    Bad Question: owls

    Document: {document}
"""
TEMPLATES = f"""
inpars:
  mode: static
  template: |{STATIC}    Relevant Query: {{query}}
inpars-gbq:
  mode: static
  template: |{STATIC}    Good Question: {{query}}

promptagator-arguana:
  mode: dynamic
  template: |
    {{document}}
    Is it true that {{query}}
"""
FEWSHOT = [
    {"query_id": n, "doc_id": f"MED-{n}", "query": f"query {n}", "document": f"text {n}"}
    for n in range(20)
]
NFCORPUS = "/datasets/inpars/fewshot-examples/resolve/main/data/nfcorpus.json"


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Serves a file of the toolkit's form, and examples for nfcorpus."""
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path) as web:
        data = TEMPLATES.encode()
        monkeypatch.setattr(published, "TEMPLATES", web.serve("/templates.yaml", data))
        monkeypatch.setattr(published, "TEMPLATES_SHA256", hashlib.sha256(data).hexdigest())
        web.serve(NFCORPUS, "".join(json.dumps(e) + "\n" for e in FEWSHOT).encode())
        yield web


@pytest.mark.parametrize("name", ["inpars", "inpars-gbq"])
def test_prompts_of_inpars_are_fetched_once(web, name):
    """A static prompt never asks for few-shot examples, as the toolkit does."""
    template = yaml.safe_load(TEMPLATES)[name]["template"]
    for _ in range(2):
        prompt = load_prompt(name)
        assert prompt == StaticPrompt(template)
        shown = template.format(document="x", query="", hunt="{hunt}").rstrip()
        assert prompt.build("x") == shown
    assert web.asked == ["/templates.yaml"]


def test_the_good_question_is_the_query_and_the_bad_one_comes_after_its_line(web):
    prompt = load_prompt("inpars-gbq")
    assert prompt.build("x").endswith("\n\nDocument: x\nGood Question:")
    assert prompt.after == "\nGood Question:"
    assert prompt.prefix.endswith("Bad Question: owls\n\nDocument:")


def test_another_file_than_the_one_known_is_refused(web):
    web.serve("/templates.yaml", TEMPLATES.replace("Owls", "Rats").encode())
    with pytest.raises(DownloadError, match=r'Expected sha.*Prompt.load\("templates.yaml", name\)'):
        load_prompt("inpars")
    assert not url_path(published.TEMPLATES).exists()
    path = url_path(published.TEMPLATES)  # by hand, as the error says
    path.write_text(TEMPLATES)
    assert load_prompt("inpars") == Prompt.load(path, "inpars")


def test_without_network_there_is_no_other_prompt_but_an_error(web, tmp_path):
    web.files.clear()
    for name in ("inpars", "inpars-gbq"):
        with pytest.raises(DownloadError, match=r'templates.yaml: .*Prompt.load\("templates'):
            load_prompt(name)
    with pytest.raises(DownloadError, match="nfcorpus.json: .*give examples=, a frame"):
        load_prompt("promptagator-nfcorpus")
    path = tmp_path / "templates.yaml"
    path.write_text(TEMPLATES)
    assert Prompt.load(path, "inpars").build("x").endswith("Document: x\nRelevant Query:")
    assert load_prompt("promptagator-nfcorpus", examples=EXAMPLES).examples["qid"].tolist()
    assert web.asked == ["/templates.yaml"] * 2 + [f"HEAD {NFCORPUS}"]


def test_promptagator_shows_the_published_examples_of_its_collection(web):
    prompt = load_prompt("promptagator-nfcorpus", num_examples=2, seed=1)
    frame = pd.DataFrame(
        {
            "qid": [str(e["query_id"]) for e in FEWSHOT],
            "query": [e["query"] for e in FEWSHOT],
            "text": [e["document"] for e in FEWSHOT],
        }
    )
    template = "Article: {document}\nQuery: {query}\n"
    same = FewShotPrompt(frame, template=template, num_examples=2, seed=1)
    assert prompt == same and prompt.topics == same.topics
    given_by_user = load_prompt("promptagator-nfcorpus", examples=EXAMPLES, num_examples=4)
    assert set(given_by_user.examples["qid"]) == set("1234")
    assert web.asked == [f"HEAD {NFCORPUS}", NFCORPUS]


@pytest.mark.parametrize(
    "collection, lines",
    [
        ("arguana", "Argument: D/Counter argument: Q"),
        ("fiqa", "D/Q"),
        ("hotpotqa", "Evidence: D/Vexed question: Q"),
        ("dbpedia-entity", "entity: D/query: Q"),
        ("nfcorpus", "Article: D/Query: Q"),
        ("webis-touche2020", "D/Debate: Q"),
        ("trec-covid", "D/Question: Q"),
        ("scifact", "D/Finding: Q"),
        ("scidocs", "D/The passage is about Q"),
        ("fever", "D/Is it true that Q"),
    ],
)
def test_promptagators_field_names(collection, lines):
    examples = pd.DataFrame({"query": ["Q"], "text": ["D"]})
    prompt = load_prompt(f"promptagator-{collection}", examples=examples, num_examples=1)
    document, query = lines.split("/")
    asked = f"{document}\n{query}".replace("D", "new", 1).removesuffix("Q").rstrip()
    assert prompt.build("new") == f"{document}\n{query}\n{asked}"


def test_unknown_names_ask_nobody(web):
    for name in ("promptagator-quora", "InPars", "nfcorpus", ""):
        with pytest.raises(ValueError, match="no prompt .* there are: three-shot, .*, inpars-gbq"):
            load_prompt(name)
    assert web.asked == []


# ---- files


def test_prompts_of_the_toolkits_form_are_read(tmp_path):
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
def test_files_of_another_form_are_errors(tmp_path, text, message):
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Prompt.load(path, "p")


def test_other_load_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        Prompt.load(tmp_path / "nowhere.yaml", "p")
    with pytest.raises(ValueError, match="static and takes no seed"):
        load_prompt("three-shot", seed=3)


@given(
    st.lists(st.sampled_from([*tiny_llm.WORDS, "<eos>", "漢字", "{x}", "\n"]), max_size=40),
    st.integers(1, 20),
)
@example(["the", "<eos>", "漢字"], 12)  # cut in the middle of the last character
def test_truncation_keeps_a_beginning_of_the_text(words, limit):
    document = " ".join(" ".join(words).split())
    tokenizer = TOKENIZER
    (cut,) = truncate([document], tokenizer, limit)
    spans = tokenizer(
        document, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )["offset_mapping"]
    if len(spans) <= limit:
        assert cut == document
    else:  # all characters before the first that a token left out has a part of
        assert cut.rstrip() == document[: min(start for start, _ in spans[limit:])].rstrip()
        assert cut != document


def test_without_a_tokenizer_words_are_counted():
    assert truncate(["a b  c\nd", "e"], None, 3) == ["a b c", "e"]


TOKENIZER = tiny_llm.tokenizer()
