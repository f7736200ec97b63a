"""What a notebook shows of a prompt: the text or the turns, with the document's place marked."""

import pandas as pd
import pytest

from pyterrier_inpars import ChatPrompt, FewShotPrompt, StaticPrompt, load_prompt, prompt_names

DOCUMENT, QUERY = "<mark>{document}</mark>", "<mark>{query}</mark>"
EXAMPLES = pd.DataFrame({"query": ["coral <b>"], "text": ["of {document} {query}"]})


def test_a_template():
    shown = StaticPrompt("<i>Text: {document}\nQuestion: {query}")._repr_html_()
    assert f"&lt;i&gt;Text: {DOCUMENT}\nQuestion: {QUERY}</pre>" in shown
    assert "StaticPrompt" in shown and "<i>" not in shown


def test_only_the_place_of_the_document_is_marked():
    shown = FewShotPrompt(EXAMPLES, num_examples=1)._repr_html_()
    assert "of {document} {query}" in shown and "coral &lt;b&gt;" in shown
    assert shown.count("<mark>") == 2


def test_the_turns_of_a_chat():
    prompt = ChatPrompt(
        "Text: {document}", system="Be <b>.", examples=EXAMPLES, num_examples=1, prefill="A:"
    )
    shown = prompt._repr_html_()
    roles = [part.partition("<")[0] for part in shown.split('"label">')[1:]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert "Be &lt;b&gt;." in shown and f"Text: {DOCUMENT}" in shown and f"A: {QUERY}" in shown
    assert shown.count("<mark>") == 2  # the example's document has the name of a field


@pytest.mark.parametrize("name", [n for n in prompt_names() if "inpars" not in n])
def test_shipped_prompts(name):
    if name == "few-shot" or name.startswith("promptagator-"):
        prompt = load_prompt(name, examples=EXAMPLES, num_examples=1)
    else:
        prompt = load_prompt(name)
    shown = prompt._repr_html_()
    assert shown.count(DOCUMENT) == 1
    assert shown.count(QUERY) == (prompt.extract is None)
