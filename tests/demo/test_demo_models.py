"""The demo models: language models that generate queries and encoders that rerank."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest
from plain_generation import check, plainly

from pyterrier_inpars import BiEncoder, QueryGenerator, StaticPrompt
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.demo import (
    StdlibDocs,
    encoder,
    instruct_model,
    language_model,
    small_instruct_model,
    strong_encoder,
)

PROMPT = StaticPrompt(
    "Python documentation: {document}\n\nStack Overflow question: How do I {query}"
)
DOCNOS = ["shutil.copytree", "textwrap.dedent", "math.sqrt", "json.dumps", "os.rename"]


@pytest.fixture(scope="module")
def documents():
    corpus = {d["docno"]: d["text"] for d in StdlibDocs().get_corpus_iter()}
    return pd.DataFrame([{"docno": docno, "text": corpus[docno][:200]} for docno in DOCNOS])


@pytest.mark.slow
def test_generated_queries_do_not_depend_on_the_batch(documents):
    model = language_model()
    backend = HuggingFaceBackend(model, dtype="float32", batch_size=4)
    generator = QueryGenerator(backend, prompt=PROMPT, max_new_tokens=16)
    found = generator(documents)
    check(found, plainly(model, documents, PROMPT, 16))
    shuffled = documents.sample(frac=1, random_state=1)
    backend.batch_size = 2  # of the same model, which takes seconds to load
    again = generator(shuffled)
    assert dict(zip(again["qid"], again["query"], strict=True)) == dict(
        zip(found["qid"], found["query"], strict=True)
    )
    assert set(found["finish_reason"]) <= {"stop", "length"}
    assert found["query"].str.startswith("rename a file").any()


@pytest.mark.slow
@pytest.mark.parametrize("model", [encoder, strong_encoder])
def test_the_encoder_ranks_the_right_document_first(documents, model):
    queries = {"1": "duplicate a whole folder", "2": "strip indentation", "3": "move a file"}
    right = {"1": "shutil.copytree", "2": "textwrap.dedent", "3": "os.rename"}
    pairs = [
        {"qid": qid, "query": query, **document}
        for qid, query in queries.items()
        for document in documents.to_dict("records")
    ]
    ranked = BiEncoder(model())(pd.DataFrame(pairs))
    best = ranked[ranked["rank"] == 0].set_index("qid")["docno"].to_dict()
    assert best == right


# SHA-256 of model.safetensors as published at sentence-transformers/all-mpnet-base-v2.
MPNET = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"


def test_the_strong_encoder_has_the_published_weights(tmp_path):
    folder = Path(strong_encoder(tmp_path / "mpnet"))
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == MPNET
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".py", ".pkl", ".zip", ".ini"}]
    assert strong_encoder(folder) == str(folder)  # a prepared folder is used as it stands


@pytest.mark.slow
@pytest.mark.parametrize("folder", [instruct_model, small_instruct_model])
def test_the_instruct_models_answer_in_their_chat_template(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder())
    model = AutoModelForCausalLM.from_pretrained(folder(), dtype="bfloat16")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**tokens, max_new_tokens=16, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer[tokens["input_ids"].shape[1] :])
    assert answer[-1] == tokenizer.eos_token_id == model.config.eos_token_id
    assert not list(Path(folder()).glob("*.gguf"))
