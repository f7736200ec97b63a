"""RelevanceJudge, compared with the probabilities of the grades computed one pair at a time."""

import copy
import dataclasses
import pickle
import time
import warnings

import chat_templates
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny_llm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_inpars import (
    FalseNegativeFilter,
    QueryGenerator,
    RelabelNegatives,
    RelevanceJudge,
    ScoreFilter,
    funnel,
    judging,
)
from pyterrier_inpars.backends.base import Completion
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "passage {document} for {query} is of grade"


def results(count=7):
    words = tiny_llm.WORDS
    rows = [
        (f"q{i % 3}", " ".join(words[i % 3 : i % 3 + 3]), f"d{i}", " ".join(words[i : i + 2 + i]))
        for i in range(count)
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]).assign(score=0.0, x=1)


def plainly(folder, frame, scale, end):
    """Returns the expected grades, with the whole sequence computed for each pair."""
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for query, text in zip(frame["query"], frame["text"], strict=True):
        totals = []
        for grade in scale:
            prompt = PROMPT.replace("{query}", query).replace("{document}", text)
            before, ids = (
                tokenizer(prompt)["input_ids"],
                tokenizer(f"{prompt} {grade}{end}")["input_ids"],
            )
            start = next((i for i, t in enumerate(before) if t != ids[i]), len(before))
            with torch.no_grad():
                logits = llm(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
            totals.append(sum(logits[i - 1, ids[i]].item() for i in range(start, len(ids))))
        shares = np.exp(np.array(totals) - max(totals))
        found.append(float((shares * np.array(scale)).sum() / shares.sum()))
    return found


@pytest.mark.parametrize(
    "scale, end", [((0, 1, 2, 3), ""), ((0, 1), ""), ((2, 10, 300), ""), ((1, 10, 200), "\n")]
)
def test_expected_grades_equal_the_probabilities_of_the_grades(model, scale, end):
    frame = results()
    judge = RelevanceJudge(model, scale=scale, prompt=PROMPT, dtype="float32", batch_size=3)
    out = judge(frame)
    assert list(out) == ["qid", "query", "docno", "text", "x", "grade", "score", "rank"]
    assert out["score"].to_numpy() == pytest.approx(plainly(model, frame, scale, end), rel=1e-4)
    assert set(out["grade"]) <= set(scale) and out["grade"].dtype.kind == "i"
    alone = pd.concat([judge(frame[i : i + 1]) for i in range(len(frame))])
    assert alone["score"].to_numpy() == pytest.approx(out["score"].to_numpy(), rel=1e-4)
    assert judge(frame.iloc[:0]).columns.tolist() == list(out)


@pytest.mark.parametrize("one_token", [True, False])
def test_choices_of_one_token_and_of_several(model, monkeypatch, one_token):
    backend = HuggingFaceBackend(model, dtype="float32")
    called = []
    several = HuggingFaceBackend._choices_one_by_one
    monkeypatch.setattr(
        HuggingFaceBackend,
        "_choices_one_by_one",
        lambda self, *rest: called.append(1) or several(self, *rest),
    )
    prompts = ["the noise of", "a plasma in the magnetic field is", "the"]
    choices = ["x", "y"] if one_token else ["x", "xyz"]
    found = backend.choice_log_probs(prompts, choices)
    expected = [[sum(backend.log_likelihood([p], [c])[0]) for c in choices] for p in prompts]
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-4)
    assert called == [] if one_token else called
    assert backend.choice_log_probs([], choices) == []


class Answers:
    """A backend that answers with texts which are known in advance."""

    tokenizer, context, chat = None, None, True

    def __init__(self, *answers):
        self.answers, self.prompts = answers, []

    def complete(self, prompts, *, progress, stop, **_):
        self.prompts += prompts
        progress(len(prompts))
        return [Completion(self.answers[i], None, "stop") for i in range(len(prompts))]

    def describe(self):
        return {}


def test_grades_are_parsed_from_answers():
    answers = (
        "2",
        "Grade: 3",
        "<think>grade 0 or 1</think>\n**1**",
        "Of 0 to 3: 2.",
        "7",
        "12 or 2.5",
        "score=0",
    )
    backend = Answers(*answers)
    judge = RelevanceJudge(backend)
    with pytest.warns(UserWarning, match=r"2 of 7 answers have no grade .* is '7'"):
        out = judge(results())
    assert out["grade"].tolist() == [2, 3, 1, 2, 0] == out["score"].tolist()
    assert out["docno"].tolist() == ["d0", "d1", "d2", "d3", "d6"] and out["grade"].dtype == int
    assert judge.unparsed == 2
    assert funnel(judge)[["seen", "dropped"]].values.tolist() == [[7, 2]]
    (message,) = backend.prompts[0]
    assert message["role"] == "user" and "perfect" in message["content"]
    assert message["content"].count(results()["query"][0]) >= 1


def test_an_answer_cut_by_the_token_limit_must_begin_with_the_grade():
    class Cut(Answers):
        def complete(self, prompts, **options):
            found = super().complete(prompts, **options)
            return [dataclasses.replace(completion, finish_reason="length") for completion in found]

    answers = ("2\n\nThe 3 passages", "**Grade: 1**, as 0", "The passage 2", "-1 or 2", "grade 12")
    with pytest.warns(UserWarning, match=r"3 of 5 answers have no grade .* 'The passage 2'"):
        out = RelevanceJudge(Cut(*answers))(results(5))
    assert out["grade"].tolist() == [2, 1]


class Reasoner(HuggingFaceBackend):
    """An instruct model with answers that are known in advance."""

    def complete(self, prompts, **_):
        answers = ("2 seems too high.</think>\nGrade: 1", "Perhaps it is 2")
        return [Completion(answer, None, "stop") for answer in answers[: len(prompts)]]


def test_a_model_whose_chat_template_begins_the_reasoning_gives_grades_in_answers(tmp_path):
    backend = Reasoner(chat_templates.save(tmp_path, chat_templates.QWEN))
    backend.tokenizer.chat_template += (
        "{%- if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    )
    judge = RelevanceJudge(backend)
    with pytest.warns(UserWarning, match="1 of 2 answers have no grade"):
        out = judge(results(2))
    assert out["grade"].tolist() == [1] and judge.unparsed == 1


class Thinker(HuggingFaceBackend):
    """An instruct model that begins its reasoning itself, with answers that are known."""

    beginning = "<think>\nThe passage"

    def complete(self, prompts, *, max_new_tokens, **_):
        if max_new_tokens < 10:
            return [Completion(self.beginning, None, "length") for _ in prompts]
        answers = ("<think>\n2 seems too high.</think>\nGrade: 1", "<think>\nPerhaps it is 2")
        return [Completion(answer, None, "stop") for answer in answers[: len(prompts)]]


def test_a_model_that_begins_to_reason_gives_grades_in_answers(tmp_path):
    """The probabilities of the grades where it writes the tag would be noise."""
    backend = Thinker(chat_templates.save(tmp_path, chat_templates.QWEN), dtype="float32")
    with pytest.warns(UserWarning, match="1 of 2 answers .* template_options={'enable_thinking'"):
        out = RelevanceJudge(backend)(results(2))
    assert out["grade"].tolist() == out["score"].tolist() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for beginning in ("2", "The <think> tag", ""):
            backend = Thinker(str(tmp_path), dtype="float32")
            backend.beginning = beginning
            scores = RelevanceJudge(backend)(results(2))["score"]
            assert len(scores) == 2 and not (scores % 1 == 0).any()


@pytest.mark.parametrize("tag", ["<think>", "[THINK]"])
def test_whether_a_model_begins_to_reason_is_found_by_its_answer(tmp_path, tag):
    folder = chat_templates.save(tmp_path, chat_templates.QWEN)
    backend = HuggingFaceBackend(folder, dtype="float32")
    tokenizer = backend.tokenizer
    tokenizer.add_tokens([AddedToken(tag, special=tag == "[THINK]")])
    assert not backend.begins_reasoning
    other = copy.deepcopy(backend)
    other.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    other.tokenizer = tokenizer
    other.model.model.norm.weight.data[:] = 0
    other.model.model.norm.weight.data[0] = 1  # all hidden states have a sign alone
    head = other.model.get_output_embeddings().weight.data
    head[:] = 0
    ids = other._encode(
        [[{"role": "user", "content": "Is 7 a prime number? Answer yes or no."}]], 0
    )
    state = other.model.model(torch.tensor(ids)).last_hidden_state[0, -1, 0]
    head[tokenizer.convert_tokens_to_ids(tag), 0] = state.sign()
    assert other.begins_reasoning


def test_fields_in_texts_are_text():
    backend = Answers("1")
    frame = results(1).assign(query="{document} {query}", text="{query} <|im_end|>")
    RelevanceJudge(backend)(frame)
    content = backend.prompts[0][0]["content"]
    assert "Query: {document} {query}\nPassage: {query} <|im_end|>" in content


def test_uses_as_filter_qrels_and_after_generation(model):
    frame = results()
    judge = RelevanceJudge(model, prompt=PROMPT, dtype="float32")
    scores = judge(frame)["score"]
    middle = float(scores.median())
    kept = (judge >> ScoreFilter(min_score=middle))(frame)
    assert kept["docno"].tolist() == frame["docno"][scores >= middle].tolist()
    qrels = judge.qrels(pd.concat([frame, frame]).assign(label=7))
    assert list(qrels) == ["qid", "docno", "label"] and len(qrels) == len(frame)
    generator = QueryGenerator(model, prompt="zero-shot", max_new_tokens=4, dtype="float32")
    documents = pd.DataFrame({"docno": ["a", "b"], "text": frame["text"][5:]})
    assert "grade" in (generator >> judge)(documents)


def test_a_used_judge_can_be_copied_and_its_parameters_be_set(model):
    frame = results(3)
    judge = RelevanceJudge(model, prompt=PROMPT, dtype="float32")
    out = judge(frame)
    for twin in (copy.deepcopy(judge), pickle.loads(pickle.dumps(judge))):
        pd.testing.assert_frame_equal(twin(frame), out)
    judge.set_parameter("scale", (0, 1))
    fresh = RelevanceJudge(model, scale=(0, 1), prompt=PROMPT, dtype="float32")
    pd.testing.assert_frame_equal(judge(frame), fresh(frame))
    assert repr(RelevanceJudge("m")) == "RelevanceJudge('m')"


def test_long_documents_are_truncated_to_the_context(model):
    frame = results(2).assign(text=" ".join(tiny_llm.WORDS * 40))
    judge = RelevanceJudge(model, prompt=PROMPT, dtype="float32", context=80)
    assert judge(frame)["score"].between(0, 3).all()
    tokenizer = AutoTokenizer.from_pretrained(model)
    for prompt, query in zip(judge._prompts(frame), frame["query"], strict=True):
        assert 50 < len(tokenizer(prompt)["input_ids"]) <= 80 - judge.max_new_tokens
        assert prompt.endswith(f" for {query} is of grade")


EXAMPLES = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 1.5, 2.0, 3.0])), max_size=9)


@settings(max_examples=40, deadline=None)
@given(EXAMPLES, st.booleans())
def test_relabelled_negatives(rows, drop):
    frame = pd.DataFrame(rows, columns=["label", "score"]).assign(docno="d")
    stage = RelabelNegatives(2, drop=drop)
    out = stage(frame)
    expected = [
        (1 if label == 0 and score >= 2 else label, score)
        for label, score in rows
        if not (drop and label == 0 and score >= 2)
    ]
    assert list(zip(out["label"], out["score"], strict=True)) == expected
    assert stage.changed == sum(label == 0 and score >= 2 for label, score in rows)
    if drop and rows:
        assert funnel(stage)[["seen", "dropped"]].values.tolist() == [[len(rows), stage.changed]]


@pytest.mark.parametrize("drop", [True, False])
def test_dropped_negatives_are_not_relabelled(drop):
    backend = ByText(("alpha", "3"), ("omega", "0"), ("kappa", "2"))
    explained = EXAMPLE_ROWS.assign(dropped_by=[None] * 5 + ["FalseNegativeFilter"] * 3)
    explained["label"] = [1, 0, 0, 0, 1, 1, 0, 0]
    stage = RelabelNegatives(2, drop=drop)
    out = (RelevanceJudge(backend) >> stage)(explained)
    expected = [1, 0, 0, 1, 1, 0, 0] if drop else [1, 0, 1, 0, 1, 1, 0, 0]
    assert out["label"].tolist() == expected and stage.changed == 1
    if drop:
        assert funnel(stage)[["seen", "dropped"]].values.tolist() == [[5, 1]]


def test_pipelines_are_drawn_without_a_broken_stage():
    miner = pt.apply.generic(lambda frame: frame.assign(label=0))
    miner.schematic = {"label": "miner", "help_url": None}
    pipeline = RelevanceJudge("m") >> miner >> RelabelNegatives(2)
    drawn = pt.schematic.transformer_schematic(pipeline)
    assert all("input_validation_error" not in stage for stage in drawn["transformers"])


TestRelevanceJudge = pt.testing.transformer_test_class(lambda: RelevanceJudge("m"))
TestRelabelNegatives = pt.testing.transformer_test_class(lambda: RelabelNegatives(1))


def test_grades_as_whole_words():
    judge = RelevanceJudge(Answers())
    cases = {
        "q2": None,
        "2nd": None,
        "-2": None,
        "3/3": 3,
        "**2**": 2,
        "grade:1": 1,
        "": None,
        "2/3": 2,
        "2 out of 3": 2,
        "1 of 3": 1,
        "between 0 and 3": None,
        "Relevance score: 2 (0-3)": 2,
        "Score: 2. It names 3 species.": 2,
        "Grade: 3? No. Grade: 2": 2,
        "Score: 7": None,
        '{"grade": 1, "reason": "2 of them"}': 1,
        "2: on the topic, with 3 examples": 2,
        "2\n\nThe passage has 3 parts.": 2,
        "3 parts are there, so 1": 1,
        "3 of 4 parts are there. Grade 2": 2,
        "A grade 3 needs an answer, so it is 1": 1,
        "A grade of 3": 3,
        "**2** of 3": 2,
        "A grade of 3 out of 3": 3,
        "1. The query asks for noise.\n2. The passage is about it.\nSo it is 3": 3,
        "Grade: 2, where a higher grade: 3 needs more": 2,
        "Topic score: 3\nFinal score: 1": 1,
        "Answer: 2, as it has 3 parts": 2,
        "The grade is 2 because it has 3 parts": 2,
        "2.0": 2,
        "Score: 2.0": 2,
        "2.0/3.0": 2,
        "2.0 out of 3.0": 2,
        "2.05": None,
        "2.0.1": None,
        "9" * 5_000: None,
    }
    assert {text: judge._grade(text, is_cut=False) for text in cases} == cases
    assert judging._check_scale([0, 2]) == (0, 2)


def test_grades_beside_letters_of_scripts_without_spaces():
    judge = RelevanceJudge(Answers())
    cases = {
        "2分": 2,
        "２": 2,
        "12分": None,
        "等级为2": 2,
        "得分为2，有3个部分": 2,
        "评分：2分": 2,
        "评分：2分，因为有3个部分": 2,
        "2分（满分3分）": 2,
        "0到3分": None,
        "2/3分": 2,
        "相关性等级：2": 2,
        "評価は2です": 2,
        "スコア：1（0～3）": 1,
        "등급은 2입니다. 3개": 2,
        "الدرجة: ٢": 2,
    }
    assert {text: judge._grade(text, is_cut=False) for text in cases} == cases


def test_a_cut_answer_may_begin_with_the_label_of_the_grade():
    """Uncut, these answers have the same grade."""
    judge = RelevanceJudge(Answers())
    texts = (
        *("Grade: 2\n\nThe", "Score: 2\n\nThe passage", "Relevance: 2\nThe", "Rating: 2 because"),
        *("**Relevance Grade: 2**\n\nThe", "Answer: 2 as", "The relevance grade is 2, since"),
        *("评分：2分，因为", "相关性等级：2\n", "2分，因为"),
    )
    for text in texts:
        assert judge._grade(text, is_cut=True) == judge._grade(text, is_cut=False) == 2, text
    for text in ("The query has score: 2 parts in the", "The passage 2: a grade: 3"):
        assert judge._grade(text, is_cut=True) is None


@pytest.mark.parametrize(
    "answer", [".", "\n", "grade:", "grade" + ":" * 50, "a ", "a", "1 ", ". a b ", "Grade: 9. "]
)
def test_long_answers_take_time_in_proportion(answer):
    started = time.process_time()
    assert RelevanceJudge(Answers())._grade(answer * 20_000, is_cut=False) in (None, 1)
    assert time.process_time() - started < 5


class ByText(Answers):
    """A backend that answers with what the texts of its prompts contain."""

    def complete(self, prompts, *, progress, **_):
        self.prompts += prompts
        progress(len(prompts))
        texts = [p if isinstance(p, str) else p[0]["content"] for p in prompts]
        found = [next(a for text, a in self.answers if text in prompt) for prompt in texts]
        return [Completion(answer, None, "stop") for answer in found]


EXAMPLE_ROWS = pd.DataFrame(
    [
        ("1", "p1", "alpha a", 1),
        ("1", "n1", "omega b", 0),
        ("2", "p2", "kappa c", 1),
        ("2", "n2", "omega d", 0),
        ("3", "p3", "kappa e", 1),
        ("3", "p4", "alpha f", 1),
        ("4", "n3", "omega g", 0),
        ("4", "n4", "kappa h", 0),
    ],
    columns=["qid", "docno", "text", "label"],
).assign(query="what is it")


def test_no_query_of_training_examples_keeps_negatives_alone():
    """They would be left out of the training, silently."""
    judge = RelevanceJudge(ByText(("alpha", "3"), ("omega", "0"), ("kappa", "I cannot say")))
    with pytest.warns(UserWarning, match="no positive of 1 query got a grade, such as of qid '2'"):
        out = (judge >> RelabelNegatives(2))(EXAMPLE_ROWS)
    assert out["docno"].tolist() == ["p1", "n1", "p4", "n3"]  # query 4 had no positive
    assert judge.without_positive == 1 and judge.unparsed == 3
    assert funnel(judge)[["seen", "dropped"]].values.tolist() == [[8, 4]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        judge(EXAMPLE_ROWS.drop(columns="label"))
    assert judge.without_positive == 1
    with pytest.warns(UserWarning):
        kept = (RelevanceJudge(judge.model) >> FalseNegativeFilter())(EXAMPLE_ROWS[:4])
    assert kept["docno"].tolist() == ["p1", "n1"]


def test_rows_that_a_filter_dropped_are_passed_through():
    backend = ByText(("alpha", "3"), ("omega", "0"), ("kappa", "2"))
    frame = EXAMPLE_ROWS.drop(columns="label").assign(score=9.0, rank=5)
    explained = frame.assign(dropped_by=[None, "LengthFilter"] * 4)
    judge = RelevanceJudge(backend)
    out = judge(explained)
    assert len(backend.prompts) == 4 and judge.unparsed == 0
    assert out["docno"].tolist() == frame["docno"].tolist()
    kept = out["dropped_by"].isna()
    expected = judge(frame[::2])
    assert out[kept]["grade"].tolist() == expected["grade"].tolist() == [3, 2, 2, 0]
    assert out[kept]["rank"].tolist() == expected["rank"].tolist()
    assert all(type(grade) is int for grade in out[kept]["grade"])
    assert out[~kept][["grade", "score", "rank"]].isna().all(axis=None)
    assert list(out) == judge._output_columns(list(explained))
    records = judge.transform_iter(explained.to_dict("records"))
    assert [record.get("grade") for record in records] == [3, None, 2, None, 2, None, 0, None]
    assert judge.qrels(explained)["docno"].tolist() == frame["docno"][::2].tolist()
    assert judge.estimate(explained).requests == 4
    before = len(backend.prompts)
    all_dropped = judge(explained[1::2])
    assert len(all_dropped) == 4 and len(backend.prompts) == before
    assert judge.qrels(explained[1::2]).empty
    scored = (judge >> ScoreFilter(min_score=1, explain=True))(explained)
    assert scored["dropped_by"].fillna("").tolist()[-2:] == ["ScoreFilter", "LengthFilter"]
    assert scored["dropped_by"].isna().sum() == 3


def test_truncated_documents_are_counted():
    judge = RelevanceJudge(Answers(*["1"] * 8))
    frame = results(6).assign(text=["a b\n c "] + ["long " * 600] * 5)
    judge.estimate(frame)
    assert judge.truncated == 0
    with pytest.warns(UserWarning, match=r"5 of 6 documents \(83%\) are longer than max_"):
        judge(frame)
    assert judge.truncated == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        judge(frame)
        shorter = RelevanceJudge(judge.model, max_doc_tokens=100)
        shorter(frame)
    assert judge.truncated == 10 and shorter.truncated == 5


@pytest.mark.parametrize(
    ("length", "warned"),
    [(50, ["were cut further, so that prompt and grade fit context=40, of which max_new_tokens=4"]),
     (600, ["are longer than max_doc_tokens=512, so", "were cut further, so that"]),
     (9, [])],
)  # fmt: skip
def test_what_cuts_documents_is_named(length, warned):
    """The default limit is not blamed for what the context does; calls are counted together."""
    backend = Answers(*["1"] * 6)
    backend.context = 40
    judge = RelevanceJudge(backend, prompt="{query} {document} grade:", max_new_tokens=4)
    frame = results(6).assign(text="word " * length)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        judge(frame[:3])
        assert not found
        judge(frame[3:])
        judge(frame)
    assert len(found) == len(warned)
    for warning, part in zip(found, warned, strict=True):
        assert str(warning.message).startswith("6 of 6 documents (100%) ")
        assert part in str(warning.message)
    assert judge.truncated == 12 * bool(warned)


def test_a_grade_that_begins_another_one_is_scored_to_its_end():
    """A tokenizer that splits digits gives "1" at least the probability of "10"."""

    class Choices:
        tokenizer, context, chat = None, None, True

        def choice_log_probs(self, prompts, choices, **options):
            self.choices = choices
            return [[-float(i) for i in range(len(choices))] for _ in prompts]

    for scale, expected in [
        ((0, 1, 10), ["0\n", "1\n", "10\n"]),
        ((-10, -1), ["-10\n", "-1\n"]),
        ((-1, 0, 1), ["-1", "0", "1"]),
    ]:
        backend = Choices()
        RelevanceJudge(backend, scale=scale, prompt=PROMPT)(results(2))
        assert backend.choices == expected
