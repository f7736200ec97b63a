"""Evaluation: against trec_eval itself, and against the measures written out."""

import math
import platform
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyterrier.measures import RR, nDCG

from pyterrier_inpars import FewShotPrompt, StaticPrompt
from pyterrier_inpars.datasets import beir, read_topics
from pyterrier_inpars.evaluation import (
    ExcludeQueryDocument,
    JudgedOnly,
    exclude_fewshot_topics,
    measures,
)

quick = settings(max_examples=40, deadline=None)
TOPICS = ["1", "007", "é", "none"]
DOCNOS = [f"d{i}" for i in range(13)]
QRELS = st.dictionaries(
    st.tuples(st.sampled_from(TOPICS), st.sampled_from(DOCNOS)), st.integers(-1, 3), min_size=1
)
RUNS = st.dictionaries(
    st.tuples(st.sampled_from([*TOPICS, "not judged"]), st.sampled_from([*DOCNOS, "new"])),
    st.integers(-3, 30).map(lambda n: n / 4),
    min_size=1,
)


def frame(values, column):
    rows = [(*ids, value) for ids, value in values.items()]
    return pd.DataFrame(rows, columns=["qid", "docno", column])


def rankings(run):
    """Docnos by topic, best first; trec_eval puts the higher docno first where scores are equal."""
    by_topic = {}
    for (qid, docno), score in run.items():
        by_topic.setdefault(qid, []).append((score, docno))
    return {qid: [d for _, d in sorted(hits, reverse=True)] for qid, hits in by_topic.items()}


def plain(qrels, run, level):
    """The measures as they are defined, over all topics of the qrels."""
    ranked = rankings(run)
    rows = []
    for qid in {qid for qid, _ in qrels}:
        labels = {d: label for (q, d), label in qrels.items() if q == qid}
        found = [labels.get(d) for d in ranked.get(qid, [])]
        relevant = sum(label >= level for label in labels.values())
        hits = [label is not None and label >= level for label in found]
        ranks = [i for i, hit in enumerate(hits, start=1) if hit]

        def gain(labels, k):
            return sum(max(n or 0, 0) / math.log2(i + 2) for i, n in enumerate(labels[:k]))

        best = sorted(labels.values(), reverse=True)
        rows.append(
            {
                "nDCG@10": gain(found, 10) / gain(best, 10) if gain(best, 10) else 0,
                "nDCG@20": gain(found, 20) / gain(best, 20) if gain(best, 20) else 0,
                "RR": 1 / ranks[0] if ranks else 0,
                "R@1000": len(ranks) / relevant if relevant else 0,
                "P@10": sum(hits[:10]) / 10,
                "AP": sum(n / r for n, r in enumerate(ranks, 1)) / relevant if relevant else 0,
                "Judged@10": sum(n is not None for n in found[:10]) / max(len(found[:10]), 1),
            }
        )
    return pd.DataFrame(rows).mean().to_dict()


def ours(run, qrels, level):
    values = pt.Evaluate(run, qrels, measures(level))
    return {str(measure).replace(f"(rel={level})", ""): value for measure, value in values.items()}


@quick
@given(QRELS, RUNS, st.integers(1, 3))
def test_measures(qrels, run, level):
    assert ours(frame(run, "score"), frame(qrels, "label"), level) == pytest.approx(
        plain(qrels, run, level)
    )


def test_every_measure_breaks_ties_alike():
    """trec_eval takes the higher docno first; only the first of eleven documents is judged."""
    qrels = {("1", "d00"): 1}
    run = {("1", f"d{i:02}"): 1.0 for i in range(11)}
    values = ours(frame(run, "score"), frame(qrels, "label"), 1)
    assert values["Judged@10"] == values["P@10"] == values["nDCG@10"] == 0
    assert values["RR"] == pytest.approx(1 / 11)
    values = ours(frame(run, "score"), frame({("1", "d10"): 1}, "label"), 1)
    assert values["Judged@10"] == values["P@10"] == 0.1 and values["nDCG@10"] == 1


@pytest.fixture(scope="module")
def trec_eval(tmp_path_factory):
    """The program itself, which the jar of Pyserini holds."""
    spec = find_spec("pyserini")
    if spec is None or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("there is no trec_eval here")
    jar = next(Path(spec.origin).parent.glob("resources/jars/*fatjar.jar"))
    folder = tmp_path_factory.mktemp("trec_eval")
    program = zipfile.ZipFile(jar).extract("trec_eval/trec_eval-linux-amd64", folder)
    Path(program).chmod(0o755)

    def evaluate(qrels, run, level):
        (folder / "qrels").write_text("".join(f"{q} 0 {d} {n}\n" for (q, d), n in qrels.items()))
        (folder / "run").write_text("".join(f"{q} Q0 {d} 0 {s} r\n" for (q, d), s in run.items()))
        wanted = ["-m", "ndcg_cut.10,20", "-m", "recall.1000", "-m", "P.10"]
        wanted += ["-m", "recip_rank", "-m", "map"]
        command = [program, "-c", "-l", str(level), *wanted, "qrels", "run"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        values = (line.split() for line in done.stdout.splitlines())
        return {name: value for name, _, value in values}

    return evaluate


def accepted(qrels, run):
    """It refuses a topic with no label from 0 on, and a run without a topic of the qrels."""
    qrels = qrels | {(qid, "zero"): 0 for qid, _ in qrels} | {("1", "sure"): 1}
    return qrels, run | {("1", "sure"): 1.0}


TREC_EVAL = {
    "nDCG@10": "ndcg_cut_10",
    "nDCG@20": "ndcg_cut_20",
    "RR": "recip_rank",
    "R@1000": "recall_1000",
    "P@10": "P_10",
    "AP": "map",
}


@quick
@given(QRELS, RUNS, st.integers(1, 3))
def test_measures_are_those_of_trec_eval(trec_eval, qrels, run, level):
    qrels, run = accepted(qrels, run)
    values = ours(frame(run, "score"), frame(qrels, "label"), level)
    told = trec_eval(qrels, run, level)
    for name, there in TREC_EVAL.items():
        assert values[name] == pytest.approx(float(told[there]), abs=6e-5)


@quick
@given(QRELS, RUNS)
def test_judged_only_against_trec_eval(trec_eval, qrels, run):
    qrels, run = accepted(qrels, run)
    judged = JudgedOnly(frame(qrels, "label"))(frame(run, "score"))
    values = ours(judged, frame(qrels, "label"), 1)
    told = trec_eval(qrels, {pair: score for pair, score in run.items() if pair in qrels}, 1)
    for name, there in TREC_EVAL.items():
        assert values[name] == pytest.approx(float(told[there]), abs=6e-5)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, True, "2", None])
def test_threshold_is_a_whole_number(threshold):
    with pytest.raises(ValueError, match="relevance_threshold must be a whole number"):
        measures(threshold)


@quick
@given(QRELS, RUNS, st.booleans(), st.randoms())
def test_judged_only(qrels, run, ranked, rng):
    order = {
        (qid, docno): rank
        for qid, docnos in rankings(run).items()
        for rank, docno in enumerate(docnos, start=1)  # as in runs that other tools write
    }
    results = frame(run, "score")
    if ranked:
        results["rank"] = [order[pair] for pair in run]
        results["score"] = 0.0  # the rank decides
    rows = list(range(len(results)))
    rng.shuffle(rows)
    results = results.iloc[rows].assign(other="kept")
    before = results.copy()
    stage = JudgedOnly(frame(qrels, "label"))
    out = stage(results)
    pd.testing.assert_frame_equal(results, before)
    judged = [
        pair in qrels for pair in results[["qid", "docno"]].itertuples(index=False, name=None)
    ]
    expected = results[judged]
    columns = [c for c in results.columns if c != "rank"]
    pd.testing.assert_frame_equal(out[columns], expected[columns].reset_index(drop=True))
    for qid, group in out.groupby("qid"):
        assert sorted(group["rank"]) == list(range(len(group)))
        place = dict(group[["docno", "rank"]].itertuples(index=False, name=None))
        scores = {d: run[qid, d] for d in place}
        best_first = [scores[d] for d in sorted(place, key=place.get)]
        assert best_first == sorted(best_first, reverse=True)
        if ranked:
            kept = [d for d in rankings(run)[qid] if d in place]
            assert sorted(place, key=place.get) == kept
    assert out["rank"].dtype == "int64"


def test_judged_only_in_an_experiment():
    qrels = frame({("q", "a"): 0, ("q", "b"): 1, ("p", "a"): 1}, "label")
    results = frame({("q", "x"): 3.0, ("q", "a"): 2.0, ("q", "b"): 1.0, ("p", "x"): 1.0}, "score")
    run = pt.Transformer.from_df(results)
    table = pt.Experiment(
        [run, run >> JudgedOnly(qrels)],
        pd.DataFrame({"qid": ["q", "p"], "query": ["", ""]}),
        qrels,
        [RR],
        validate="ignore",
    )
    assert list(table["RR"]) == pytest.approx([1 / 6, 1 / 4])


def test_judged_only_of_nothing():
    stage = JudgedOnly(frame({("q", "a"): 0}, "label"))
    nothing = frame({}, "score")
    assert list(stage(nothing).columns) == ["qid", "docno", "score", "rank"]
    assert len(stage(frame({("q", "b"): 1.0}, "score"))) == 0
    assert list(stage([])) == []


def test_judged_only_names_what_is_wrong():
    qrels = frame({("1", "a"): 0}, "label")
    with pytest.raises(pt.validate.InputValidationError, match="docno"):
        JudgedOnly(qrels.drop(columns="docno"))
    with pytest.raises(ValueError, match="qid must be a string, but is 1"):
        JudgedOnly(qrels.assign(qid=1))
    with pytest.raises(ValueError, match="qid must be a string, but is 1"):
        JudgedOnly(qrels)(frame({(1, "a"): 0.0}, "score"))
    with pytest.raises(pt.validate.InputValidationError, match="rank.*score"):
        JudgedOnly(qrels)(qrels)


class TestExcludeQueryDocument:
    def test_figures_of_arguana(self):
        """A topic that is a document finds itself first, which BEIR leaves out."""
        qrels = frame({("a", "b"): 1, ("b", "a"): 1}, "label")
        results = frame({(q, d): 2.0 - (q != d) for q in "ab" for d in "ab"}, "score")
        run = pt.Transformer.from_df(results)
        topics = pd.DataFrame({"qid": ["a", "b"], "query": ""})
        systems = [run, run >> ExcludeQueryDocument()]
        table = pt.Experiment(systems, topics, qrels, [nDCG @ 10], validate="ignore")
        assert list(table["nDCG@10"]) == pytest.approx([1 / math.log2(3), 1])

    @quick
    @given(run=RUNS)
    def test_is_judged_only_with_every_other_pair_judged(self, run):
        results = frame(run, "score")
        others = results[results["qid"] != results["docno"]]
        pd.testing.assert_frame_equal(
            ExcludeQueryDocument()(results), JudgedOnly(others)(results), check_dtype=False
        )
        own = results.assign(docno=results["qid"]).drop_duplicates("qid")
        assert len(ExcludeQueryDocument()(own)) == 0
        categories = results.astype({"qid": "category", "docno": "category"})
        assert len(ExcludeQueryDocument()(categories)) == len(ExcludeQueryDocument()(results))

    def test_columns(self):
        ranked = frame({("a", "a"): 0, ("a", "b"): 1}, "rank").assign(text="t")
        assert ExcludeQueryDocument()(ranked).to_dict("records") == [
            {"qid": "a", "docno": "b", "rank": 0, "text": "t"}
        ]
        with pytest.raises(pt.validate.InputValidationError, match="rank.*score"):
            ExcludeQueryDocument()(ranked[["qid", "docno"]])
        with pytest.raises(ValueError, match="docno must be a string, but is 1"):
            ExcludeQueryDocument()(ranked.assign(docno=1))

    def test_collections_of_this_convention(self):
        assert beir.QUERY_IS_DOCUMENT == ("arguana", "quora")


TestExcludeQueryDocumentStage = pt.testing.transformer_test_class(ExcludeQueryDocument)

TestJudgedOnly = pt.testing.transformer_test_class(lambda: JudgedOnly(frame({}, "label")))

ALL = pd.DataFrame(
    [("1", "what is radar"), ("007", "Gas  turbine"), ("x", "who"), ("y", "where")],
    columns=["qid", "query"],
)


@pytest.mark.parametrize(
    "shown, left",
    [
        ({"qid": ["1"], "query": ["something else"]}, ["007", "x", "y"]),
        ({"qid": ["train-9"], "query": ["gas turbine "]}, ["1", "x", "y"]),
        ({"qid": ["7", "x"], "query": ["gas", "who"]}, ["1", "007", "y"]),
        ({"qid": ["007", "z"]}, ["1", "x", "y"]),
        ({"query": ["WHO"]}, ["1", "007", "y"]),
        ({"qid": [], "query": []}, ["1", "007", "x", "y"]),
    ],
)
def test_topics_are_excluded_by_qid_or_query(shown, left):
    topics = ALL.set_index(pd.Index([5, 5, 1, 0]))
    before = topics.copy()
    out = exclude_fewshot_topics(topics, pd.DataFrame(shown))
    assert list(out["qid"]) == left and list(out.columns) == ["qid", "query"]
    assert list(out.index) == list(range(len(left)))
    pd.testing.assert_frame_equal(topics, before)


def test_topics_in_the_toolkits_file_are_excluded(tmp_path):
    """The toolkit writes ``query_ids_to_remove_from_eval.tsv``: qid, query, no header or quotes."""
    path = tmp_path / "query_ids_to_remove_from_eval.tsv"
    path.write_text('1\t"what is\ntrain-9\twho"\ny\t"where"\n')
    assert list(exclude_fewshot_topics(ALL, read_topics(path))["qid"]) == ["007", "x"]


def test_queries_are_compared_in_one_unicode_form():
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["Cafe\u0301", "tea"]})
    shown = pd.DataFrame({"query": ["caf\u00e9"]})
    assert list(exclude_fewshot_topics(topics, shown)["qid"]) == ["2"]


def test_topics_without_queries_are_excluded_by_qid():
    assert list(exclude_fewshot_topics(ALL[["qid"]], ALL[:2])["qid"]) == ["x", "y"]


def test_topics_in_a_prompt_are_excluded():
    examples = ALL.assign(text="a document")
    prompt = FewShotPrompt(examples, num_examples=2, seed=3)
    shown = [qid for qid, query in ALL.itertuples(index=False) if query in prompt.build("")]
    assert sorted([*shown, *exclude_fewshot_topics(ALL, prompt)["qid"]]) == sorted(ALL["qid"])
    pd.testing.assert_frame_equal(exclude_fewshot_topics(ALL, StaticPrompt("{document}")), ALL)


def test_topics_in_several_prompts_are_excluded():
    examples = ALL.assign(text="a document")
    prompts = {
        "a": FewShotPrompt(examples[:1], num_examples=1),
        "b": FewShotPrompt(examples[["query", "text"]][2:3], num_examples=1),  # without qid
        "c": StaticPrompt("{document}"),
    }
    assert list(exclude_fewshot_topics(ALL, prompts)["qid"]) == [*ALL["qid"][1:2], ALL["qid"][3]]
    pd.testing.assert_frame_equal(exclude_fewshot_topics(ALL, "auto"), ALL)


def test_excluding_every_topic_is_an_error():
    with pytest.raises(ValueError, match="all 4 topics are few-shot examples"):
        exclude_fewshot_topics(ALL, ALL)
    assert len(exclude_fewshot_topics(ALL[:0], ALL)) == 0


def test_topics_that_cannot_be_compared_are_errors():
    with pytest.raises(pt.validate.InputValidationError, match="qid"):
        exclude_fewshot_topics(ALL[["query"]], ALL)
    with pytest.raises(ValueError, match="qid must be a string, but is 1"):
        exclude_fewshot_topics(ALL.assign(qid=1), ALL)
    with pytest.raises(ValueError, match="query must be a string, but is None"):
        exclude_fewshot_topics(ALL, pd.DataFrame({"query": [None]}))


def test_excluded_topics_do_not_count_in_an_experiment():
    qrels = frame({("1", "a"): 1, ("x", "a"): 1}, "label")
    run = frame({("1", "a"): 2.0, ("x", "b"): 2.0, ("x", "a"): 1.0}, "score")
    values = [
        pt.Experiment([run], topics, qrels, [nDCG @ 10, RR], validate="ignore")["RR"][0]
        for topics in (ALL, exclude_fewshot_topics(ALL, ALL[:1]))
    ]
    assert values == pytest.approx([0.75, 0.5])
