"""Compares generated queries with a plain implementation of the InPars Toolkit's algorithm.

    python tests/oracles/toolkit_queries.py templates.yaml collection/

``templates.yaml`` is the toolkit's own file, ``collection/`` a folder in BEIR's layout. The demo
language model generates queries for the first 64 documents in float32 with the prompt ``inpars``:
with ``QueryGenerator``, and with the full prompt for each document alone, by greedy decoding,
truncated at the first newline. Prints how many are equal; the exit status is 0 if all are.
"""

import argparse
from itertools import islice

import pandas as pd
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import Prompt, QueryGenerator
from pyterrier_inpars.datasets import collection
from pyterrier_inpars.demo import language_model

NEW_TOKENS, DOCUMENT_TOKENS = 64, 256


def plainly(template: str, documents: list[str], model: str) -> list[str]:
    """Generates queries with the toolkit's loop at batch size 1, without two of its defects.

    Truncated documents contain no special tokens of the tokenizer, and a query ends at a newline
    in any token.
    """
    llm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    queries = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"][:DOCUMENT_TOKENS]
        prompt = template.format(document=tokenizer.decode(ids), query="").rstrip()
        tokens = tokenizer(prompt, return_tensors="pt")
        output = llm.generate(**tokens, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = output[0, tokens["input_ids"].shape[1] :]
        queries.append(tokenizer.decode(new, skip_special_tokens=True).split("\n")[0].strip())
    return queries


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("templates")
parser.add_argument("collection")
parser.add_argument("--documents", type=int, default=64)
arguments = parser.parse_args()

frame = pd.DataFrame(
    islice(collection(arguments.collection).get_corpus_iter(), arguments.documents)
)
prompt = Prompt.load(arguments.templates, "inpars")
generator = QueryGenerator(
    language_model(),
    prompt=prompt,
    dtype="float32",
    max_new_tokens=NEW_TOKENS,
    max_doc_tokens=DOCUMENT_TOKENS,
    verbose=True,
)
ours = dict(generator(frame)[["docno", "query"]].itertuples(index=False))
with open(arguments.templates, encoding="utf-8") as file:
    template = yaml.safe_load(file)["inpars"]["template"]
theirs = plainly(template, list(frame["text"]), generator.model)
equal = 0
for docno, query in zip(frame["docno"], theirs, strict=True):
    equal += ours.get(docno, "") == query
    if ours.get(docno, "") != query:
        print(f"{docno}: {ours.get(docno)!r}, plainly {query!r}")
print(f"{equal} of {len(frame)} queries are equal, for example {query!r}")
raise SystemExit(equal < len(frame))
