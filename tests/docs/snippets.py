"""The Python snippets of a page, and a namespace in which they run without a network.

A page's snippets run in order, in one namespace. Three conventions:

- The snippets of ``README.md``, ``CONTRIBUTING.md``, ``index.rst`` and ``tour.rst`` start from
  nothing. Those of other pages start from the names that the tour defines: ``dataset``, ``bm25``,
  ``text``, ``topics``, ``qrels``, ``queries``.
- A comment ``.. setup:`` holds code that runs at its place and is not shown.
- ``:class: compile-only`` marks a snippet that needs a network, a cluster or a GPU. It is compiled
  and not run.

Hub names are mapped to tiny models by the environment variable ``INPARS_LOCAL_MODELS``.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import chat_templates
import tiny
import tiny_llm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "pyterrier_inpars" / "pt_docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.rst"))]

ROLES = {
    "language": ["google/gemma-3-270m", "EleutherAI/gpt-j-6B", "Qwen/Qwen2.5-7B"],
    "instruct": ["Qwen/Qwen2.5-0.5B-Instruct"],
    "t5": [
        "castorini/monot5-base-msmarco-10k",
        "castorini/monot5-3b-msmarco-10k",
        "google-t5/t5-base",
        "zeta-alpha-ai/monot5-3b-inpars-v2-nfcorpus",
    ],
    "flan": ["google/flan-t5-base"],
    "encoder": [
        "microsoft/MiniLM-L12-H384-uncased",
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/all-mpnet-base-v2",
    ],
    "cross-encoder": ["cross-encoder/ms-marco-MiniLM-L6-v2"],
}
"""Hub names that the pages use, by the tiny model that replaces them."""


class Snippet(NamedTuple):
    """A block of Python code.

    Attributes:
        line: Number of the line before the first line of code.
        code: Code, with its indentation removed.
        runs: Whether it runs, or is only compiled.
    """

    line: int
    code: str
    runs: bool


def snippets(page: Path) -> list[Snippet]:
    """Returns the Python snippets of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return list(_fenced(lines) if page.suffix == ".md" else _directives(lines))


def _fenced(lines: list[str]):
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.strip() == "```python":
            start = number
        elif start is not None and line.strip() == "```":
            yield Snippet(start, "\n".join(lines[start : number - 1]), True)
            start = None


def _directives(lines: list[str]):
    for number, line in enumerate(lines, 1):
        if not (found := re.match(r"( *)\.\. (code-block:: python|setup:)", line)):
            continue
        body = []
        for following in lines[number:]:
            if following.strip() and not following.startswith(found[1] + " "):
                break
            body.append(following[len(found[1]) :].strip("\n"))
        options = 0
        while options < len(body) and re.match(r" +:[\w-]+:", body[options]):
            options += 1
        runs = not any("compile-only" in option for option in body[:options])
        width = min((len(b) - len(b.lstrip()) for b in body[options:] if b.strip()), default=0)
        code = "\n".join(b[width:] for b in body[options:])
        yield Snippet(number + options, code.rstrip(), runs)


def local_models(folder: Path) -> dict[str, str]:
    """Saves the tiny models, and returns the folder of each hub name."""
    paths = {
        "language": _language_model(folder / "language"),
        "instruct": _language_model(folder / "instruct", chat_templates.QWEN),
        "t5": tiny.tiny_t5(folder / "t5"),
        "flan": tiny.tiny_t5(folder / "flan", ("yes", "no"), kind="FLAN-T5"),
        "encoder": _encoder(folder / "encoder"),
        "cross-encoder": _cross_encoder(folder / "cross-encoder"),
    }
    return {name: str(paths[role]) for role, names in ROLES.items() for name in names}


def _language_model(path: Path, template: str | None = None) -> str:
    if template is None:
        tiny_llm.save(path)
    else:
        chat_templates.save(path, template)
    config = json.loads((path / "config.json").read_text())
    config["max_position_embeddings"] = 4096  # the prompt alone has 800 tokens
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def _bert(path: Path, kind: Any) -> str:
    import torch
    from transformers import BertConfig

    tokenizer = tiny.bert_tokenizer()
    tokenizer.model_max_length = 512
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        num_labels=1,
    )
    torch.manual_seed(0)
    kind(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def _encoder(path: Path) -> str:
    from transformers import BertModel

    return _bert(path, BertModel)


def _cross_encoder(path: Path) -> str:
    from transformers import BertForSequenceClassification

    return _bert(path, BertForSequenceClassification)


def tour(folder: Path) -> dict[str, Any]:
    """Returns the names that the tour defines, with fewer queries and topics.

    The synthetic queries are words of documents that BM25 ranks first for them, and two others, so
    that they pass the filters of the recommended setting.
    """
    import pyterrier as pt
    from pyterrier_pisa import PisaIndex

    import pyterrier_inpars

    namespace: dict[str, Any] = {"pt": pt}
    exec("from pyterrier_inpars import *", namespace)
    dataset = pyterrier_inpars.demo.StdlibDocs()
    index = PisaIndex(str(folder / "stdlib.pisa"), text_field="text")
    bm25 = index.index(dataset.get_corpus_iter()).bm25(num_results=20)
    queries = pyterrier_inpars.SyntheticQueries(folder / "stdlib.queries")
    queries.index(
        {
            "qid": f"{document['docno']}-1",
            "query": " ".join(["kindly", "explain", *document["text"].split()[1:8:2]]),
            **document,
            "score": -1.0 - number / 100,
            "log_probs": [-1.0] * 4,
            "finish_reason": "stop",
        }
        for number, document in enumerate(list(dataset.get_corpus_iter())[::100])
    )
    return namespace | {
        "dataset": dataset,
        "bm25": bm25,
        "text": dataset.text_loader(),
        "topics": dataset.get_topics().head(8),
        "qrels": dataset.get_qrels(),
        "queries": queries,
    }


def models_as_json(folder: Path) -> str:
    """Returns the value of ``INPARS_LOCAL_MODELS`` for the tiny models, saved in ``folder``."""
    return json.dumps(local_models(folder))
