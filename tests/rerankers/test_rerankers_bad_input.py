"""Bad input of the rerankers: models and numbers."""

import re

import pytest
import tiny_llm
from bad_input import (
    BROKEN,
    NOT_ONE_OR_MORE,
    Error,
    bm25_over_corpus,
    broken_models,
    gives,
    queries,
)

from pyterrier_inpars import (
    CrossEncoder,
    MonoT5,
    QueryLikelihood,
    RerankTop,
)
from pyterrier_inpars.rerankers import load_reranker

pisa = pytest.importorskip("pyterrier_pisa")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    return bm25_over_corpus(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, llm):
    return broken_models(tmp_path_factory.mktemp("models"), llm)


@pytest.mark.parametrize("name", [*BROKEN, "no tokenizer", "garbage.gguf", "nowhere.gguf", "T5"])
def test_no_language_model(models, name):
    remedy = "an encoder-decoder: give another" if name == "T5" else "give a name on the Hugging Fa"
    error = Error(f"cannot load a causal language model from .*{remedy}")
    gives(lambda: QueryLikelihood(models[name])(queries()), error)


@pytest.mark.parametrize("name", [*BROKEN, "LLM"])
def test_no_reranker(models, name):
    error = Error("cannot load the model .*give the name of a model", OSError)
    gives(lambda: MonoT5(models[name])(queries()), error)
    if name != "LLM":  # which gets a scoring head
        gives(lambda: CrossEncoder(models[name])(queries()), error)
    else:
        error = Error("is a LlamaForCausalLM, which is not a reranker")
    if name != "no weights":  # which are not looked at yet
        gives(lambda: load_reranker(models[name]), error)


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda bm25, k: RerankTop(bm25, k),
    ],
)
def test_a_number_that_must_be_one_or_more(bm25, make, value):
    gives(
        lambda: make(bm25, value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )
