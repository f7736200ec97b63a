"""Options are checked when a reranker is made, before anything heavy is imported or loaded."""

import dataclasses
import pickle
import re
import subprocess
import sys

import pytest
from bad_input import NO_FRACTION, NOT_ONE_OR_MORE, NOT_ZERO_OR_MORE, Error, gives
from pyterrier.measures import nDCG

from pyterrier_inpars import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.training.options import REFUSED, TrainingOptions

NAN, INF = float("nan"), float("inf")


class TestForms:
    def test_dict_options_and_recipe_are_the_same(self):
        options = TrainingOptions(loss="listwise", weight_decay=0.1, seed=3)
        assert TrainingOptions.of({"loss": "listwise", "weight_decay": 0.1, "seed": 3}) == options
        assert TrainingOptions.of(options) is options
        assert TrainingOptions.of("inpars") == TrainingOptions(recipe="inpars")
        assert TrainingOptions.of(None) == TrainingOptions() == TrainingOptions.of({})
        assert options != TrainingOptions(loss="listwise", weight_decay=0.2, seed=3)

    def test_repr_shows_what_is_given(self):
        options = TrainingOptions(weight_decay=0.1, loss="binary", patience=2)
        assert repr(options) == "TrainingOptions(loss='pointwise', patience=2, weight_decay=0.1)"
        assert eval(repr(options)) == options
        reranker = CrossEncoder("x", training=options)
        assert repr(reranker) == f"CrossEncoder('x', training={options!r})"

    def test_frozen_and_pickled(self):
        options = TrainingOptions(loss="listwise", weight_decay=0.1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            options.loss = "pairwise"
        assert pickle.loads(pickle.dumps(options)) == options

    @pytest.mark.parametrize("value", [3, ["loss"], b"inpars"])
    def test_another_form(self, value):
        error = Error("training must be TrainingOptions, a dict .* or the name .*not ", TypeError)
        gives(lambda: MonoT5("x", training=value), error)

    def test_loss_defaults_to_that_of_the_class(self):
        found = [cls("x").training_options.loss for cls in (MonoT5, CrossEncoder, BiEncoder)]
        assert found == ["pointwise", "listwise", "in_batch"]

    def test_changed_after_construction(self):
        """As by pt.GridScan: the next use checks and takes the new options."""
        reranker = MonoT5("x", training={"loss": "listwise"})
        reranker.set_parameter("training", {"loss": "pairwise"})
        assert reranker.training_options.loss == "pairwise"
        reranker.training = {"learning_rat": 1}
        with pytest.raises(TypeError, match="'learning_rat'"):
            reranker.fit(None)


class TestNames:
    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    def test_unknown(self, cls):
        error = Error("'learning_rat': did you mean 'learning_rate'", TypeError)
        gives(lambda: cls("x", training={"learning_rat": 1}), error)
        gives(lambda: TrainingOptions(learning_rat=1), error)
        error = Error("'patients': did you mean 'patience'", TypeError)
        gives(lambda: cls("x", training={"patients": 1}), error)

    def test_any_field_of_training_arguments(self):
        options = TrainingOptions(neftune_noise_alpha=5.0, weight_decay=0.1)
        assert options.arguments == {"neftune_noise_alpha": 5.0, "weight_decay": 0.1}

    def test_renamed(self):
        error = Error("overwrite_output_dir is now called overwrite", TypeError)
        gives(lambda: TrainingOptions(overwrite_output_dir=True), error)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("loss", "listwise"), ("temperature", 2.0), ("output_dir", "out"), ("seed", 3)],
    )
    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    def test_training_options_are_no_parameters_of_a_reranker(self, cls, name, value):
        error = f"{name} is a training option: give training={{'{name}': {value!r}}}"
        gives(lambda: cls("x", **{name: value}), Error(error, TypeError))

    @pytest.mark.parametrize("name", REFUSED)
    def test_fields_that_cannot_be_honored(self, name):
        error = Error(f"training cannot honor {name}=1: {re.escape(REFUSED[name])}")
        gives(lambda: MonoT5("x", training={name: 1}), error)
        TrainingOptions(**{name: False})

    def test_arguments_of_sentence_transformers(self):
        rates = {"learning_rate_mapping": {"head": 1e-2}}
        assert CrossEncoder("x", training=rates).training_options.arguments == rates
        error = Error("learning_rate_mapping is for BiEncoder and CrossEncoder only", TypeError)
        gives(lambda: MonoT5("x", training=rates), error)


class TestValues:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("num_train_epochs", [0, -1, *NO_FRACTION]),
            ("learning_rate", [-1.0, "1e-3", *NO_FRACTION]),
            ("weight_decay", [-0.1, *NO_FRACTION]),
            ("warmup_steps", [-1, *NO_FRACTION]),
            ("logging_steps", [0, *NO_FRACTION]),
            ("save_steps", [0, -0.1, *NO_FRACTION]),
            ("eval_steps", [0, *NO_FRACTION]),
            ("temperature", [0, -1.0, INF, *NO_FRACTION]),
        ],
    )
    def test_numbers(self, name, values):
        for value in values:
            error = Error(f"{name} must be (above 0|at least 0|a number), not")
            gives(lambda v=value: TrainingOptions(**{name: v}), error)

    @pytest.mark.parametrize(
        "name", ["per_device_train_batch_size", "gradient_accumulation_steps", "max_steps"]
    )
    def test_whole_numbers(self, name):
        for value in set(map(repr, NOT_ONE_OR_MORE)) - {"-1"}:
            error = Error(f"{name} must be a whole number of at least 1")
            gives(lambda v=value: TrainingOptions(**{name: eval(v, {"nan": NAN})}), error)
        assert TrainingOptions(max_steps=-1).arguments == {"max_steps": -1}

    @pytest.mark.parametrize("name", ["effective_batch", "patience"])
    def test_own_whole_numbers(self, name):
        for value in NOT_ONE_OR_MORE:
            if value is not None:
                error = Error(f"{name} must be a whole number of at least 1")
                gives(lambda v=value: TrainingOptions(**{name: v}), error)

    def test_seed(self):
        for value in NOT_ZERO_OR_MORE:
            error = Error("seed must be a whole number of at least 0")
            gives(lambda v=value: TrainingOptions(seed=v), error)

    @pytest.mark.parametrize("share", [1, -0.1, 2, True, "0.1", NAN])
    def test_share_out_of_range(self, share):
        error = Error("held_out must be (at least 0 and below 1|a number), not")
        gives(lambda: TrainingOptions(held_out=share), error)

    @pytest.mark.parametrize("loss", ["hinge", "", 3, ["listwise"]])
    def test_loss(self, loss):
        gives(lambda: MonoT5("x", training={"loss": loss}), Error("loss must be one of pointwise"))

    @pytest.mark.parametrize("recipe", ["inpards", 3, ["inpars"]])
    def test_recipe(self, recipe):
        error = Error("there is no recipe .*: it must be one of inpars, inpars-light")
        gives(lambda: TrainingOptions(recipe=recipe), error)

    def test_recipe_of_another_class(self):
        error = Error("the recipe 'inpars' trains a monot5, not a cross_encoder")
        gives(lambda: CrossEncoder("x", training="inpars"), error)

    def test_choices(self):
        for name in ("lr_scheduler_type", "save_strategy", "eval_strategy", "logging_strategy"):
            error = Error(f"{name}: nonsense is not a valid .*select one of")
            gives(lambda n=name: TrainingOptions(**{n: "nonsense"}), error)

    def test_measure(self):
        for name in ("nonsense@3", "P", "alpha_nDCG@10", 3):
            expected = Error(f"metric_for_best_model: .*{str(name).partition('@')[0]}")
            gives(lambda name=name: TrainingOptions(metric_for_best_model=name), expected)

    def test_measure_that_is_an_object(self):
        """A trainer takes its name."""
        for measure in (nDCG @ 20, "nDCG@20", "ndcg_cut_20"):
            options = TrainingOptions(metric_for_best_model=measure)
            assert options.arguments == {"metric_for_best_model": "nDCG@20"}

    def test_types(self):
        gives(lambda: TrainingOptions(overwrite="yes"), Error("overwrite must be True", TypeError))
        gives(lambda: TrainingOptions(output_dir=3), Error("output_dir must be a path", TypeError))


def test_own_options_need_no_transformers():
    code = (
        "from pyterrier_inpars import MonoT5; import sys;"
        "MonoT5('x', training={'loss': 'listwise', 'output_dir': 'out', 'seed': 1, 'lora': True,"
        "'patience': 2, 'learning_rate': 1e-4, 'max_steps': 10}); print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not {"torch", "transformers", "peft"} & set(modules.stdout.split())
