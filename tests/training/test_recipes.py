import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import weights

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.training.recipes import RECIPES, batch_sizes

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestBatchSizes:
    @given(
        st.sampled_from(["monot5", "cross_encoder"]), st.integers(1, 64), st.sampled_from([1, 2, 4])
    )
    def test_product_is_the_effective_batch(self, method, share, devices):
        size, steps = batch_sizes({"effective_batch": share * devices}, {}, method, devices)
        assert size * steps * devices == share * devices
        assert size <= 16

    def test_effective_batch_for_any_number_of_devices(self):
        recipe = RECIPES["inpars"]["monot5"]
        for devices in (1, 2, 4, 8, 16):
            for asked in ({}, {"per_device_train_batch_size": 4}):
                size, steps = batch_sizes(asked, recipe, "monot5", devices)
                assert size * steps * devices == 128
            assert math.prod(batch_sizes({}, {}, "monot5", devices)) * devices == 128
            assert math.prod(batch_sizes({}, {}, "cross_encoder", devices)) * devices == 16
            # in the terms of transformers: of one device
            asked = {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}
            assert batch_sizes(asked, recipe, "monot5", devices) == (5, 3)
            assert batch_sizes({}, {}, "bi_encoder", devices) == (32 // devices, 1)
            whole = {"effective_batch": 256}
            assert batch_sizes(whole, {}, "bi_encoder", devices) == (256 // devices, 1)
            in_four = whole | {"gradient_accumulation_steps": 4}
            for method in ("monot5", "bi_encoder"):
                assert batch_sizes(in_four, {}, method, devices) == (64 // devices, 4)
        assert batch_sizes({"per_device_train_batch_size": 36}, {}, "cross_encoder", 1) == (36, 1)

    def test_effective_batch_that_does_not_divide(self):
        with pytest.raises(
            ValueError, match="effective_batch=128 cannot be divided among 3 devices"
        ):
            batch_sizes({}, RECIPES["inpars"]["monot5"], "monot5", 3)
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            with pytest.raises(ValueError, match="effective_batch=100 is not a multiple of"):
                batch_sizes({"effective_batch": 100, name: 7}, {}, "monot5", 1)


class TestRecipes:
    def test_recipe_by_name(self, models, examples):
        """By name, with the paper's numbers; options beside it take precedence."""
        reranker = MonoT5(models[MonoT5], dtype="float32", training="inpars")
        reranker.training = {"recipe": "inpars", "max_steps": 2, "logging_steps": 1}
        reranker.fit(examples)
        settings = reranker.provenance["settings"]
        assert settings["recipe"] == "inpars"
        assert (settings["effective_batch"], settings["arguments"]["max_steps"]) == (128, 2)
        rates = [entry["learning_rate"] for entry in reranker.history if "loss" in entry]
        assert rates == [3e-4, 3e-4]
        assert reranker.provenance["batches"] == {"steps": 2, "effective_batch": 128, "seen": 96}
        light = CrossEncoder(models[CrossEncoder], training="inpars-light").fit(examples)
        assert light.provenance["settings"]["recipe"] == "inpars-light"
        with pytest.raises(ValueError, match="'inpars' trains a monot5, not a bi_encoder"):
            BiEncoder(models[BiEncoder], training="inpars")
        with pytest.raises(ValueError, match="no recipe 'inpards'.*inpars, inpars-light"):
            MonoT5(models[MonoT5], training="inpards")

    def test_recipe_trains_as_its_settings_written_out(self, models, examples):
        short = {"recipe": "inpars", "max_steps": 2, "per_device_train_batch_size": 4}
        long = {
            "max_steps": 2,
            "learning_rate": 3e-4,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 32,
        }
        first, second = (
            MonoT5(models[MonoT5], dtype="float32", training=training).fit(examples)
            for training in (short, long)
        )
        assert torch.equal(weights(first), weights(second))

    def test_epochs_instead_of_the_steps_of_a_recipe(self, models, examples):
        """The recipe has a number of steps, which would replace epochs."""
        epochs = {"recipe": "inpars", "num_train_epochs": 2, "effective_batch": 12}
        reranker = MonoT5(models[MonoT5], training=epochs).fit(examples)
        once = MonoT5(models[MonoT5], training=epochs | {"num_train_epochs": 1}).fit(examples)
        assert reranker.provenance["steps"] == 2 * once.provenance["steps"] < 156
        both = MonoT5(models[MonoT5], training=epochs | {"max_steps": 3}).fit(examples)
        assert both.provenance["steps"] == 3
