"""QueryGenerator against the algorithm written out plainly."""

import pandas as pd
import pyterrier as pt
import pytest
import torch
from plain_generation import MOST, PROMPT, check, documents, generator, plainly
from transformers import AutoTokenizer

from pyterrier_inpars import FewShotPrompt, QueryGenerator, StaticPrompt, SyntheticQueries
from pyterrier_inpars.backends.base import Completion
from pyterrier_inpars.prompts.templates import truncate


def test_every_kind_of_model_writes_what_it_writes_alone(any_model):
    frame = documents()
    found = generator(any_model, batch_size=4)(frame)
    check(found, plainly(any_model, frame))
    assert len(found) > 5


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_and_order_change_nothing(model, batch_size):
    frame = documents(13)
    expected = plainly(model, frame)
    check(generator(model, batch_size=batch_size)(frame), expected)
    shuffled = frame.sample(frac=1, random_state=batch_size)
    found = generator(model, batch_size=batch_size)(shuffled)
    assert list(found["docno"]) == [d for d in shuffled["docno"] if d in set(found["docno"])]
    order = {qid: i for i, (qid, *_) in enumerate(expected)}
    check(found.sort_values("qid", key=lambda qids: qids.map(order)), expected)


def test_queries_end_for_both_reasons(model):
    frame = documents(40)
    found = generator(model)(frame)
    check(found, plainly(model, frame))
    assert set(found["finish_reason"]) == {"stop", "length"}
    assert (found.loc[found["finish_reason"] == "length", "log_probs"].map(len) == MOST).all()
    assert not found["query"].str.contains("\n").any()


def test_tokens_that_merge_across_the_seam(model):
    # "... of" and " a" are one token in some of these prompts, so the shared part ends earlier
    prompt = StaticPrompt("the spectrum o{document}\nQuery:")
    frame = pd.DataFrame({"docno": list("abc"), "text": ["f a plasma", "f the plasma", "ther"]})
    tokenizer = AutoTokenizer.from_pretrained(model)
    whole = [tokenizer(prompt.build(text))["input_ids"] for text in frame["text"]]
    prefix = tokenizer(prompt.prefix)["input_ids"]
    assert any(ids[: len(prefix)] != prefix for ids in whole)
    check(generator(model, prompt=prompt)(frame), plainly(model, frame, prompt))


def test_special_tokens_in_a_document_are_text(model):
    frame = pd.DataFrame({"docno": ["d"], "text": ["a <eos> plasma"]})
    queries = generator(model)
    ids = queries._completes._encode(PROMPT.build(frame["text"][0]), MOST)
    assert 1 not in ids
    assert "<eos>" in queries._completes.tokenizer.decode(ids)


def test_samples_depend_on_seed_docno_and_number_alone(model):
    frame = documents(8)
    sampled = {"temperature": 0.8, "num_queries": 3, "max_new_tokens": 6}
    first = generator(model, **sampled)(frame).set_index("qid")["query"]
    again = generator(model, **sampled, batch_size=2)(frame.iloc[::-1]).set_index("qid")["query"]
    alone = generator(model, **sampled)(frame.iloc[4:5]).set_index("qid")["query"]
    other = generator(model, **sampled, seed=1)(frame).set_index("qid")["query"]
    assert first.to_dict() == again.to_dict()
    assert alone.to_dict() == {qid: q for qid, q in first.items() if qid.startswith("d4-")}
    assert first.to_dict() != other.to_dict()
    assert first.nunique() > len(frame)  # the queries of a document differ


def test_sampling_follows_the_distribution(model):
    from pyterrier_inpars.backends._kv_cache import choose
    from pyterrier_inpars.backends.base import Sampling

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = Sampling(temperature=0.5, top_p=0.9)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    drawn = choose(logits.expand(4000, 4), sampling, generators)
    share = torch.bincount(drawn, minlength=4) / 4000
    expected = (logits[0, :2] / 0.5).softmax(0)  # the two likeliest hold 0.9 together
    assert share[:2].tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert share[2:].sum() == 0


def test_the_likeliest_token_alone_is_greedy(model):
    frame = documents(6)
    narrow = generator(model, temperature=1.0, top_p=1e-6)(frame)
    assert list(narrow["query"]) == list(generator(model)(frame)["query"])


@pytest.mark.parametrize(
    "text", ["{document} {query} {0} }{", "Query: x\nDocument: y\n\nQuery:", "naïve ☃ 漢字 שלום"]
)
def test_odd_documents_are_text(model, text):
    frame = pd.DataFrame({"docno": ["odd"], "text": [text]})
    check(generator(model)(frame), plainly(model, frame))
    assert PROMPT.build(text).count(" ".join(text.split())) == 1


def test_documents_without_text_get_no_query(model):
    frame = pd.DataFrame({"docno": list("abc"), "text": ["", " \n\t ", "the plasma"]})
    queries = generator(model)
    assert list(queries(frame)["docno"]) == ["c"]
    assert queries.empty == 2
    assert len(queries(frame.iloc[:2])) == 0
    assert queries.empty == 4


def test_a_long_document_is_cut(model):
    text = "the spectrum of noise " * 25_000
    frame = pd.DataFrame({"docno": ["long", "short"], "text": [text, "the spectrum of noise"]})
    found = generator(model, max_doc_tokens=20)(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    cut = frame.assign(text=truncate(frame["text"], tokenizer, 20))
    assert len(cut["text"][0]) < 200
    check(found, plainly(model, cut))
    assert found.loc[found["docno"] == "long", "text"].eq(text).all()  # the frame keeps it whole


@pytest.mark.parametrize("text", ["the spectrum of noise ", "😀", "the<eos>"])
@pytest.mark.parametrize("limit", [None, 100, 60])
def test_a_prompt_that_would_not_fit_is_cut(model, text, limit):
    """One over-long document neither ends a run nor loses the prompt's last words."""
    short = {"docno": "short", "text": "the spectrum of noise"}
    frame = pd.DataFrame([{"docno": "long", "text": text * 1_000}, short])
    stage = generator(model, max_doc_tokens=5_000, max_prompt_tokens=limit, keep_prompt=True)
    found = stage(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for prompt in found["prompt_text"]:
        room = (
            (limit or 512) - MOST - len(tokenizer(prompt, split_special_tokens=True)["input_ids"])
        )
        assert room >= 0
        assert prompt.startswith(PROMPT.prefix) and prompt.endswith("\nQuery:")
        assert "short" in found["docno"].values and (room < 8 or prompt == found["prompt_text"][1])
    shown = found["prompt_text"].map(lambda prompt: prompt[len(PROMPT.before) : -len(PROMPT.after)])
    check(found, plainly(model, frame.assign(text=shown)))


def test_words_are_counted_where_there_is_no_tokenizer():
    class Longest:
        tokenizer, context = None, 12

        def describe(self):
            return {}

        def complete(self, prompts, **options):
            return [Completion(prompt, [-1.0], "stop") for prompt in prompts]

    prompt = StaticPrompt("About {document} one asks")
    stage = QueryGenerator(Longest(), prompt=prompt, max_new_tokens=4)
    found = stage(pd.DataFrame({"docno": ["d"], "text": ["a b c d e f g h i j"]}))
    assert list(found["query"]) == ["About a b c d e one asks"]


def test_a_prompt_that_leaves_no_room(model):
    with pytest.raises(ValueError, match="too many for max_prompt_tokens=20 .*shorter prompt"):
        generator(model, max_prompt_tokens=20)(documents(2))


def test_keep_prompt(model):
    frame = documents(5)
    found = generator(model, keep_prompt=True, max_doc_tokens=9)(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    cut = dict(zip(frame["docno"], truncate(frame["text"], tokenizer, 9), strict=True))
    assert list(found["prompt_text"]) == [PROMPT.build(cut[docno]) for docno in found["docno"]]
    assert "prompt_text" not in generator(model)(frame)
    assert list(generator(model, keep_prompt=True)(frame[:0]).columns) == list(found.columns)


def test_examples_are_cut_and_their_topics_told(model, tmp_path):
    examples = pd.DataFrame(
        {
            "qid": ["07", "8"],
            "query": ["the noise of receivers " * 90, "a plasma"],
            "text": ["signals " * 900, "the spectrum of a plasma"],
        }
    )
    prompt = FewShotPrompt(examples, num_examples=2)
    stage = generator(model, prompt=prompt, max_doc_tokens=9, max_query_tokens=5, keep_prompt=True)
    frame = documents(4)
    found = stage(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    cut = pd.DataFrame(
        {
            "query": truncate(prompt.examples["query"], tokenizer, 5),
            "text": truncate(prompt.examples["text"], tokenizer, 9),
        }
    )
    shown = "".join(
        f"Document: {text}\nQuery: {query}\n" for query, text in cut.itertuples(index=False)
    )
    assert found["prompt_text"].str.startswith(f"{shown}Document: ").all()
    queries = (stage >> SyntheticQueries(tmp_path / "queries")).index(frame.to_dict("records"))
    assert queries.metadata["settings"]["fewshot_topics"] == prompt.topics
    assert {topic["qid"] for topic in prompt.topics} == {"07", "8"}


def test_further_columns_stay(model):
    found = generator(model)(documents(3).assign(title="x"))
    assert {"title", "docno", "text"} <= set(found.columns)


def test_text_field(model):
    frame = documents(4)
    renamed = frame.rename(columns={"text": "body"})
    found = generator(model, text_field="body")(renamed)
    assert list(found["query"]) == list(generator(model)(frame)["query"])
    with pytest.raises(pt.validate.InputValidationError, match="body"):
        generator(model, text_field="body")(frame)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_queries": 2}, "temperature above 0"),
        ({"num_queries": 0}, "num_queries .* not 0"),
        ({"temperature": -1}, "temperature .* not -1"),
        ({"top_p": 0}, "top_p .* not 0"),
        ({"max_doc_tokens": 1.5}, "max_doc_tokens .* not 1.5"),
        ({"max_new_tokens": True}, "max_new_tokens .* not True"),
        ({"prompt": "four-shot"}, "no prompt 'four-shot'.*three-shot"),
        ({"batch_size": -1}, "batch_size .* not -1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        QueryGenerator("anything", **options)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="nowhere.*hub, a folder or a .gguf"):
        generator(str(tmp_path / "nowhere"))(documents(1))


def test_a_dtype_that_is_none(model):
    with pytest.raises(ValueError, match="float7"):
        generator(model, dtype="float7")(documents(1))


@pytest.mark.parametrize("value", [None, 7, float("nan"), b"bytes"])
def test_text_that_is_no_string(model, value):
    frame = pd.DataFrame({"docno": ["d1", "d2"], "text": ["plasma", value]})
    with pytest.raises(ValueError, match="text must be a string.*'d2'"):
        generator(model)(frame)


def test_no_documents(model):
    found = generator(model)(pd.DataFrame(columns=["docno", "text"]))
    assert len(found) == 0
    assert list(found.columns) == list(generator(model)(documents(2)).columns)


def test_inspection(model):
    queries = generator(model)
    assert pt.inspect.transformer_inputs(queries) == [["docno", "text"]]
    assert pt.inspect.transformer_outputs(queries, ["docno", "text"]) == [
        *["qid", "query", "docno", "text", "score", "log_probs", "finish_reason"]
    ]
    rebuilt = pt.inspect.transformer_apply_attributes(queries, seed=5)
    assert rebuilt.seed == 5 and rebuilt.prompt == queries.prompt


class TestAsTransformer(pt.testing.transformer_test_class(lambda: generator("anything"))):
    pass


class Stopped(Exception):
    pass


def corpus(frame, stop=None):
    for i, record in enumerate(frame.to_dict("records")):
        if i == stop:
            raise Stopped
        yield record


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "num_queries": 2}])
def test_stopped_and_resumed_is_the_same_as_uninterrupted(model, tmp_path, options):
    frame = documents(24)

    def index(name, stop=None):
        stages = generator(model, max_new_tokens=5, **options)
        queries = SyntheticQueries(tmp_path / name, shard_size=4)
        return (stages >> queries).index(corpus(frame, stop), batch_size=4)

    whole = index("whole")
    for stop in range(0, 24, 4):
        with pytest.raises(Stopped):
            index("stopped", stop + 1)
    resumed = index("stopped")
    pd.testing.assert_frame_equal(resumed.get_results(), whole.get_results())
    assert resumed.metadata == whole.metadata
    assert len(whole) > 10


def test_resuming_with_another_prompt_is_refused(model, tmp_path):
    frame = documents(6)
    queries = SyntheticQueries(tmp_path / "queries", shard_size=2)
    with pytest.raises(Stopped):
        (generator(model) >> queries).index(corpus(frame, 5), batch_size=2)
    other = generator(model, prompt="zero-shot")
    with pytest.raises(ValueError, match="prompt"):
        (other >> queries).index(corpus(frame), batch_size=2)


def test_a_gguf_file_is_loaded_by_its_name(tmp_path):
    missing = tmp_path / "model.gguf"
    with pytest.raises(ValueError, match="model.gguf"):
        generator(missing)(documents(1))
