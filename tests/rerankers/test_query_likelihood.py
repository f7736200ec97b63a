"""QueryLikelihood, compared with its definition: one pair at a time, without batches or caches."""

import inspect
import random

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import (
    FewShotPrompt,
    NegativeMiner,
    QueryGenerator,
    ScoreFilter,
    StaticPrompt,
    load_prompt,
)
from pyterrier_inpars.backends import huggingface
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.filtering import FalseNegativeFilter
from pyterrier_inpars.prompts._truncation import truncate
from pyterrier_inpars.rerankers.query_likelihood import QueryLikelihood

PROMPT = StaticPrompt("A document and its topic.\nDocument: {document}\nTopic: {query}")


def results(count=10, seed=3, queries=3):
    """Documents of one to forty words for several queries."""
    rng = random.Random(seed)
    words = tiny_llm.WORDS

    def text(most):
        return " ".join(rng.choices(words, k=rng.randint(1, most)))

    asked = [text(6) for _ in range(queries)]
    rows = [
        (f"q{i % queries}", asked[i % queries], f"d{i}", text(40), float(-i)) for i in range(count)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score"])


def likelihood(path, **options):
    return QueryLikelihood(path, **{"prompt": PROMPT, "dtype": "float32", **options})


def plainly(path, frame, prompt=PROMPT):
    """Scores one pair at a time: the mean over the query's tokens of the whole sequence."""
    llm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    scores = []
    for query, text in zip(frame["query"], frame["text"], strict=True):
        before = tokenizer(prompt.build(text), split_special_tokens=True)["input_ids"]
        whole = prompt.build(text) + " " + " ".join(query.split())
        ids = tokenizer(whole, split_special_tokens=True)["input_ids"]
        start = 0
        while start < min(len(before), len(ids)) and before[start] == ids[start]:
            start += 1
        start = max(start, 1)  # the first token has no probability
        with torch.no_grad():
            log_probs = llm(torch.tensor([ids])).logits[0].log_softmax(-1)
        chosen = [float(log_probs[i - 1, ids[i]]) for i in range(start, len(ids))]
        scores.append(sum(chosen) / len(chosen))
    return scores


def check(found, frame, scores):
    assert list(found["docno"]) == list(frame["docno"])
    assert list(found["score"]) == pytest.approx(scores, abs=1e-4)
    expected = pt.model.add_ranks(frame.drop(columns="score").assign(score=found["score"].values))
    assert list(found["rank"]) == list(expected["rank"])


def test_every_architecture_scores_as_it_does_alone(any_model):
    frame = results()
    scores = plainly(any_model, frame)
    check(likelihood(any_model, batch_size=4)(frame), frame, scores)
    assert np.std(scores) > 0.1 and max(scores) < 0


def test_masks_are_used_by_every_architecture_that_accepts_them(any_model):
    scorer = likelihood(any_model)
    scorer(results(4))
    assert scorer._backend._supports_masks == (
        not any_model.rsplit("/", 1)[-1].startswith(("b", "ma"))
    )


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_batch_size_and_order_change_nothing(model, batch_size):
    frame = results(13)
    expected = pd.Series(plainly(model, frame), index=frame["docno"])
    shuffled = frame.sample(frac=1, random_state=batch_size)
    found = likelihood(model, batch_size=batch_size)(shuffled)
    check(found, shuffled, expected[shuffled["docno"]].tolist())


def test_batches_are_limited_by_the_memory_of_their_logits(model, monkeypatch):
    frame = results(12)
    scorer = likelihood(model)
    scorer(frame)
    calls = []
    monkeypatch.setattr(huggingface, "MAX_LOGITS", 400 * 40)
    forward = scorer._backend.model.forward
    monkeypatch.setattr(
        scorer._backend.model,
        "forward",
        lambda **inputs: calls.append(forward(**inputs)) or calls[-1],
    )
    check(scorer(frame), frame, plainly(model, frame))
    assert 1 < len(calls) < 12
    assert all(call.logits.shape[:2].numel() <= 40 for call in calls)


def test_only_scored_tokens_have_logits(any_model, monkeypatch):
    """The tokens of the documents, which are longer, cost no product with the vocabulary."""
    frame = results(6, queries=1).assign(query="the gain", text="noise " * 50)
    scorer = likelihood(any_model)
    scorer(frame[:2])
    shapes = []
    forward = type(scorer._backend.model).forward

    def watched(self, *args, **inputs):
        output = forward(self, *args, **inputs)
        shapes.append(output.logits.shape)
        return output

    watched.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(type(scorer._backend.model), "forward", watched)
    scorer(frame)
    assert shapes and max(shape[1] for shape in shapes) < 10


def test_the_prefix_is_computed_once(model, monkeypatch):
    prompt = StaticPrompt("the spectrum of a plasma " * 20 + "\nDocument: {document}\nTopic:")
    frame = results(9)
    scorer = likelihood(model, prompt=prompt, batch_size=2)
    scorer(frame[:3])
    read = []
    forward = scorer._backend.model.forward
    monkeypatch.setattr(
        scorer._backend.model,
        "forward",
        lambda **inputs: read.append(inputs["input_ids"].shape[1]) or forward(**inputs),
    )
    check(scorer(frame), frame, plainly(model, frame, prompt))
    prefix = len(scorer._backend.tokenizer(prompt.prefix)["input_ids"])
    assert prefix > 60 and len(read) == 5
    assert all(length < 200 for length in read)
    texts = [prompt.build(t) + " " + q for q, t in zip(frame["query"], frame["text"], strict=True)]
    longest = max(len(ids) for ids in scorer._backend.tokenizer(texts)["input_ids"])
    assert max(read) <= longest - prefix + 2


@pytest.mark.parametrize(
    "template",
    [
        "{document}",  # no shared prefix, no special token: the first token has no probability
        "the spectrum o{document}\nTopic:",  # tokens merge where the document begins
        "Document: {document} the spectru",  # and where the query may
        "Document: {document}\n\n",
    ],
)
def test_tokens_may_merge_where_document_or_query_begin(model, template):
    frame = results(6).assign(text=["f a plasma", "f the plasma", "ther", "a", "f", "the noise"])
    prompt = StaticPrompt(template)
    check(likelihood(model, prompt=prompt)(frame), frame, plainly(model, frame, prompt))


def test_a_token_of_prompt_and_query_belongs_to_the_query(model):
    backend = HuggingFaceBackend(model, dtype="float32")
    prompt, rest = "the spect", "rum of a plasma"
    alone, whole = (backend.tokenizer(text)["input_ids"] for text in (prompt, prompt + rest))
    shared = sum(a == b for a, b in zip(alone, whole, strict=False))
    assert shared < len(alone)
    found = backend.log_likelihood([prompt], [rest])[0]
    assert len(found) == len(whole) - max(shared, 1)


@pytest.mark.parametrize(
    "text", ["{document} {query} {0} }{", "a <eos> plasma", "Topic: x\n\nDocument:", "naïve ☃ שלום"]
)
def test_unusual_text_is_plain_text(model, text):
    frame = results(4, queries=1)
    frame = frame.assign(text=[text, "noise", text, "the gain"], query=[text, text, "noise", text])
    frame["qid"] = list("abca")
    check(likelihood(model)(frame), frame, plainly(model, frame))
    (ids,) = likelihood(model)._backend._encode([PROMPT.build(text)], 0)
    assert 1 not in ids


def test_empty_queries_and_documents(model):
    frame = results(5, queries=1).assign(text=["", " \n", "noise", "gain", ""])
    frame.loc[3:, "query"] = ["", " \t"]
    found = likelihood(model)(frame)
    expected = plainly(model, frame[:3])
    assert list(found["score"][:3]) == pytest.approx(expected, abs=1e-4)
    assert found["score"][0] == pytest.approx(found["score"][1])
    assert list(found["score"][3:]) == [-np.inf] * 2
    assert list(likelihood(model)(frame[3:])["score"]) == [-np.inf] * 2


def test_long_documents_and_queries_are_truncated(model):
    frame = results(4, queries=2)
    frame.loc[0, "text"] = "the spectrum of noise " * 20_000
    frame.loc[frame["qid"] == "q1", "query"] = "a plasma in a field " * 400
    found = likelihood(model, max_doc_tokens=20, max_query_tokens=7)(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    cut = frame.assign(
        text=truncate(frame["text"], tokenizer, 20), query=truncate(frame["query"], tokenizer, 7)
    )
    check(found, frame, plainly(model, cut))
    pd.testing.assert_frame_equal(found[["query", "text"]], frame[["query", "text"]])


@pytest.mark.parametrize("text", ["the spectrum of noise ", "😀", "the<eos>"])
def test_documents_are_truncated_to_the_context(model, text):
    """Each by the room that its own query leaves, independent of the other pairs."""
    frame = results(3, queries=3)
    frame["text"] = [text * 1_000, text * 1_000, "noise"]
    frame["query"] = ["gain", "a plasma " * 60, "gain"]
    scorer = likelihood(model, max_doc_tokens=5_000)
    seen = []
    score = scorer._backend.log_likelihood
    scorer._backend.log_likelihood = lambda prompts, *rest, **options: (
        seen.extend(prompts) or score(prompts, *rest, **options)
    )
    found = scorer(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for prompt, query in zip(seen, frame["query"], strict=True):
        ids = tokenizer(f"{prompt} {query.strip()}", split_special_tokens=True)["input_ids"]
        assert len(ids) <= 512
        assert len(ids) > 500 or query == "gain" and prompt == seen[2]
        assert prompt.startswith(PROMPT.before) and prompt.endswith(PROMPT.after)
    shown = [prompt[len(PROMPT.before) : -len(PROMPT.after)] for prompt in seen]
    check(found, frame, plainly(model, frame.assign(text=shown)))


def test_a_prompt_without_room_for_a_document_is_refused(model):
    prompt = StaticPrompt("noise " * 600 + "{document}")
    with pytest.raises(ValueError, match="too many for the context of 512 tokens: .*shorter"):
        likelihood(model, prompt=prompt)(results(2))


def test_few_shot_examples_are_truncated(model):
    examples = pd.DataFrame(
        {
            "query": ["the noise of receivers " * 90, "a plasma"],
            "text": ["signals " * 900, "the spectrum of a plasma"],
        }
    )
    prompt = FewShotPrompt(examples, num_examples=2, max_query_tokens=8)
    frame = results(6)
    found = likelihood(model, prompt=prompt, max_doc_tokens=30, max_query_tokens=8)(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    shown = prompt.truncated(tokenizer, 30)
    cut = frame.assign(
        text=truncate(frame["text"], tokenizer, 30), query=truncate(frame["query"], tokenizer, 8)
    )
    check(found, frame, plainly(model, cut, shown))


def test_prompts(model):
    frame = results(4)
    default = likelihood(model, prompt=None)(frame)
    topic = StaticPrompt("Document: {document}\nThe topic of this document is:")
    check(default, frame, plainly(model, frame, topic))
    named = likelihood(model, prompt="zero-shot")(frame)
    check(named, frame, plainly(model, frame, load_prompt("zero-shot")))


def test_a_generator_and_a_scorer_share_a_backend(model):
    """The scores are those of the generated queries, if no token was stripped from them."""
    backend = HuggingFaceBackend(model, dtype="float32")
    prompt = StaticPrompt("Document: {document}\nQuery:")
    documents = results(30).drop(columns=["qid", "query", "score"])
    written = QueryGenerator(backend, prompt=prompt, max_new_tokens=6)(documents)
    found = QueryLikelihood(backend, prompt=prompt)(written)
    pairs = zip(written["query"], written["text"], strict=True)
    texts = [prompt.build(text) + " " + query for query, text in pairs]
    exact = [
        backend._encode([text], 0)[0][-len(log_probs) :] == tokens
        for text, log_probs, tokens in zip(
            texts,
            written["log_probs"],
            (backend.tokenizer(f" {q}")["input_ids"] for q in written["query"]),
            strict=True,
        )
    ]
    exact = np.array(exact) & written["query"].str.isascii().to_numpy()
    check(found, written, plainly(model, written, prompt))
    assert {"log_probs", "finish_reason"} <= set(found.columns)
    assert len(found) == len(written) > 10 and exact.any()


def test_as_a_filter(model):
    frame = results(9, queries=9)
    kept = (likelihood(model) >> ScoreFilter(3))(frame)
    best = pd.Series(plainly(model, frame), index=frame["qid"]).nlargest(3).index
    assert set(kept["qid"]) == set(best)


def test_as_a_teacher(model):
    """Examples keep their rows, order and columns, including ``label``."""
    frame = results(40, seed=8, queries=40)
    ranking = frame.drop(columns=["qid", "query"])
    every = pd.DataFrame({"qid": frame["qid"]}).merge(ranking, how="cross")
    retriever = pt.Transformer.from_df(pt.model.add_ranks(every))
    miner = NegativeMiner(retriever, num_negatives=3, depth=20)
    mined, teacher = miner(frame[:6]), likelihood(model)
    taught = (miner >> teacher)(frame[:6])
    assert list(taught.columns) == [*mined.columns, "score", "rank"]
    pd.testing.assert_frame_equal(taught[mined.columns], mined)
    assert list(taught["score"]) == pytest.approx(plainly(model, mined), abs=1e-4)
    kept = (miner >> teacher >> FalseNegativeFilter(0.1))(frame[:6])
    positive = taught[taught["label"] == 1].set_index("qid")["score"]
    low = taught[(taught["label"] == 0) & (taught["score"] < taught["qid"].map(positive) - 0.1)]
    assert 0 < len(low) < 18
    assert list(kept.loc[kept["label"] == 0, "docno"]) == list(low["docno"])
    assert set(kept["qid"]) == set(low["qid"])


def test_other_text_field(model):
    frame = results(4)
    found = likelihood(model, text_field="body")(frame.rename(columns={"text": "body"}))
    assert list(found["score"]) == list(likelihood(model)(frame)["score"])
    with pytest.raises(pt.validate.InputValidationError, match="body"):
        likelihood(model, text_field="body")(frame)


def test_progress(model, capfd):
    frame = results(4)
    frame.loc[0, "query"] = ""
    likelihood(model)(frame)
    assert "likelihood" not in capfd.readouterr().err
    likelihood(model, verbose=True)(frame)
    assert "likelihood: 4 of 4 pairs (100%)" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_doc_tokens": 0}, "max_doc_tokens .* not 0"),
        ({"max_query_tokens": 1.5}, "max_query_tokens .* not 1.5"),
        ({"batch_size": -1}, "batch_size .* not -1"),
        ({"prompt": "four-shot"}, "no prompt 'four-shot'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QueryLikelihood("anything", **options)


def test_a_backend_that_cannot_score_is_refused():
    class Writes:
        def generate(self, prompts):
            return prompts

        def __repr__(self):
            return "Writes()"

    with pytest.raises(TypeError, match=r"with log_likelihood, not Writes\(\)"):
        QueryLikelihood(Writes())


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere.*hub, a folder or a .gguf"):
        likelihood(tmp_path / "nowhere")(results(1))


@pytest.mark.parametrize("column", ["query", "text"])
def test_values_that_are_not_strings_are_refused(model, column):
    frame = results(2)
    frame[column] = pd.Series(["plasma", None], dtype=object)
    with pytest.raises(ValueError, match=f"{column} must be a string.*'d1'"):
        likelihood(model)(frame)


def test_an_empty_frame_loads_no_model(model):
    found = likelihood("no model is loaded")(results(2)[:0])
    assert list(found.columns) == [*results(2).columns, "rank"]
    assert HuggingFaceBackend(model).log_likelihood([], []) == []


def test_inspection(model):
    scorer = likelihood(model)
    assert pt.inspect.transformer_inputs(scorer) == [["qid", "query", "docno", "text"]]
    columns = ["qid", "query", "docno", "text", "score", "rank", "label"]
    outputs = pt.inspect.transformer_outputs(scorer, columns)
    assert outputs == ["qid", "query", "docno", "text", "label", "score", "rank"]
    rebuilt = pt.inspect.transformer_apply_attributes(scorer, max_doc_tokens=5)
    assert rebuilt.max_doc_tokens == 5 and rebuilt.prompt == PROMPT


TestAsTransformer = pt.testing.transformer_test_class(lambda: likelihood("anything"))


def test_every_parameter_can_be_set_after_use(model, tmp_path):
    llama = tiny_llm.save(tmp_path, "llama")
    frame = pd.DataFrame(
        {"qid": ["1", "1"], "query": "noise gain of receivers", "docno": ["a", "b"]}
    ).assign(text=["the spectrum of a plasma", "the noise of a receiver"])
    stage = QueryLikelihood(model, dtype="float32")
    stage(frame)
    changes = {
        "model": llama,
        "prompt": "zero-shot",
        "max_doc_tokens": 2,
        "max_query_tokens": 1,
        "text_field": "body",
        "batch_size": 1,
        "context": 250,
    }
    for name, value in changes.items():
        stage.set_parameter(name, value)
    expected = QueryLikelihood(**changes, dtype="float32")
    assert stage.get_parameter("batch_size") == 1
    bodies = frame.rename(columns={"text": "body"})
    pd.testing.assert_frame_equal(stage(bodies), expected(bodies))
    stage.set_parameter("prompt", None)
    assert stage.prompt == QueryLikelihood(llama).prompt
