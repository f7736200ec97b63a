import pandas as pd
import pyterrier as pt
import pytest
import torch
from tiny_training import make_examples, ndcg, weights

from pyterrier_inpars.training.examples import hold_out

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestValidation:
    def results(self) -> pd.DataFrame:
        return make_examples(16, 4, 1, "class")

    def test_best_weights_are_kept(self, make, cls, examples):
        """The log has the measure, and the network the weights with its best value."""
        results = self.results()
        qrels = results[["qid", "docno", "label"]].copy()
        qrels["label"] = 1 - qrels["label"]  # that training makes worse
        training = {"max_steps": 6, "learning_rate": 1e-2, "eval_steps": 1, "logging_steps": 1}
        reranker = make(training)
        reranker.fit(make_examples(24, 2, 0, "class"), None, results, qrels)
        values = [e["eval_nDCG@10"] for e in reranker.history if "eval_nDCG@10" in e]
        assert len(values) == 6 and len(set(values)) > 2
        known = reranker.verdict.set_index("system")["nDCG@10"]
        assert known["trained"] == pytest.approx(max(values), abs=1e-9)
        assert ndcg(reranker, results, qrels) == pytest.approx(known.max(), abs=1e-9)
        last = make(training | {"load_best_model_at_end": False})
        last.fit(make_examples(24, 2, 0, "class"), None, results, qrels)
        assert ndcg(last, results, qrels) == pytest.approx(values[-1], abs=1e-9)

    def test_qrels_of_more_topics(self, make, examples):
        """The mean is over the topics of the results, as with their qrels alone."""
        results = self.results()
        qrels = results[["qid", "docno", "label"]]
        other = qrels.assign(qid="other " + qrels["qid"])
        first, second = (
            make({"eval_steps": 1}).fit(examples, None, results, judged)
            for judged in (qrels, pd.concat([other, qrels, other.assign(qid="more")]))
        )
        values = [
            [e["eval_nDCG@10"] for e in r.history if "eval_nDCG@10" in e] for r in (first, second)
        ]
        assert values[0] == values[1] and values[0]
        for reranker in (first, second):
            known = reranker.verdict.set_index("system")["nDCG@10"]
            assert max(values[0]) == known["trained"]
            assert ndcg(first, results, qrels) == pytest.approx(known.max(), abs=1e-9)

    def test_does_not_disturb_training(self, make, examples):
        training = {"eval_steps": 1, "load_best_model_at_end": False}
        watched = make(training).fit(examples, None, self.results())
        assert torch.equal(weights(watched), weights(make().fit(examples)))

    def test_metric_for_best_model_is_any_measure(self, make, examples):
        training = {"metric_for_best_model": "RR@10", "eval_strategy": "epoch"}
        reranker = make(training | {"max_steps": -1, "num_train_epochs": 2})
        reranker.fit(examples, None, self.results())
        assert sum("eval_RR@10" in entry for entry in reranker.history) == 2
        with pytest.raises(ValueError, match="metric_for_best_model: .*nonsense"):
            make({"metric_for_best_model": "nonsense@3"})

    def test_stops_without_improvement(self, make, examples):
        still = {"learning_rate": 0.0, "max_steps": 9, "eval_steps": 1, "patience": 2}
        reranker = make(still).fit(examples, None, self.results())
        assert reranker.provenance["steps"] == 3, "the first is the best of three"

    def test_held_out_queries_are_not_trained_on(self, make, examples):
        train, held = hold_out(examples, 0.25, 0)
        assert held["qid"].nunique() == 3 and not set(train["qid"]) & set(held["qid"])
        pd.testing.assert_frame_equal(pd.concat([train, held]).sort_index(), examples)
        assert set(hold_out(examples, 0.25, 1)[1]["qid"]) != set(held["qid"])
        first = make({"patience": 5, "held_out": 0.25}).fit(examples)
        second = make({"patience": 5}).fit(train, None, held)
        assert torch.equal(weights(first), weights(second))
        assert any("eval_nDCG@10" in entry for entry in first.history)

    @pytest.mark.parametrize(
        "label, error", [(0.5, "must be a whole number, but is 0.5"), ("high", "not a number")]
    )
    def test_validation_labels_that_are_no_grades(self, make, examples, label, error):
        results = self.results()
        labels = results["label"].astype(object).where(results["label"] > 0, label)
        with pytest.raises(ValueError, match=error):
            make().fit(examples, None, results.assign(label=labels))

    def test_validation_without_anything_to_measure(self, make, examples):
        results = self.results()
        with pytest.raises(ValueError, match="validation needs labels"):
            make().fit(examples, None, results.drop(columns="label"))
        with pytest.raises(ValueError, match="no query of the validation has a relevant"):
            make().fit(examples, None, results.assign(label=0))
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            make().fit(examples, None, results.drop(columns="text"))
        positives = examples[examples["label"] == 1]
        with pytest.raises(ValueError, match="no negatives"):
            make({"held_out": 0.01}).fit(positives)  # a single query
        with pytest.raises(ValueError, match="eval_strategy='epoch' needs something"):
            make({"eval_strategy": "epoch"}).fit(examples)

    def test_validation_qrels_without_validation(self, make, examples):
        qrels = examples[["qid", "docno", "label"]]
        with pytest.raises(ValueError, match="validation_qrels need validation"):
            make().fit(examples, qrels, None, qrels)

    def test_qrels_judge_the_held_out_queries_of_a_teacher(self, make):
        """Also for a loss that needs no labels: not an old column, and not nothing."""
        examples = make_examples(24, 2, 0, "class").assign(score=lambda e: e["label"] * 1.0)
        qrels = examples[["qid", "docno", "label"]]
        training = {"loss": "distillation", "held_out": 0.25}
        expected = make(training).fit(examples)
        for labels in ({}, {"label": 1 - examples["label"]}):
            other = examples.drop(columns="label").assign(**labels)
            found = make(training).fit(other, qrels)
            pd.testing.assert_frame_equal(found.verdict, expected.verdict)
