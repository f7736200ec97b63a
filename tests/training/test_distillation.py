"""Lists for distillation: against a plain loop, and as a stage of a pipeline."""

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import make_examples

from pyterrier_inpars import NegativeMiner, distributed, funnel
from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.training.distillation import TeacherScores


@pytest.fixture
def lists() -> pd.DataFrame:
    """Three lists; the teacher ranks the source documents 1st, 2nd and 1st."""
    rows = [
        ("a", "a0", 1, 9.0),
        ("a", "a1", 0, 4.0),
        ("b", "b0", 1, 5.0),
        ("b", "b1", 0, 6.0),
        ("c", "c0", 1, 1.0),
        ("c", "c1", 0, 1.0),
    ]
    return pd.DataFrame(rows, columns=["qid", "docno", "label", "score"])


def plain(rows: list[tuple], rank: int | None, percentile: float | None) -> list[tuple]:
    """The lists that remain, one after the other."""
    by_query: dict[str, list[tuple]] = {}
    for row in rows:
        by_query.setdefault(row[0], []).append(row)
    if rank is not None:
        by_query = {
            qid: own
            for qid, own in by_query.items()
            if sum(row[3] > max(r[3] for r in own if r[2]) for row in own) < rank
        }
    scores = [row[3] for own in by_query.values() for row in own]
    if percentile is not None and scores:
        least = np.percentile(scores, percentile)
        by_query = {q: own for q, own in by_query.items() if max(r[3] for r in own) >= least}
    return [row for own in by_query.values() for row in own]


class TestTeacherScores:
    def test_source_rank(self, lists):
        """Equal scores count for the source document."""
        stage = TeacherScores(min_percentile=None, clip=None, scale=None)
        pd.testing.assert_frame_equal(stage(lists), lists.iloc[[0, 1, 4, 5]].reset_index(drop=True))
        assert (stage.seen, stage.dropped_by_rank, stage.dropped_by_score) == (3, 1, 0)
        stage.max_source_rank = 2
        pd.testing.assert_frame_equal(stage(lists), lists)

    def test_categorical_qids(self, lists):
        categorical = lists.astype({"qid": "category"})
        found = TeacherScores()(categorical)
        pd.testing.assert_frame_equal(found.astype({"qid": str}), TeacherScores()(lists))

    def test_lowest_lists_are_dropped(self, lists):
        stage = TeacherScores(max_source_rank=None, min_percentile=50, clip=None, scale=None)
        assert list(stage(lists)["qid"]) == ["a", "a", "b", "b"]  # the median is 4.5
        assert (stage.seen, stage.dropped_by_rank, stage.dropped_by_score) == (3, 0, 1)

    def test_scaled_after_the_lists_are_dropped(self, lists):
        found = TeacherScores(min_percentile=None, clip=None, scale=2.0)(lists)
        np.testing.assert_allclose(found["score"], [2.0, 0.75, 0.0, 0.0])

    def test_clipped_to_percentiles(self):
        frame = pd.DataFrame({"qid": "a", "docno": map(str, range(101)), "score": range(101)})
        stage = TeacherScores(max_source_rank=None)
        found = stage(frame)["score"]
        np.testing.assert_allclose(found, (np.arange(101).clip(1, 99) - 1) / 98)
        stage.scale = None
        np.testing.assert_allclose(stage(frame)["score"], np.arange(101).clip(1, 99))

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.integers(-3, 3), min_size=1, max_size=4),
                st.integers(0, 3),
            ),
            max_size=5,
        ),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([None, 0, 25, 90]),
        st.randoms(),
    )
    def test_lists_and_order_are_those_of_a_plain_loop(self, drawn, rank, percentile, random):
        rows = [
            (f"q{i}", f"d{j}", int(j == source % len(scores)), float(score))
            for i, (scores, source) in enumerate(drawn)
            for j, score in enumerate(scores)
        ]
        random.shuffle(rows)
        frame = pd.DataFrame(rows, columns=["qid", "docno", "label", "score"])
        stage = TeacherScores(
            max_source_rank=rank, min_percentile=percentile, clip=None, scale=None
        )
        found = [tuple(row) for row in stage(frame).itertuples(index=False)]
        kept = {row[0] for row in plain(rows, rank, percentile)}
        assert found == [row for row in rows if row[0] in kept]
        assert stage.seen - stage.dropped_by_rank - stage.dropped_by_score == len(kept)
        assert funnel(stage)["dropped"].tolist() == [stage.dropped_by_rank, stage.dropped_by_score]

    def test_no_list_remains(self, lists):
        found = TeacherScores()(lists[lists["qid"] == "b"])
        assert len(found) == 0 and list(found) == list(lists)

    def test_empty_frame(self, lists):
        assert list(TeacherScores()(lists.head(0))) == list(lists)

    def test_repr_and_columns(self):
        assert repr(TeacherScores(clip=(5, 95))) == "TeacherScores(clip=(5, 95))"
        assert pt.inspect.transformer_inputs(TeacherScores()) == [
            ["qid", "docno", "label", "score"]
        ]
        assert "label" not in pt.inspect.transformer_inputs(TeacherScores(max_source_rank=None))[0]


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"max_source_rank": 0}, "max_source_rank must be a whole number of at least 1"),
            ({"min_percentile": 101}, "min_percentile must be at least 0 and at most 100, not 101"),
            ({"min_percentile": True}, "min_percentile must be a number, not True"),
            ({"clip": (99, 1)}, "clip must be above 99 and at most 100, not 1"),
            ({"clip": (-1, 99)}, "clip must be at least 0 and at most 100, not -1"),
            ({"clip": 5}, "clip must be two percentiles"),
            ({"clip": (0, float("nan"))}, "clip must be a number, not nan"),
            ({"scale": 0}, "scale must be above 0"),
            ({"scale": "1"}, "scale must be a number"),
        ],
    )
    def test_options(self, options, error):
        with pytest.raises(ValueError, match=error):
            TeacherScores(**options)

    def test_list_without_source_document(self, lists):
        with pytest.raises(ValueError, match="qid 'b' has no source document .label 1. to rank"):
            TeacherScores()(lists.drop(index=2))

    def test_score_that_is_not_a_number(self, lists):
        lists.loc[3, "score"] = np.nan
        with pytest.raises(ValueError, match="score is not a number at qid 'b', docno 'b1'"):
            TeacherScores()(lists)

    def test_score_that_is_infinite(self, lists):
        lists.loc[3, "score"] = -np.inf
        error = "score must be a finite number, but is -inf at qid 'b', docno 'b1': drop the row"
        with pytest.raises(ValueError, match=error):
            TeacherScores()(lists)

    def test_constant_scores(self, lists):
        with pytest.raises(ValueError, match="the scores of the teacher are all 3.0"):
            TeacherScores()(lists.assign(score=3.0))

    def test_stream(self, lists):
        with pytest.raises(ValueError, match="compares all lists, but a stream arrives in batches"):
            TeacherScores().transform_iter(lists.to_dict("records"))
        assert TeacherScores().transform_iter([]) == []

    def test_part_of_the_lists_on_a_worker(self, lists):
        with pytest.raises(ValueError, match="a worker receives only some of them"):
            distributed._transform(pt.Transformer.identity() >> TeacherScores(), lists)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword")
class TestPipeline:
    """Mined lists, a teacher and a student."""

    @pytest.fixture
    def examples(self) -> pd.DataFrame:
        return make_examples(24, 3, 0, "pair")

    @pytest.mark.parametrize(
        ("cls", "training"),
        [
            (BiEncoder, {"recipe": "cadet"}),
            (BiEncoder, {"recipe": "gpl"}),
            (CrossEncoder, {"loss": "distillation", "teacher_temperature": 0.3}),
            (MonoT5, {"loss": "adr_mse"}),
        ],
    )
    def test_loss_falls(self, plain_models, examples, cls, training):
        """A retriever's results, scored by a teacher that knows the rule."""
        documents = examples[["docno", "text"]].drop_duplicates("docno")
        queries = examples[examples["label"] == 1].drop(columns="label")

        def retrieve(topics: pd.DataFrame) -> pd.DataFrame:
            found = topics.merge(examples[["qid", "docno"]], on="qid")
            return pt.model.add_ranks(found.assign(score=1.0))

        def teach(pairs: pd.DataFrame) -> pd.DataFrame:
            return pairs.assign(score=3.0 * pairs["label"] - 1.0)

        miner = NegativeMiner(
            pt.apply.generic(retrieve),
            num_negatives=3,
            depth=4,
            texts=lambda: documents.to_dict("records"),
        )
        lists = (miner >> pt.apply.generic(teach) >> TeacherScores())(queries)
        assert sorted(lists["score"].unique()) == [0.0, 1.0]
        assert len(lists) == len(examples)
        quick = {
            "learning_rate": 2e-3,
            "num_train_epochs": 8,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "held_out": 0.0,
        }
        student = cls(plain_models[cls], dtype="float32", training=quick | training).fit(lists)
        losses = [entry["loss"] for entry in student.history if "loss" in entry]
        assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
