"""Known defects of the InPars Toolkit (0.2.1), which this package must not have.

Each test is named after the defect. The tests of the modules go into more detail.
"""

import ast
import json
import random
import re
import weakref
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest
import tiny
import tiny_llm
import web
from transformers import AutoTokenizer

import pyterrier_inpars
from pyterrier_inpars import (
    CopyFilter,
    CrossEncoder,
    FewShotPrompt,
    LengthFilter,
    MonoT5,
    NegativeMiner,
    QueryGenerator,
    RerankTop,
    ScoreFilter,
    StaticPrompt,
    SyntheticQueries,
    cli,
    evaluation,
    load_prompt,
    load_reranker,
    prompt_names,
)
from pyterrier_inpars.datasets import BeirFolder, collection, published, toolkit_files

pytestmark = pytest.mark.usefixtures("one_thread")
pisa = pytest.importorskip("pyterrier_pisa")

PROMPT = StaticPrompt("Document: {document}\nQuery: {query}")
WORDS = sorted(set(tiny_llm.WORDS))
DOCUMENTS = pd.DataFrame(
    {
        "docno": ["007", "7", "1e5", "NaN", *(f"d{i}" for i in range(26))],
        "text": [" ".join(random.Random(i).choices(WORDS, k=12)) for i in range(30)],
    }
)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """PyTerrier's home folder, where the commands keep indexes."""
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path_factory.getbasetemp() / "pyterrier_home"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


@pytest.fixture(scope="module")
def bm25(tmp_path_factory):
    index = pisa.PisaIndex(str(tmp_path_factory.mktemp("bm25") / "index"), text_field="text")
    index.index(DOCUMENTS.to_dict("records"))
    return index.bm25(num_results=30)


def generator(llm, **options):
    options = {"prompt": PROMPT, "max_new_tokens": 8, "dtype": "float32", **options}
    return QueryGenerator(llm, **options)


def queries(*rows):
    """Synthetic queries of some documents: (number of the document, query)."""
    frame = DOCUMENTS.iloc[[number for number, _ in rows]].reset_index(drop=True)
    frame["query"] = [query for _, query in rows]
    return frame.assign(qid=frame["docno"] + "-1")


def miner(bm25, **options):
    return NegativeMiner(bm25, texts=lambda: iter(DOCUMENTS.to_dict("records")), **options)


def test_the_source_document_drawn_as_its_own_negative(bm25):
    written = queries(*((n, text) for n, text in enumerate(DOCUMENTS["text"])))
    mined = miner(bm25, num_negatives=30)(written)
    source = dict(zip(written["qid"], written["docno"], strict=True))
    negatives = mined[mined["label"] == 0]
    assert len(negatives) > 300
    assert not (negatives["docno"] == negatives["qid"].map(source)).any()


def test_topic_ids_by_file_line_while_empty_queries_are_skipped(tmp_path, bm25):
    lines = []
    for n, text in enumerate(DOCUMENTS["text"]):
        query = "" if n % 3 == 0 else text
        lines.append(json.dumps({"doc_id": DOCUMENTS["docno"][n], "text": text, "query": query}))
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    written = pd.DataFrame(toolkit_files.read_queries(tmp_path / "queries.jsonl"))
    toolkit_files.write_triples(miner(bm25, num_negatives=2)(written), tmp_path / "triples.tsv")
    triples = [line.split("\t") for line in (tmp_path / "triples.tsv").read_text().splitlines()]
    assert len(triples) == 40
    for query, positive, negative in triples:
        assert query == positive != negative  # the queries are their documents' texts
        assert set(query.split()) & set(negative.split())  # and found their own negatives


@pytest.fixture
def folder(tmp_path):
    """The documents as a collection in BEIR format."""
    path = tmp_path / "collection"
    (path / "qrels").mkdir(parents=True)
    rows = DOCUMENTS.rename(columns={"docno": "_id"}).to_dict("records")
    (path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    topics = [{"_id": "01", "text": "plasma"}, {"_id": "1", "text": "gain of the receiver"}]
    (path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in topics))
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n01\t007\t1\n1\t7\t1\n")
    return str(path)


def test_a_temporary_run_reused_although_the_input_changed(tmp_path, folder):
    outputs = []
    for name in ("first", "second"):
        word = {"first": "plasma", "second": "receiver"}[name]
        record = {"doc_id": "007", "text": DOCUMENTS["text"][0], "query": word}
        (tmp_path / "queries.jsonl").write_text(json.dumps(record))
        output = tmp_path / f"{name}.tsv"
        cli.main(["triples", "--input", str(tmp_path / "queries.jsonl"), "--dataset", folder,
                  "--n_samples", "3", "--output", str(output)])  # fmt: skip
        outputs.append([line.split("\t") for line in output.read_text().splitlines()])
        assert all(query == word and word in negative.split() for query, _, negative in outputs[-1])
    assert outputs[0] and outputs[1]


def test_a_newline_id_that_belongs_to_gpt_j_only(llm):
    tokenizer = AutoTokenizer.from_pretrained(llm)
    newlines = [i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])]
    assert len(newlines) > 2 and 198 not in newlines
    found = generator(llm, max_new_tokens=30)(DOCUMENTS)
    assert not found["query"].str.contains("\n").any()
    assert {"stop"} < set(found["finish_reason"]) | {"length"}


def test_scores_that_are_maxima_rather_than_the_emitted_tokens(llm):
    """A sampled query scores lower than the most probable tokens at each position."""
    import torch
    from transformers import AutoModelForCausalLM

    found = generator(llm, sampling={"temperature": 2.0}, num_queries=8, keep_prompt=True)(
        DOCUMENTS.head(8)
    )
    tokenizer = AutoTokenizer.from_pretrained(llm)
    model = AutoModelForCausalLM.from_pretrained(llm).eval()
    below = 0
    for prompt, query, log_probs in found[["prompt_text", "query", "log_probs"]].values:
        start = tokenizer(prompt)["input_ids"]
        new = tokenizer(query, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([start + new])).logits[0, len(start) - 1 :].log_softmax(-1)
        emitted = [float(scores[i, token]) for i, token in enumerate(new)]
        if emitted == pytest.approx(log_probs, abs=1e-3):  # otherwise tokenized differently
            below += sum(log_probs) < float(scores[: len(new)].max(-1).values.sum()) - 1
    assert below >= 3


def test_prompt_and_label_words_chosen_by_the_models_path(tmp_path):
    paths = [tmp_path / name for name in ("one", "flan-mt5-monobert")]
    pairs = DOCUMENTS.head(4).assign(qid="1", query="what is good")
    scores = [load_reranker(tiny.tiny_t5(path))(pairs)["score"].tolist() for path in paths]
    assert scores[0] == scores[1]
    bert = load_reranker(tiny.tiny_bert(tmp_path / "monot5-flan"))
    assert isinstance(bert, CrossEncoder)


def test_relevant_truncated_away(tmp_path):
    model = MonoT5(tiny.tiny_t5(tmp_path / "t5"))
    pairs = pd.DataFrame({"qid": "1", "query": "what is good", "docno": ["short", "long", "wide"],
                          "text": ["apple", "apple " * 500, "a" * 5_000]})  # fmt: skip
    model(pairs)
    batch = model._batch(["what is good " * 60] * 3, list(pairs["text"]))
    ends = [model._tokenizer.decode([i for i in row if i]) for row in batch["input_ids"].tolist()]
    assert all(end.endswith("Relevant:</s>") for end in ends)


def test_few_shot_topics_left_in_the_evaluation(tmp_path, llm):
    topics = pd.DataFrame({"qid": ["1", "2", "3"], "query": ["gain", "noise", "a plasma"]})
    examples = topics.head(2).assign(text=DOCUMENTS["text"][:2], docno=["007", "7"])
    prompt = FewShotPrompt(examples, num_examples=2)
    stored = (generator(llm, prompt=prompt) >> SyntheticQueries(tmp_path / "queries")).index(
        DOCUMENTS.head(3).to_dict("records")
    )
    loaded = pt.Artifact.load(str(stored.path))  # the artifact stores the few-shot topics
    assert list(evaluation.exclude_fewshot_topics(topics, loaded)["qid"]) == ["3"]


def test_score_offset_in_float32_that_ties_bm25s_order():
    scores = [30.0 - i * 1e-5 for i in range(50)]
    run = pd.DataFrame({"qid": "1", "query": "q", "docno": [f"d{i}" for i in range(50, 0, -1)],
                        "text": "t", "score": scores, "rank": range(50)})  # fmt: skip
    offset = run["score"].astype("float32") - 10_000
    assert offset.nunique() < 3  # what the toolkit does
    turn = pt.apply.doc_score(lambda row: -row["score"])
    reranked = RerankTop(turn, 10)(run).sort_values("score", ascending=False)
    assert list(reranked["docno"]) == [*run["docno"][:10][::-1], *run["docno"][10:]]
    assert reranked["score"].astype("float32").nunique() == 50


def test_special_tokens_decoded_into_the_prompt(llm):
    documents = DOCUMENTS.head(3).assign(text=lambda frame: frame["text"] + " <bos> end")
    found = generator(llm, keep_prompt=True, max_doc_tokens=200)(documents)
    for prompt, text in zip(found["prompt_text"], found["text"], strict=True):
        assert prompt == f"Document: {text}\nQuery:"  # no <bos> except the document's
    cut = generator(llm, keep_prompt=True, max_doc_tokens=6)(DOCUMENTS)
    assert not cut["prompt_text"].str.contains("<").any()


@pytest.mark.parametrize("name", ["corpus.csv", "corpus.tsv", "corpus.jsonl"])
def test_ids_parsed_as_numbers_and_custom_corpora_that_crash(tmp_path, llm, name):
    frame = DOCUMENTS.rename(columns={"docno": "doc_id"}).head(4)
    if name.endswith("l"):
        frame.to_json(tmp_path / name, orient="records", lines=True)
    else:
        frame.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    (tmp_path / "prompt.txt").write_text("{document}\nQuery: {query}")
    cli.main(["generate", "--dataset", str(tmp_path / name), "--base_model", llm, "--prompt",
              str(tmp_path / "prompt.txt"), "--max_new_tokens", "8", "--max_prompt_length", "100",
              "--output", str(tmp_path / "out.jsonl")])  # fmt: skip
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written and {row["doc_id"] for row in written} <= {"007", "7", "1e5", "NaN"}
    assert [row["docno"] for row in collection(tmp_path / name).get_corpus_iter()] == list(
        frame["doc_id"]
    )


def test_child_processes_unchecked(tmp_path, folder, capsys):
    """There are no child processes but the demo's pip, and a retrieval error fails the command."""
    package = Path(pyterrier_inpars.__file__).parent
    for file in set(package.rglob("*.py")) - {package / "demo" / "_packages.py"}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                assert not {"subprocess", "multiprocessing"} & names, file
    record = {"doc_id": "007", "text": "a text", "query": "plasma"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as error:
        cli.main(["triples", "--input", str(tmp_path / "queries.jsonl"), "--dataset", folder,
                  "--index", str(tmp_path), "--output", str(tmp_path / "out.tsv")])  # fmt: skip
    assert error.value.code == 1
    assert re.search("no Lucene index|not installed", capsys.readouterr().err)
    assert not (tmp_path / "out.tsv").exists()


def test_templates_missing_from_the_wheel():
    """test_packaging.py loads all templates from an installed wheel."""
    collections = "arguana fiqa hotpotqa dbpedia-entity nfcorpus webis-touche2020 trec-covid "
    collections += "scifact scidocs fever"
    expected = {"inpars", "inpars-gbq", *(f"promptagator-{c}" for c in collections.split())}
    assert expected <= set(prompt_names())


def test_filters_reading_fields_that_the_generator_does_not_write(llm):
    """The toolkit's copy filter reads ``question`` and ``doc_text``; its generator writes neither.

    Here, every filter accepts the output of the generator.
    """
    written = generator(llm)(DOCUMENTS)
    assert len(written) > 10
    copied = written.assign(query=written["text"].str.split().str[:4].str.join(" "))
    assert len(CopyFilter()(copied)) == 0
    for stage in (CopyFilter(), LengthFilter(1, min_tokens=1, max_tokens=8), ScoreFilter(5)):
        assert 0 < len(stage(written)) <= len(written)


def test_one_over_long_document_ending_a_run(llm):
    documents = pd.concat([DOCUMENTS.head(3), DOCUMENTS.head(1).assign(docno="long")])
    documents["text"] = documents["text"].where(documents["docno"] != "long", "plasma " * 100_000)
    found = generator(llm, max_doc_tokens=10**6)(documents)
    alone = generator(llm)(DOCUMENTS.head(3))
    assert "long" in set(found["docno"])
    assert (
        dict(alone[["qid", "query"]].values).items() <= dict(found[["qid", "query"]].values).items()
    )


def test_few_shot_files_fetched_for_static_prompts(tmp_path, monkeypatch):
    with web.offline_but_for_this_machine(monkeypatch, tmp_path) as server:
        templates = b"inpars: {mode: static, template: '{document}: {query}'}"
        monkeypatch.setattr(published, "TEMPLATES", server.serve("/templates.yaml", templates))
        monkeypatch.setattr(published, "TEMPLATES_SHA256", None)
        for name in ("inpars", "zero-shot", "three-shot"):
            load_prompt(name)
        assert server.asked == ["/templates.yaml"]


def test_whole_corpora_held_twice_in_memory(tmp_path, llm):
    """At most a batch and a shard of documents are in memory, whatever the size of the corpus."""

    class Document(dict):
        pass

    alive = weakref.WeakValueDictionary()
    most = 0

    def corpus():
        nonlocal most
        for i in range(120):
            document = Document(docno=f"d{i}", text=DOCUMENTS["text"][i % 30])
            alive[i] = document
            most = max(most, len(alive))
            yield document
            del document

    stage = generator(llm, max_new_tokens=1)
    (stage >> SyntheticQueries(tmp_path / "queries", shard_size=8)).index(corpus(), batch_size=8)
    assert most <= 17
    streamed = BeirFolder.get_corpus_iter
    assert next(streamed(BeirFolder(_large(tmp_path))))["docno"] == "0"


def _large(folder):
    """A collection whose second line is invalid, so that reading ahead fails."""
    (folder / "large").mkdir()
    (folder / "large" / "corpus.jsonl").write_text('{"_id": 0, "text": "a"}\nno JSON\n')
    return folder / "large"
