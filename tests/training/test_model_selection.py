import json
import math
import os
import warnings

import ir_measures
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from tiny_training import QUICK, make_examples, ndcg, weights

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, ScoreFusion
from pyterrier_inpars.training.examples import default_share, hold_out
from pyterrier_inpars.training.model_selection import (
    SHARES,
    Measured,
    StoredWeights,
    Validation,
    verdict,
    verdict_frame,
)
from pyterrier_inpars.training.provenance import TRAINING_FILE

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]

RULES = {MonoT5: "class", CrossEncoder: "class", BiEncoder: "pair"}
LEARNING = {
    MonoT5: {
        "learning_rate": 2e-3,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 16,
        "num_train_epochs": 3,
    },
    CrossEncoder: {"learning_rate": 3e-3, "num_train_epochs": 4},
    BiEncoder: {"learning_rate": 3e-3, "per_device_train_batch_size": 8, "num_train_epochs": 6},
}
"""Rules that tiny networks learn, and settings with which they do, as in ``TestLearning``."""


@pytest.fixture(scope="module")
def taught(models):
    """A trained reranker of each class, with the results that it was validated on."""
    found = {}

    def taught(cls):
        if cls not in found:
            results = make_examples(64, 3, 1, RULES[cls])
            training = LEARNING[cls] | {"eval_strategy": "no"}
            reranker = cls(models[cls], dtype="float32", device="cpu", training=training)
            found[cls] = reranker.fit(make_examples(160, 3, 0, RULES[cls]), None, results), results
        return found[cls]

    return taught


class TestTraining:
    def test_good_training_is_kept(self, taught, cls):
        reranker, results = taught(cls)
        rows = reranker.verdict.set_index("system")
        assert list(rows.columns) == ["nDCG@10", "queries", "p", "kept"]
        kept = rows[rows["kept"]]
        assert len(kept) == 1 and kept.index[0] != "start" and set(rows["queries"]) == {64}
        assert kept["p"].item() < 0.001 and kept["nDCG@10"].item() == rows["nDCG@10"].max() > 0.9
        assert ndcg(reranker, results, results[["qid", "docno", "label"]]) == pytest.approx(
            kept["nDCG@10"].item(), abs=1e-9
        )
        assert reranker.provenance["verdict"]["summary"].startswith("training helped on 64 valid")

    @pytest.mark.parametrize("more", [{}, {"lora": True}])
    def test_spoiled_training_hands_back_its_start(self, taught, cls, models, tmp_path, more):
        """Labels of other documents and a high learning rate."""
        good, results = taught(cls)
        start = good.save(tmp_path / "start")
        examples = make_examples(48, 3, 2, RULES[cls])
        examples["label"] = np.roll(examples["label"], 1)
        training = {"learning_rate": 0.03, "num_train_epochs": 2, "eval_strategy": "no"}
        reranker = cls(start, dtype="float32", device="cpu", training=training | more)
        before = weights(reranker)
        with pytest.warns(UserWarning, match="training did not help on 64 .*Kept: start"):
            reranker.fit(examples, None, results.assign(score=-results["label"]))
        assert torch.equal(weights(reranker), before)
        rows = reranker.verdict.set_index("system")
        assert rows["kept"].to_dict() == {name: name == "start" for name in rows.index}
        assert rows["nDCG@10"]["trained"] < rows["nDCG@10"]["start"]
        # the relevant document is the last of four
        assert rows["nDCG@10"]["first stage"] == pytest.approx(1 / math.log2(5))
        fusion = ScoreFusion(reranker)(results.assign(score=-results["label"]))
        assert ndcg(lambda _: fusion, results, results[["qid", "docno", "label"]]) == pytest.approx(
            rows["nDCG@10"]["first stage + start"], abs=1e-9
        )

        saved = reranker.save(tmp_path / "saved")
        loaded = cls(saved, dtype="float32", device="cpu")
        pd.testing.assert_frame_equal(loaded.verdict, reranker.verdict)
        known = json.loads((saved / TRAINING_FILE).read_text())["verdict"]
        assert known == reranker.provenance["verdict"]
        card = (saved / "README.md").read_text()
        assert known["summary"] in card
        for name, value in rows["nDCG@10"].items():
            assert f"| {name} | {value:.4f} |" in card

    def test_random_head_that_is_kept_is_still_random(self, models, examples):
        training = {"learning_rate": 0.0, "held_out": 0.3, "eval_strategy": "no"}
        reranker = CrossEncoder(models[CrossEncoder], device="cpu", training=QUICK | training)
        for _ in range(2):
            with pytest.warns(UserWarning, match="did not help.*Kept: start"):
                reranker.fit(examples)
            with pytest.warns(UserWarning, match="come from a random head"):
                reranker(examples)
        reranker.training = QUICK
        reranker.fit(examples)
        reranker.training = QUICK | training
        reranker.fit(examples)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*random head")
            reranker(examples)

    def test_last_weights_on_request(self, make, cls):
        """Without averages, and with a warning if they are worse."""
        results = make_examples(16, 4, 1, "class")
        options = {"load_best_model_at_end": False, "eval_strategy": "no", "learning_rate": 0.0}
        with pytest.warns(UserWarning, match="did not help.* as load_best_model_at_end=False asks"):
            reranker = make(options).fit(make_examples(24, 2, 0, "class"), None, results)
        assert reranker.verdict["system"].tolist() == ["start", "trained"]
        assert reranker.verdict["kept"].tolist() == [False, True]


class TestHeldOutByDefault:
    def test_a_tenth(self, make, cls):
        """The same as with these queries as validation."""
        examples = make_examples(200, 1, 0, "class")
        train, held = hold_out(examples, 0.1, 0)
        first = make({"held_out": None, "load_best_model_at_end": True}).fit(examples)
        second = make({"eval_strategy": "no"}).fit(train, None, held)
        assert torch.equal(weights(first), weights(second))
        assert first.provenance["verdict"] == second.provenance["verdict"]
        assert set(first.verdict["queries"]) == {20}
        assert not any("eval_nDCG@10" in entry for entry in first.history)

    def test_too_few_queries(self, make, examples):
        with pytest.warns(UserWarning, match="not validated: queries of 12 .* too few"):
            reranker = make({"held_out": None}).fit(examples)
        assert torch.equal(weights(reranker), weights(make().fit(examples)))
        row = reranker.verdict.iloc[0]
        assert (row["system"], row["queries"], row["kept"]) == ("trained", 0, True)
        assert len(reranker.verdict) == 1 and np.isnan(row["value"])

    @pytest.mark.filterwarnings("error")
    def test_none_on_request(self, make, models, examples):
        reranker = make({"held_out": 0}).fit(examples)
        assert reranker.provenance["verdict"]["summary"] == "not validated: held_out=0"
        assert make().verdict is None

    @pytest.mark.filterwarnings("error")
    def test_recipe_trains_on_all_examples(self, models):
        examples = make_examples(200, 1, 0, "class")
        training = {"recipe": "inpars", "max_steps": 1, "effective_batch": 4}
        reranker = MonoT5(models[MonoT5], dtype="float32", device="cpu", training=training)
        settings = reranker.fit(examples).provenance["settings"]
        assert settings["examples"]["rows"] == 400 and "validation" not in settings
        assert reranker.provenance["verdict"]["summary"].startswith(
            "not validated: the recipe 'inp"
        )

    def test_recipe_validates_on_request(self, models):
        training = {"recipe": "inpars", "held_out": 0.1, "max_steps": 1, "effective_batch": 4}
        reranker = MonoT5(models[MonoT5], dtype="float32", device="cpu", training=training)
        reranker.fit(make_examples(40, 1, 0, "class"))
        assert reranker.provenance["settings"]["recipe"] == "inpars"
        assert set(reranker.verdict["queries"]) == {4}
        assert {"start", "trained"} <= set(reranker.verdict["system"])

    def test_positives_are_ranked_among_each_other(self, models):
        """Without negatives, each held-out query is validated on all held-out documents."""
        positives = make_examples(220, 0, 0, "pair")
        training = QUICK | {"held_out": None}
        reranker = BiEncoder(models[BiEncoder], dtype="float32", device="cpu", training=training)
        reranker.fit(positives)
        assert set(reranker.verdict["queries"]) == {22}
        held = hold_out(positives, 0.1, 0)[1]
        assert len(held) == 22 * 22 and held.groupby("qid")["label"].sum().eq(1).all()

    def test_patience_without_validation(self, make, examples):
        with pytest.raises(ValueError, match="patience=2 needs something to validate on"):
            make({"patience": 2}).fit(examples)  # of the quick options: held_out=0


@st.composite
def frames(draw):
    """Examples whose queries share documents."""
    rows = []
    for i in range(draw(st.integers(2, 12))):
        source = draw(st.integers(0, 5))
        rows.append((f"q{i}", f"d{source}", 1))
        rows += [(f"q{i}", f"n{i}.{j}", 0) for j in range(draw(st.integers(0, 2)))]
    return pd.DataFrame(rows, columns=["qid", "docno", "label"]).assign(query="a", text="b")


class TestHoldOut:
    @given(frames(), st.floats(0.05, 0.95), st.integers(0, 3))
    def test_queries_of_a_document_stay_together(self, examples, share, seed):
        sources = examples.loc[examples["label"] == 1].set_index("qid")["docno"]
        if sources.nunique() < 2:
            with pytest.raises(ValueError, match="needs two queries"):
                hold_out(examples, share, seed)
            return
        try:
            train, held = hold_out(examples, share, seed)
        except ValueError as error:
            assert "no negatives" in str(error)
            return
        sides = [set(sources[side["qid"].unique()]) for side in (train, held)]
        assert not sides[0] & sides[1] and sides[0] | sides[1] == set(sources)
        number = round(share * sources.nunique())
        assert len(sides[1]) == min(max(1, number), sources.nunique() - 1)
        assert train.equals(examples[examples["qid"].isin(train["qid"])])
        relevant = held[held["label"] == 1][["qid", "docno"]]
        assert set(relevant.itertuples(index=False, name=None)) <= set(sources.items())

    def test_negatives_to_validate_on(self):
        """The first of each query, and all its positives."""
        examples = make_examples(10, 4, 0, "class")
        held = hold_out(examples, 0.5, 0, 2)[1]
        expected = [f"d{qid[1:]}.{j}" for qid in dict.fromkeys(held["qid"]) for j in range(3)]
        assert held["docno"].tolist() == expected and len(expected) == 15

    def test_default_share(self):
        def share(number, queries_each=1):
            qids = [f"q{i}" for i in range(number * queries_each)]
            frame = pd.DataFrame({"qid": qids, "label": 1})
            return default_share(frame.assign(docno=[f"d{i % number}" for i in range(len(qids))]))

        assert share(199)[0] == 0 and "199 source documents are too few" in share(199)[1]
        assert share(200) == (0.1, "")
        assert share(4000) == (0.05, "")
        assert share(500, 8) == (0.05, ""), "about 200 of 4,000 queries"
        assert share(199, 8)[0] == 0
        unlabelled = pd.DataFrame({"qid": ["a"], "docno": ["b"]})
        for frame in (unlabelled, unlabelled.assign(label=2)):
            assert default_share(frame)[0] == 0 and "no labels" in default_share(frame)[1]


def measured(value: float, *values: float, system="", constant=0) -> Measured:
    return Measured(system, 0.0, value, np.array(values or [value]), np.zeros(2), constant, 2)


class TestVerdict:
    def kept(self, start, trained, *averages, **options):
        names = ("start", "trained", "a", "b", "c")
        candidates = [start, trained, *averages]
        for name, system in zip(names, candidates, strict=False):
            system.system = name
        found = verdict("nDCG@10", candidates, lambda kept: [], **options)
        return found["kept"], found["helped"]

    def test_best_is_kept(self):
        one, two, three = (lambda v=v: measured(v) for v in (0.1, 0.2, 0.3))
        assert self.kept(one(), two()) == ("trained", True)
        assert self.kept(two(), one()) == ("start", False)
        assert self.kept(one(), two(), one(), three()) == ("b", True)
        assert self.kept(two(), two(), two()) == ("start", False), "ties"
        assert self.kept(two(), measured(0.2 + 1e-12)) == ("start", False), "rounding"
        assert self.kept(one(), two(), two()) == ("trained", True)
        assert self.kept(two(), one(), higher=False) == ("trained", True)
        assert self.kept(two(), one(), forced=True) == ("trained", False)

    def test_constant_scores_are_not_kept(self):
        """They are in the order of the docnos, which may have any value of the measure."""
        broken = measured(0.9, constant=2)
        assert self.kept(measured(0.1), broken) == ("start", False)
        assert self.kept(measured(0.1), broken, measured(0.5)) == ("start", False)
        assert self.kept(measured(0.1), measured(0.5), broken) == ("trained", True)
        assert self.kept(measured(0.9, constant=2), measured(0.1)) == ("trained", True)
        assert self.kept(measured(0.9, constant=2), broken) == ("start", False)
        found = verdict("RR", [measured(0.1), broken], lambda kept: [])
        assert "same score, for 2 of 2 queries: give a lower learning_rate" in found["summary"]

    def test_p_is_that_of_the_differences(self):
        start, better = measured(0.5, 0.2, 0.5, 0.8), measured(0.7, 0.5, 0.6, 1.0)
        other = measured(0.4, 0.4, 0.4, 0.4)
        rows = verdict_frame(verdict("RR", [start, better, start], lambda kept: [other]))
        assert rows["p"][1] == pytest.approx(ttest_1samp([0.3, 0.1, 0.2], 0).pvalue)
        assert rows["p"][3] == pytest.approx(ttest_1samp([0.2, -0.1, -0.4], 0).pvalue)
        assert np.isnan(rows["p"][0]) and np.isnan(rows["p"][2])
        assert rows["RR"].tolist() == [0.5, 0.7, 0.5, 0.4] and rows["queries"].eq(3).all()


class TestValidationMeasures:
    def test_as_ir_measures(self):
        results = make_examples(9, 4, 0, "class").drop(columns="label")
        qrels = make_examples(9, 4, 0, "class")[["qid", "docno", "label"]]
        numbers = np.random.default_rng(0).normal(size=(2, len(results)))
        validation = Validation(
            results, qrels, lambda frame: frame.assign(score=numbers[0]), {"BM25": numbers[1]}
        )
        network = validation.of_network("RR@3", "x", 0.5)
        found = [network, *validation.of_others("RR@3", network)]
        assert [(m.system, m.share) for m in found] == [("x", 0.5), ("BM25", None)]
        names = {"qid": "query_id", "docno": "doc_id", "label": "relevance"}
        measure = ir_measures.RR @ 3
        for system, scores in zip(found, numbers, strict=True):
            run = results.assign(score=scores).rename(columns=names)
            expected = ir_measures.calc_aggregate([measure], qrels.rename(columns=names), run)
            assert system.value == pytest.approx(expected[measure])
            assert system.values.mean() == pytest.approx(expected[measure])
            assert (system.constant, system.queries, system.collapsed) == (0, 9, False)

    @pytest.mark.parametrize(
        "scores, constant",
        [
            ([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], 2),
            ([1.0, 1.0 + 1e-7, 1.0, 1.0, 0.9, 1.0], 1),
            ([-1e-9, -2e-9, -3e-9, -30.0, -29.0, -28.0], 0),
            ([0.0] * 6, 2),
            ([np.inf, 0.0, 1.0, -np.inf, 0.0, 1.0], 0),
        ],
    )
    def test_constant_scores(self, scores, constant):
        """Documents that nearly all score 0, as a MonoT5's log-probabilities do, are not tied."""
        results = make_examples(2, 2, 0, "class")
        validation = Validation(results, results, lambda frame: frame.assign(score=scores))
        validation.qrels = results[["qid", "docno", "label"]]
        found = validation.of_network("RR", "x", 0.0)
        assert (found.constant, found.queries) == (constant, 2)
        assert found.collapsed == (constant == 2)


@pytest.mark.skipif(os.name != "posix", reason="no limit on the size of a file")
@pytest.mark.parametrize("limit", [0, 2_000])
def test_a_full_disk_names_folder_and_remedy(tmp_path, limit):
    """A limit on the file size stands in for the full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="GB of weights in .*output_dir.*TMPDIR") as error:
            StoredWeights(torch.nn.Linear(100, 100), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(error.value)


class TestStoredWeights:
    def test_only_trainable(self, tmp_path):
        network = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Linear(100, 2))
        network[0].requires_grad_(False)
        network.register_buffer("steps", torch.tensor([3]))
        before = {name: value.clone() for name, value in network.state_dict().items()}
        stored = StoredWeights(network, tmp_path, only_trainable=True)
        assert stored.start.stat().st_size < 5_000
        with torch.no_grad():
            for value in (network[1].weight, network[1].bias, network.steps):
                value.add_(1)
        stored.load(1)
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name])

    def test_averages(self, tmp_path):
        """Shared weights stay shared, and numbers that are not weights are not averaged."""
        network = torch.nn.Sequential(
            torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 5, bias=False)
        )
        network[2].weight = network[0].weight
        network.register_buffer("steps", torch.tensor([3]))

        def state():
            return {name: value.clone() for name, value in network.state_dict().items()}

        start, stored = state(), StoredWeights(network, tmp_path)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
            network.steps += 1
        trained = state()
        stored.end_of_training()
        for share in (*SHARES, 0, 1):
            stored.load(share)
            for name, value in state().items():
                if share in (0, 1) or name == "steps":
                    assert torch.equal(value, (start if share == 1 else trained)[name])
                else:
                    expected = share * start[name] + (1 - share) * trained[name]
                    torch.testing.assert_close(value, expected)
        assert network[2].weight is network[0].weight
