"""compare: against ``pt.Experiment``, and a bootstrap written out."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from noisy_systems import Noisy, qrels_of, queries, ranked, topics_of
from pyterrier.measures import RR, nDCG

from pyterrier_inpars import SyntheticQueries
from pyterrier_inpars.evaluation import compare, select

NAMES = ["poor", "good", "best"]


@pytest.fixture(scope="module")
def systems():
    return [Noisy(0.9, 1), Noisy(0.5, 2), Noisy(0.4, 3)]


def experiment(systems, frame, **options):
    arguments = {"names": NAMES, "baseline": 0} | options
    return pt.Experiment(systems, topics_of(frame), qrels_of(frame), [nDCG @ 10, RR], **arguments)


@pytest.mark.parametrize(
    "options", [{}, {"baseline": 1}, {"correction": "holm", "test": "wilcoxon"}]
)
def test_columns_of_an_experiment(systems, options):
    frame = queries()
    table = compare(systems, frame, [nDCG @ 10, RR], names=NAMES, **options)
    expected = experiment(systems, frame, **options)
    pd.testing.assert_frame_equal(table[expected.columns], expected)
    assert list(table)[:4] == ["name", "nDCG@10", "nDCG@10 low", "nDCG@10 high"]
    assert set(table) - set(expected) == {
        f"{m} {b}" for m in ("nDCG@10", "RR") for b in ("low", "high")
    }


def test_intervals_are_those_of_a_bootstrap(systems):
    """scipy draws other samples, of each system alone."""
    from scipy.stats import bootstrap

    table = compare(systems, queries(), names=NAMES, confidence=0.9)
    values = experiment(systems, queries(), perquery=True, baseline=None)
    for name, low, high in table[["name", "nDCG@10 low", "nDCG@10 high"]].itertuples(index=False):
        of = values[(values["name"] == name) & (values["measure"] == "nDCG@10")]["value"]
        expected = bootstrap(
            (of,), np.mean, confidence_level=0.9, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        assert (low, high) == pytest.approx(tuple(expected), abs=0.01)
    again = compare(systems, queries(), names=NAMES, confidence=0.9)
    pd.testing.assert_frame_equal(table, again)
    other = compare(systems, queries(), names=NAMES, confidence=0.9, seed=1)
    assert list(other["nDCG@10 low"]) != list(table["nDCG@10 low"])


def test_more_confidence_gives_wider_intervals(systems):
    narrow, wide = (compare(systems, queries(), confidence=c) for c in (0.5, 0.99))
    assert (wide["nDCG@10 low"] < narrow["nDCG@10 low"]).all()
    assert (wide["nDCG@10 high"] > narrow["nDCG@10 high"]).all()
    assert wide["nDCG@10"].between(wide["nDCG@10 low"], wide["nDCG@10 high"]).all()


def test_query_types(systems):
    frame = queries(120)
    table = compare(systems, frame, names=NAMES, by_type=True)
    assert list(table["type"]) == ["all"] * 3 + ["question"] * 3 + ["keywords"] * 3
    for kind, rows in table.groupby("type"):
        of_kind = frame if kind == "all" else frame[frame["type"] == kind]
        expected = compare(systems, of_kind, names=NAMES)
        pd.testing.assert_frame_equal(
            rows.drop(columns="type").reset_index(drop=True), expected, check_dtype=False
        )


def test_a_query_type_called_all_does_not_replace_the_rows_of_all_queries(systems):
    frame = queries(120).assign(type=["all"] * 60 + ["title"] * 60)
    table = compare(systems, frame, names=NAMES, by_type=True)
    assert list(table["type"]) == ["all"] * 6 + ["title"] * 3
    assert table["nDCG@10"].iloc[0] == compare(systems, frame, names=NAMES)["nDCG@10"].iloc[0]


def test_an_artifact_a_dict_and_a_frame_of_results(systems, tmp_path):
    frame = queries()
    stored = SyntheticQueries(tmp_path / "queries").index(frame.to_dict("records"))
    given = dict(zip(NAMES, [*systems[:2], systems[2](topics_of(frame))], strict=True))
    expected = compare(systems, frame, names=NAMES)
    pd.testing.assert_frame_equal(compare(given, stored), expected)


def test_rows_of_one_qid_are_one_query_with_several_relevant_documents(systems):
    frame = queries()
    second = frame.assign(docno=[f"d{(n + 1) % 30}" for n in range(60)])
    table = compare(systems, pd.concat([frame, second, frame.head(3)]), names=NAMES)
    qrels = pd.concat([qrels_of(frame), qrels_of(second)])
    expected = compare(systems, frame, names=NAMES, qrels=qrels)
    pd.testing.assert_frame_equal(table, expected)
    assert (table["nDCG@10"] < compare(systems, frame, names=NAMES)["nDCG@10"]).all()


def test_labels_of_the_queries_are_their_qrels(systems):
    frame = queries()
    negatives = frame.assign(docno=[f"d{(n + 1) % 30}" for n in range(60)], label=0)
    table = compare(systems, pd.concat([frame.assign(label=1), negatives]), names=NAMES)
    pd.testing.assert_frame_equal(table, compare(systems, frame, names=NAMES))


def test_other_qrels_replace_the_source_documents(systems):
    """Queries that they do not judge are left out."""
    frame = queries(120)
    qrels = qrels_of(frame.head(60)).assign(docno="d7")
    table = compare(systems, frame, names=NAMES, qrels=qrels)
    expected = compare(systems, frame.head(60).assign(docno="d7"), names=NAMES)
    pd.testing.assert_frame_equal(table, expected)


def test_a_query_without_results_counts_as_zero(systems):
    found = systems[2](topics_of(queries()))
    half = found[found["qid"].isin([f"q{n}" for n in range(30)])]
    table = compare({"all": found, "half": half, "first": found[found["qid"] == "q0"]}, queries())
    means = dict(zip(table["name"], table["nDCG@10"], strict=True))
    of_half = compare({"half": half}, queries().head(30))["nDCG@10"][0]
    assert means["half"] == pytest.approx(of_half / 2)
    assert means["first"] < 1 / 60 + 1e-9


def test_shared_stages_run_once():
    first = Noisy(0.5)
    lower = pt.apply.doc_score(lambda row: row["score"] - 1)
    seen = []
    count = pt.apply.generic(lambda frame: (seen.append(len(frame)), frame)[1])
    systems = [first, first % 10 >> lower, first % 10 >> count >> lower, first % 10 >> count]
    table = compare(systems, queries(), names=list("abcd"))
    assert first.calls == 1 and seen == [600]
    assert table["nDCG@10"].nunique() == 1


def test_few_queries_give_a_warning(systems, recwarn):
    compare(systems, queries(50))
    assert not [w for w in recwarn if "confidence intervals" in str(w.message)]
    with pytest.warns(UserWarning, match="only 48 queries: confidence intervals are wide"):
        compare(systems, queries(48))


def test_queries_are_put_without_punctuation():
    """A frame of topics has no docno, which a search engine would rerank."""
    seen = []

    def remember(topics):
        seen.append(topics)
        return Noisy(0.5)(topics)

    compare([pt.apply.generic(remember)], queries())
    assert list(seen[0]) == ["qid", "query"] and seen[0]["query"][3] == "word number 3"


def test_measures_by_name_of_ir_measures_and_of_trec_eval(systems):
    expected = compare(systems, queries(), [nDCG @ 10, RR], names=NAMES)
    named = compare(systems, queries(), ["nDCG@10", "RR", nDCG @ 10], names=NAMES)
    pd.testing.assert_frame_equal(named, expected)
    one = compare(systems, queries(), "recip_rank", names=NAMES)
    assert list(one)[1:4] == ["recip_rank", "recip_rank low", "recip_rank high"]
    assert one["recip_rank"].tolist() == expected["RR"].tolist()


def test_whole_labels_of_any_type(systems):
    qrels = qrels_of(queries())
    expected = compare(systems, queries(), names=NAMES, qrels=qrels)
    for label in (1.0, "1", True):
        given = qrels.assign(label=label)
        pd.testing.assert_frame_equal(
            compare(systems, queries(), names=NAMES, qrels=given), expected
        )


def test_scores_as_text_are_numbers(systems):
    results = [system(topics_of(queries())) for system in systems]
    texts = [of.assign(score=of["score"].map("{:+.17e}".format)) for of in results]
    assert sorted(texts[0]["score"]) != texts[0].sort_values("rank")["score"].tolist()
    pd.testing.assert_frame_equal(compare(texts, queries()), compare(results, queries()))


def test_systems_of_any_iterable(systems):
    expected = compare(systems, queries())
    for given in (tuple(systems), iter(systems), dict(enumerate(systems)).values()):
        pd.testing.assert_frame_equal(compare(given, queries()), expected)


def test_frames_of_results_are_named_by_number(systems):
    results = [system(topics_of(queries())) for system in systems[:2]]
    assert compare(results, queries())["name"].tolist() == ["results 0", "results 1"]


@pytest.mark.parametrize("call", [compare, select])
def test_a_warning_if_no_source_document_is_found(call, systems):
    with pytest.warns(UserWarning) as caught:
        call(systems, queries().assign(docno="gone"))
    (warning,) = (w for w in caught if "no system finds a relevant document" in str(w.message))
    assert "'gone'" in str(warning.message) and warning.filename == __file__


@pytest.mark.parametrize("correction", ["holm", "fdr_bh", "hommel"])
def test_a_system_with_the_values_of_the_baseline_does_not_spoil_the_correction(correction):
    """Its p-value is NaN, and the others are corrected as without it."""
    base = ranked(np.random.default_rng(0).integers(0, 3, 60))
    systems = {"base": base, "again": base.copy()}
    others = {"first": ranked([0] * 60), "last": ranked([4] * 60), "second": ranked([1] * 60)}
    table = compare(systems | others, queries(), [RR], correction=correction).set_index("name")
    without = compare({"base": base} | others, queries(), [RR], correction=correction)
    expected = without.set_index("name")
    pd.testing.assert_frame_equal(table.drop(index="again"), expected, check_dtype=False)
    again = table.loc["again"]
    assert np.isnan(again["RR p-value corrected"]) and not again["RR reject"]
    assert expected["RR reject"].to_dict()["first"]


def test_a_wrong_correction_is_an_error_before_a_system_runs(systems):
    with pytest.raises(ValueError, match="correction must be one of statsmodels.*'none at all'"):
        compare(systems, queries(), correction="none at all")


def test_counts_are_means_as_their_intervals():
    table = compare({"results": ranked([0] * 60)}, queries(), ["NumRet", "NumRel", RR])
    assert list(table["NumRet"]) == [5] and list(table["NumRel"]) == [1]
    assert list(table["NumRet low"]) == [5] and list(table["NumRet high"]) == [5]


def test_a_stage_that_changes_its_input_does_not_change_the_other_systems():
    def reverse(results):
        results["score"] = -results["score"]
        return pt.model.add_ranks(results)

    base = pt.Transformer.from_df(ranked(np.arange(60) % 5))
    reversed_ = base >> pt.apply.generic(reverse)
    for systems in ({"reversed": reversed_, "base": base}, {"base": base, "reversed": reversed_}):
        table = compare(systems, queries(), [RR]).set_index("name")
        assert table.loc["base", "RR"] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]))
    one_by_one = compare({"reversed": ranked(4 - np.arange(60) % 5)}, queries(), [RR])
    assert table.loc["reversed", "RR"] == pytest.approx(one_by_one["RR"].iloc[0])


@dataclass
class Unhashable(pt.Transformer):
    """A dataclass with ``__eq__`` has no hash."""

    calls: int = 0

    def transform(self, results):
        self.calls += 1
        return results.assign(score=-results["score"])


def test_stages_without_a_hash(systems):
    stage = Unhashable()
    first = systems[0] >> stage
    table = compare(
        {"one": first, "two": first >> pt.RankCutoff(20), "base": systems[0]}, queries()
    )
    assert stage.calls == 1 and table["nDCG@10"].iloc[0] < table["nDCG@10"].iloc[2]
