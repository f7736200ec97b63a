"""QueryGenerator: compared with plain generation; truncation, sampling, options, resuming."""

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
from fault_server import FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_generation import MOST, PROMPT, check, documents, generator, plainly
from transformers import AutoTokenizer

from pyterrier_inpars import FewShotPrompt, QueryGenerator, StaticPrompt, SyntheticQueries
from pyterrier_inpars.backends.base import Completion
from pyterrier_inpars.prompts._truncation import truncate
from pyterrier_inpars.queries.topics import topics_and_qrels


def test_every_architecture_generates_what_it_generates_alone(any_model):
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
    lengths = found.loc[found["finish_reason"] == "length", "log_probs"].map(len)
    assert lengths.max() == MOST  # fewer where the last character was cut, or with special tokens
    assert not found["query"].str.contains("\n").any()


def test_tokens_may_merge_across_the_end_of_the_prefix(model):
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
    ids = queries._backend._encode([PROMPT.build(frame["text"][0])], MOST)[0]
    assert 1 not in ids
    assert "<eos>" in queries._backend.tokenizer.decode(ids)


def test_samples_depend_on_seed_docno_and_number_alone(model):
    frame = documents(8)
    sampled = {"sampling": {"temperature": 0.8}, "num_queries": 3, "max_new_tokens": 6}
    first = generator(model, **sampled)(frame).set_index("qid")["query"]
    again = generator(model, **sampled, batch_size=2)(frame.iloc[::-1]).set_index("qid")["query"]
    alone = generator(model, **sampled)(frame.iloc[4:5]).set_index("qid")["query"]
    other = generator(model, **sampled | {"sampling": {"temperature": 0.8, "seed": 1}})(
        frame
    ).set_index("qid")["query"]
    assert first.to_dict() == again.to_dict()
    assert alone.to_dict() == {qid: q for qid, q in first.items() if qid.startswith("d4-")}
    assert first.to_dict() != other.to_dict()
    assert first.nunique() > len(frame)  # the queries of a document differ


def test_a_nucleus_of_one_token_is_greedy(model):
    frame = documents(6)
    narrow = generator(model, sampling={"temperature": 1.0, "top_p": 1e-6})(frame)
    assert list(narrow["query"]) == list(generator(model)(frame)["query"])


@pytest.mark.parametrize(
    "text", ["{document} {query} {0} }{", "Query: x\nDocument: y\n\nQuery:", "naïve ☃ 漢字 שלום"]
)
def test_unusual_documents_are_plain_text(model, text):
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


class Copies:
    """A backend that copies an example of the prompt for some documents."""

    tokenizer, context = None, None

    def describe(self):
        return {"model": "copies"}

    def complete(self, prompts, **options):
        texts = ["Tall trees?" if "copy" in prompt else "a query of its own" for prompt in prompts]
        return [Completion(text, [-1.0], "stop") for text in texts]


EXAMPLE = pd.DataFrame({"query": ["tall trees"], "text": ["Redwoods grow tall."]})
TALL = "Document: Redwoods grow tall.\nQuery: tall trees\nDocument: {document}\nQuery: {query}"


@pytest.mark.parametrize("prompt", [StaticPrompt(TALL), FewShotPrompt(EXAMPLE, num_examples=1)])
def test_queries_that_copy_the_prompt_are_dropped_and_counted(prompt, tmp_path):
    stage = QueryGenerator(Copies(), prompt=prompt)
    frame = pd.DataFrame({"docno": list("abcdefghij"), "text": ["copy", "plain"] * 5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(stage(frame[:8])["docno"]) == list("bdfh")
    assert (stage.copied, stage.empty) == (4, 0)
    with pytest.warns(UserWarning, match="5 of 10 queries repeat an example .* another prompt"):
        assert list(stage(frame[8:])["docno"]) == ["j"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        queries = (stage >> SyntheticQueries(tmp_path / "queries")).index(frame.to_dict("records"))
    assert list(queries.get_results()["docno"]) == list("bdfhj")


def test_a_long_document_is_truncated(model):
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
def test_documents_are_truncated_to_the_context(model, text, limit):
    """One long document neither ends a run nor cuts the end of the prompt."""
    short = {"docno": "short", "text": "the spectrum of noise"}
    frame = pd.DataFrame([{"docno": "long", "text": text * 1_000}, short])
    stage = generator(model, max_doc_tokens=5_000, context=limit, keep_prompt=True)
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


def test_words_are_counted_without_a_tokenizer():
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


def test_a_prompt_without_room_for_a_document_is_refused(model):
    with pytest.raises(ValueError, match="too many for context=20, of which.*shorter prompt"):
        generator(model, context=20)(documents(2))


def test_keep_prompt(model):
    frame = documents(5)
    found = generator(model, keep_prompt=True, max_doc_tokens=9)(frame)
    tokenizer = AutoTokenizer.from_pretrained(model)
    cut = dict(zip(frame["docno"], truncate(frame["text"], tokenizer, 9), strict=True))
    assert list(found["prompt_text"]) == [PROMPT.build(cut[docno]) for docno in found["docno"]]
    assert "prompt_text" not in generator(model)(frame)
    assert list(generator(model, keep_prompt=True)(frame[:0]).columns) == list(found.columns)


def test_examples_are_truncated_and_their_topics_stored(model, tmp_path):
    examples = pd.DataFrame(
        {
            "qid": ["07", "8"],
            "query": ["the noise of receivers " * 90, "a plasma"],
            "text": ["signals " * 900, "the spectrum of a plasma"],
        }
    )
    prompt = FewShotPrompt(examples, num_examples=2, max_query_tokens=5)
    stage = generator(model, prompt=prompt, max_doc_tokens=9, keep_prompt=True)
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


def test_further_columns_are_kept(model):
    found = generator(model)(documents(3).assign(title="x"))
    assert {"title", "docno", "text"} <= set(found.columns)


OF_DOCUMENTS = {"label": 0, "grade": 0, "rank": 7, "score": 2.5, "dropped_by": "CopyFilter"}


def test_a_query_is_not_judged_by_the_columns_of_its_document(model):
    """A document's class is not the relevance of its query, nor its rank that of a result."""
    stage, frame = generator(model), documents(4)
    expected = stage(frame)
    topics, qrels = topics_and_qrels(expected)

    @settings(deadline=None, max_examples=15)
    @given(st.sets(st.sampled_from([*OF_DOCUMENTS, "year"])))
    def check_columns(names):
        given_ = frame.assign(**{name: OF_DOCUMENTS.get(name, 1999) for name in names})
        found = stage(given_)
        assert ("year" in found) == ("year" in names)
        pd.testing.assert_frame_equal(found.drop(columns="year", errors="ignore"), expected)
        for one, other in zip(topics_and_qrels(found), (topics, qrels), strict=True):
            pd.testing.assert_frame_equal(one, other)
        outputs = stage.transform_outputs(list(given_.columns))
        assert [name for name in outputs if name in found] == list(found.columns)

    check_columns()


def test_columns_of_documents_that_are_replaced_are_warned_about_once(model):
    stage = generator(model, prompt={"a": PROMPT}, keep_answer=True)
    frame = documents(2).assign(type="review", answer="42")
    with pytest.warns(UserWarning, match="the documents have type and answer, which the queries"):
        found = stage(frame)
    assert set(found["type"]) == {"a"} and "42" not in set(found["answer"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage(frame)


def test_text_field(model):
    frame = documents(4)
    renamed = frame.rename(columns={"text": "body"})
    found = generator(model, text_field="body")(renamed)
    assert list(found["query"]) == list(generator(model)(frame)["query"])
    with pytest.raises(pt.validate.InputValidationError, match="body"):
        generator(model, text_field="body")(frame)


def test_several_text_fields(model, tmp_path):
    frame = documents(4).assign(title=["the plasma", "", None, "a receiver "])
    stage = generator(model, text_field=["title", "text"])
    titles = ["the plasma ", "", "", "a receiver "]
    joined = [title + text for title, text in zip(titles, frame["text"], strict=True)]
    expected = generator(model)(frame.assign(text=joined))
    found = stage(frame)
    assert list(found["query"]) == list(expected["query"])
    assert list(found["text"]) == [
        dict(zip(frame["docno"], frame["text"], strict=True))[d] for d in found["docno"]
    ]
    queries = (stage >> SyntheticQueries(tmp_path / "queries")).index(frame.to_dict("records"))
    assert list(queries.get_results()["query"]) == list(found["query"])
    with pytest.raises(pt.validate.InputValidationError, match="title"):
        stage(documents(2))


def test_titles_that_are_not_used_are_warned_about_once(model):
    stage, frame = generator(model), documents(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage(frame.assign(title=frame["text"].str[:5]))  # part of the text
        stage(frame.assign(title=["", None]))
    with pytest.warns(UserWarning, match=r"text_field=\['title', 'text'\]"):
        stage(frame.assign(title="a title"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage(frame.assign(title="a title"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_queries": 2}, "temperature above 0"),
        ({"num_queries": 0}, "num_queries .* not 0"),
        ({"sampling": {"temperature": -1}}, "temperature .* not -1"),
        ({"sampling": {"top_p": 0}}, "top_p .* not 0"),
        ({"max_doc_tokens": 1.5}, "max_doc_tokens .* not 1.5"),
        ({"max_new_tokens": True}, "max_new_tokens .* not True"),
        ({"prompt": "four-shot"}, "no prompt 'four-shot'.*three-shot"),
        ({"batch_size": -1}, "batch_size .* not -1"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QueryGenerator("anything", **options)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere.*hub, a folder or a .gguf"):
        generator(str(tmp_path / "nowhere"))(documents(1))


def test_an_unknown_dtype_is_refused(model):
    with pytest.raises(ValueError, match="float7"):
        generator(model, dtype="float7")(documents(1))


@pytest.mark.parametrize("value", [None, 7, float("nan"), b"bytes"])
def test_text_that_is_not_a_string_is_refused(model, value):
    frame = pd.DataFrame({"docno": ["d1", "d2"], "text": ["plasma", value]})
    with pytest.raises(ValueError, match="text must be a string.*'d2'"):
        generator(model)(frame)


def test_an_empty_frame_keeps_the_columns(model):
    found = generator(model)(pd.DataFrame(columns=["docno", "text"]))
    assert len(found) == 0
    assert list(found.columns) == list(generator(model)(documents(2)).columns)


def test_inspection(model):
    queries = generator(model)
    assert pt.inspect.transformer_inputs(queries) == [["docno", "text"]]
    assert pt.inspect.transformer_outputs(queries, ["docno", "text"]) == [
        *["qid", "query", "docno", "text", "score", "log_probs", "finish_reason"]
    ]
    rebuilt = pt.inspect.transformer_apply_attributes(queries, max_doc_tokens=5)
    assert rebuilt.max_doc_tokens == 5 and rebuilt.prompt == queries.prompt
    assert rebuilt._backend._dtype == "float32"


class TestAsTransformer(pt.testing.transformer_test_class(lambda: generator("anything"))):
    pass


class Stopped(Exception):
    pass


def corpus(frame, stop=None):
    for i, record in enumerate(frame.to_dict("records")):
        if i == stop:
            raise Stopped
        yield record


@pytest.mark.parametrize("options", [{}, {"sampling": {"temperature": 1.0}, "num_queries": 2}])
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


def test_a_complete_artifact_is_compared_without_loading_the_model(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    frame = documents(4)
    queries = SyntheticQueries(tmp_path / "queries")
    (generator(folder) >> queries).index(corpus(frame))
    before = queries.metadata
    (folder / "model.safetensors").unlink()
    assert (generator(folder) >> queries).index(corpus(frame)).metadata == before
    with pytest.raises(ValueError, match="max_doc_tokens: was 256, is 9"):
        (generator(folder, max_doc_tokens=9) >> queries).index(corpus(frame))


def settings_of_version_0_1(model):
    """Settings as version 0.1 stored them for the generator in the test, in their order."""
    return {
        "model": model,
        "revision": None,
        "dtype": "float32",
        "prompt": (
            "Document: the spectrum of a plasma\nQuery: a plasma\nDocument: {document}\nQuery:"
        ),
        "fewshot_topics": [{"qid": "7", "query": "a plasma"}],
        "num_queries": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_doc_tokens": 9,
        "max_query_tokens": 100,
        "max_prompt_tokens": 99,
        "max_new_tokens": 5,
        "seed": 3,
    }


def test_artifacts_of_version_0_1_are_resumed(model, tmp_path):
    examples = pd.DataFrame(
        {"qid": ["7"], "query": ["a plasma"], "text": ["the spectrum of a plasma"]}
    )
    stage = generator(
        model,
        prompt=FewShotPrompt(examples, num_examples=1, max_query_tokens=100),
        num_queries=2,
        sampling={"temperature": 0.5, "top_p": 0.9, "seed": 3},
        max_doc_tokens=9,
        max_new_tokens=5,
        context=99,
    )
    frame = documents(6)
    queries = SyntheticQueries(tmp_path / "queries", shard_size=2)
    with pytest.raises(Stopped):
        (stage >> queries).index(corpus(frame, 5), batch_size=2)
    file = tmp_path / "queries" / "progress.json"
    manifest = json.loads(file.read_text())
    old = settings_of_version_0_1(model)
    assert json.dumps(manifest["settings"]) == json.dumps(old)  # the same bytes
    file.write_text(json.dumps(manifest | {"settings": old}))
    assert len((stage >> queries).index(corpus(frame), batch_size=2)) > 0
    assert queries.metadata["settings"] == old


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("temperature", 0.7, "temperature is a field of sampling: give sampling={'temperature'"),
        ("top_p", 0.9, "top_p is a field of sampling: give sampling="),
        ("seed", 1, "seed is a field of sampling: give sampling="),
        ("max_query_tokens", 9, r"max_query_tokens is a parameter of FewShotPrompt: give prompt="),
        ("max_prompt_tokens", 9, "max_prompt_tokens is now called context: give context=1024"),
        ("backend", object(), "backend is no longer a parameter: give the backend object as model"),
    ],
)
def test_parameters_of_version_0_1_are_refused_with_their_new_place(name, value, message):
    with pytest.raises(TypeError, match=message):
        QueryGenerator("anything", **{name: value})


def test_changed_attributes_take_effect(model):
    """As ``set_parameter`` and ``pt.GridScan`` change them, after the stage was used."""
    frame = documents(3)
    stage = generator(model, keep_prompt=True)
    stage(frame)
    new = StaticPrompt("About {document}\nQuery:")
    changes = {"prompt": new, "max_doc_tokens": 4, "sampling": {"temperature": 2.0}}
    for name, value in changes.items():
        stage.set_parameter(name, value)
    found, expected = stage(frame), generator(model, keep_prompt=True, **changes)(frame)
    pd.testing.assert_frame_equal(found, expected)
    assert found["prompt_text"].str.startswith("About ").all()
    assert stage.settings()["temperature"] == 2.0 and stage.settings()["max_doc_tokens"] == 4


def test_every_parameter_can_be_set_after_use(model, tmp_path):
    frame = documents(3)
    stage = generator(model, keep_prompt=True)
    stage(frame)
    changes = {
        "model": tiny_llm.save(tmp_path, "llama"),
        "prompt": "zero-shot",
        "num_queries": 2,
        "sampling": {"temperature": 1.0},
        "max_doc_tokens": 4,
        "max_new_tokens": 3,
        "text_field": "body",
        "keep_prompt": False,
        "batch_size": 2,
        "dtype": "bfloat16",
        "context": 250,
    }
    for name, value in changes.items():
        stage.set_parameter(name, value)
    expected = generator(**changes)
    assert repr(stage) == repr(expected) and stage.settings() == expected.settings()
    bodies = frame.rename(columns={"text": "body"})
    pd.testing.assert_frame_equal(stage(bodies), expected(bodies))
    for name, value, message in [
        ("max_doc_tokens", 0, "max_doc_tokens .* not 0"),
        ("prompt", "four-shot", "no prompt 'four-shot'"),
        ("batch_size", -1, "batch_size .* not -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            stage.set_parameter(name, value)
    with pytest.raises(TypeError, match="cannot be given with a backend object"):
        stage.set_parameter("model", Copies())
    assert repr(stage) == repr(expected)


class Fed(Copies):
    batch_size = None

    def complete(self, prompts, **options):
        self.sizes.append(len(prompts))
        return super().complete(prompts, **options)


@pytest.mark.parametrize(
    "size, shard_size, expected",
    [(None, 1_000, 512), (32, 1_000, 256), (4, 1_000, 100), (64, 7, 7)],
)
def test_the_default_feed_keeps_the_batch_full(tmp_path, size, shard_size, expected):
    backend = Fed()
    backend.sizes, backend.batch_size = [], size
    frame = pd.DataFrame({"docno": [str(i) for i in range(600)], "text": "a text"})
    queries = SyntheticQueries(tmp_path / "queries", shard_size=shard_size)
    (QueryGenerator(backend) >> queries).index(frame.to_dict("records"))
    assert set(backend.sizes[:-1]) == {expected}
    assert queries.metadata["shards"][0]["documents"] == min(shard_size, 600)


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


@pytest.mark.parametrize("field", ["body", ["title", "body"]])
def test_a_query_has_the_text_of_its_document(tmp_path, field):
    """Also if only some documents have a field of that name, which they keep."""
    corpus = [
        {"docno": "d0", "title": "rain", "body": "cold water"},
        {"docno": "d1", "title": "wind", "body": "warm air", "text": "of its own"},
        {"docno": "d2", "title": "snow", "body": "white"},
    ]
    texts = [" ".join(d[name] for name in np.atleast_1d(field)) for d in corpus]
    texts[1] = "of its own"
    with FaultServer() as server:
        stage = QueryGenerator(server.url, text_field=field, keep_prompt=True)
        queries = SyntheticQueries(tmp_path / "queries")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the documents' titles are not used")
            (stage >> queries).index(corpus)
    found = queries.get_results()
    assert found["text"].tolist() == texts
    assert all(d["body"] in p for d, p in zip(corpus, found["prompt_text"], strict=True))
    assert "text" in stage.transform_outputs(["docno", "title", "body"])
