"""The demo models: a language model that generates queries and an encoder that reranks."""

import pandas as pd
import pytest
from plain_generation import check, plainly

from pyterrier_inpars import BiEncoder, QueryGenerator, StaticPrompt
from pyterrier_inpars.demo import StdlibDocs, encoder, language_model

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
    options = {"prompt": PROMPT, "max_new_tokens": 16, "dtype": "float32"}
    found = QueryGenerator(model, batch_size=4, **options)(documents)
    check(found, plainly(model, documents, PROMPT, 16))
    shuffled = documents.sample(frac=1, random_state=1)
    again = QueryGenerator(model, batch_size=2, **options)(shuffled)
    assert dict(zip(again["qid"], again["query"], strict=True)) == dict(
        zip(found["qid"], found["query"], strict=True)
    )
    assert set(found["finish_reason"]) <= {"stop", "length"}
    assert found["query"].str.startswith("rename a file").any()


@pytest.mark.slow
def test_the_encoder_ranks_the_right_document_first(documents):
    queries = {"1": "duplicate a whole folder", "2": "strip indentation", "3": "move a file"}
    right = {"1": "shutil.copytree", "2": "textwrap.dedent", "3": "os.rename"}
    pairs = [
        {"qid": qid, "query": query, **document}
        for qid, query in queries.items()
        for document in documents.to_dict("records")
    ]
    ranked = BiEncoder(encoder())(pd.DataFrame(pairs))
    best = ranked[ranked["rank"] == 0].set_index("qid")["docno"].to_dict()
    assert best == right
