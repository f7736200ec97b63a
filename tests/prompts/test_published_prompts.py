"""Prompts of InPars and Promptagator, downloaded from a local server."""

import hashlib
import json

import pandas as pd
import pytest
import web as web_server
import yaml

from pyterrier_inpars import FewShotPrompt, Prompt, StaticPrompt, load_prompt
from pyterrier_inpars.datasets import published
from pyterrier_inpars.datasets._download import DownloadError, url_path

EXAMPLES = pd.DataFrame(
    {
        "qid": ["1", "2", "3", "4"],
        "query": ["tall trees", "deep  sea", "wide\nriver", "{document}"],
        "text": ["Redwoods grow\ntall.", "The trench.", "The Amazon {query}.", "Braces."],
    }
)


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
    """Serves a file in the toolkit's format, and examples for nfcorpus."""
    with web_server.offline_but_for_this_machine(monkeypatch, tmp_path) as web:
        data = TEMPLATES.encode()
        monkeypatch.setattr(published, "TEMPLATES", web.serve("/templates.yaml", data))
        monkeypatch.setattr(published, "TEMPLATES_SHA256", hashlib.sha256(data).hexdigest())
        web.serve(NFCORPUS, "".join(json.dumps(e) + "\n" for e in FEWSHOT).encode())
        yield web


@pytest.mark.parametrize("name", ["inpars", "inpars-gbq"])
def test_prompts_of_inpars_are_downloaded_once(web, name):
    """A static prompt downloads no few-shot examples, unlike in the toolkit."""
    template = yaml.safe_load(TEMPLATES)[name]["template"]
    for _ in range(2):
        prompt = load_prompt(name)
        assert prompt == StaticPrompt(template)
        shown = template.format(document="x", query="", hunt="{hunt}").rstrip()
        assert prompt.build("x") == shown
    assert web.asked == ["/templates.yaml"]


def test_the_good_question_is_the_query(web):
    prompt = load_prompt("inpars-gbq")
    assert prompt.build("x").endswith("\n\nDocument: x\nGood Question:")
    assert prompt.after == "\nGood Question:"
    assert prompt.prefix.endswith("Bad Question: owls\n\nDocument:")


def test_a_file_with_another_hash_is_refused(web):
    web.serve("/templates.yaml", TEMPLATES.replace("Owls", "Rats").encode())
    with pytest.raises(DownloadError, match=r'Expected sha.*Prompt.load\("templates.yaml", name\)'):
        load_prompt("inpars")
    assert not url_path(published.TEMPLATES).exists()
    path = url_path(published.TEMPLATES)  # by hand, as the error says
    path.write_text(TEMPLATES)
    assert load_prompt("inpars") == Prompt.load(path, "inpars")


def test_without_network_an_error_names_the_remedy(web, tmp_path):
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


def test_promptagator_uses_the_published_examples_of_its_collection(web):
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
    asked = f"{document}\n{query}".replace("D", "new", 1).removesuffix("Q").rstrip(" ")
    assert prompt.build("new") == f"{document}\n{query}\n{asked}"


def test_unknown_names_need_no_network(web):
    for name in ("promptagator-quora", "InPars", "nfcorpus", ""):
        with pytest.raises(ValueError, match="no prompt .* there are: three-shot, .*, inpars-gbq"):
            load_prompt(name)
    assert web.asked == []
