import json
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import CLASSES, scores, shapes_of

from pyterrier_inpars._compute import cpu_linear
from pyterrier_inpars._compute.batches import batches_of_similar_length
from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, base, load_reranker

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


def linear_layers(reranker) -> list[torch.nn.Module]:
    return [m for m in reranker.network.modules() if isinstance(m, torch.nn.Linear)]


def cut_layers(reranker) -> list[torch.nn.Module]:
    """Layers that compute fewer rows while scoring: the last one of a T5."""
    return reranker._heads(reranker.network) if type(reranker) is MonoT5 else []


def test_import_is_light():
    """Torch and transformers are imported when a network is first needed."""
    code = "import pyterrier_inpars.rerankers, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not {"torch", "transformers", "sentence_transformers"} & set(modules.stdout.split())


class TestEveryReranker:
    def test_output_has_scores_ranks_and_the_other_columns(self, make, frame):
        before = frame.copy()
        out = make()(frame.set_index(frame.index + 7))
        kept = ["qid", "query", "docno", "text", "extra"]
        assert list(out.columns) == [*kept, "score", "rank"]
        pd.testing.assert_frame_equal(out[kept], frame[kept])
        pd.testing.assert_frame_equal(frame, before)
        assert out["score"].dtype == np.float64 and out["score"].nunique() == len(frame)
        for _, group in out.groupby("qid"):
            assert sorted(group["rank"]) == list(range(len(group)))
            assert group.sort_values("rank")["score"].is_monotonic_decreasing

    def test_scores_do_not_depend_on_the_batch_size(self, make, frame):
        expected = scores(make(batch_size=1), frame)
        for batch_size in (3, 8, 64):
            np.testing.assert_allclose(
                scores(make(batch_size=batch_size), frame), expected, atol=1e-5
            )

    def test_batches_on_a_cpu_have_few_tokens(self, cls, make, frame, monkeypatch):
        """For any number of rows; the scores are those of larger batches."""
        expected = scores(make(), frame)
        monkeypatch.setattr(base, "CPU_TOKENS", 60)
        reranker = make()
        shapes = shapes_of(reranker)
        np.testing.assert_allclose(scores(reranker, frame), expected, atol=1e-5)
        assert len(shapes) > 3 and max(rows for rows, _ in shapes) > 1
        assert all(rows == 1 or rows * tokens <= 60 for rows, tokens in shapes)

    def test_onednn_computes_float32_while_scoring(self, make, frame, monkeypatch):
        """All layers except the heads, and only while scoring; not on Intel's processors."""
        monkeypatch.setattr(cpu_linear, "is_intel", lambda: False)
        reranker = make()
        cut = cut_layers(reranker)
        layers = [layer for layer in linear_layers(reranker) if layer not in cut]
        expected = [layer(torch.ones(1, layer.in_features)).detach() for layer in layers]
        seen = []

        def note(*_):
            with torch.no_grad():
                seen.append([layer.forward(torch.ones(1, layer.in_features)) for layer in layers])
            for layer in layers:
                plain = layer in reranker._heads(reranker.network)
                assert ("forward" in vars(layer)) != plain
                assert plain or vars(layer)["forward"].func is cpu_linear._linear
            for layer in cut:
                assert vars(layer)["forward"].func is torch.nn.functional.linear

        hook = reranker.network.register_forward_pre_hook(note)
        reranker(frame)
        for found, wanted in zip(seen[0], expected, strict=True):
            torch.testing.assert_close(found, wanted)
        hook.remove()

        def stop(*_):
            raise KeyboardInterrupt

        hook = reranker.network.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            reranker(frame)
        assert not any("forward" in vars(layer) for layer in reranker.network.modules())

    @pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}])
    def test_no_onednn_in_other_dtypes(self, make, frame, options):
        pytest.importorskip("torchao")
        reranker = make(**options)
        cut = cut_layers(reranker)
        heads = reranker._heads(reranker.network)
        layers = [layer for layer in linear_layers(reranker) if layer not in heads]

        def note(*_):
            assert not any("forward" in vars(layer) for layer in layers)
            assert all(vars(layer)["forward"].func is torch.nn.functional.linear for layer in cut)

        reranker.network.register_forward_pre_hook(note)
        reranker(frame)

    def test_scores_do_not_depend_on_the_order(self, make, frame):
        reranker = make(batch_size=4)
        shuffled = frame.sample(frac=1, random_state=1)
        expected = reranker(frame).set_index("docno")["score"]
        found = reranker(shuffled).set_index("docno")["score"][expected.index]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_score_that_is_not_a_number(self, cls, make, models, frame):
        """The error names model, dtype and row."""
        reranker = make()
        network = reranker.network
        tokenizer = reranker._tokenizer if cls is MonoT5 else network.tokenizer
        token = tokenizer("river", add_special_tokens=False)["input_ids"][0]
        model = network if cls is MonoT5 else network[0].model
        with torch.no_grad():
            model.get_input_embeddings().weight[token] = float("nan")
        texts = frame.head(3).assign(query="what is apple", text=["cloud", "river", "stone"])
        assert len(reranker(texts.iloc[[0, 2]])) == 2
        name = f"{cls.__name__} '{models[cls]}' in float32 computed the score nan"
        with pytest.raises(ValueError, match=f"{name} for qid 'q1', docno 'd1': load it"):
            reranker(texts)

    def test_text_field(self, make, frame):
        renamed = frame.rename(columns={"text": "body"})
        np.testing.assert_array_equal(
            scores(make(text_field="body"), renamed), scores(make(), frame)
        )

    def test_braces_in_texts_are_not_placeholders(self, make, frame):
        texts = ["{", "}", "{}", "{query}", "{text} {query} {0}", "a {b} c"]
        braces = frame.head(6).assign(text=texts, query="what {is} {text} {query}")
        assert np.isfinite(scores(make(), braces)).all()

    def test_pyterrier_inspects_it_without_loading(self, make):
        reranker = make(training={"seed": 3}, compile=True, revision="v1")
        inputs = pt.inspect.transformer_inputs(reranker)
        assert inputs == [["qid", "query", "docno", "text"]]
        outputs = pt.inspect.transformer_outputs(reranker, [*inputs[0], "score", "rank", "extra"])
        assert outputs == ["qid", "query", "docno", "text", "extra", "score", "rank"]
        attributes = {a.name: a.value for a in pt.inspect.transformer_attributes(reranker)}
        assert attributes["training"] == {"seed": 3}
        loading = {"revision": "v1", "dtype": "float32", "compile": True, "device": "cpu"}
        assert attributes["loading"] == loading
        assert (pt.Transformer.identity() >> reranker).compile() is not None
        again = pt.inspect.transformer_apply_attributes(reranker, batch_size=5)
        assert (again.model, again.training, again.batch_size) == (reranker.model, {"seed": 3}, 5)
        assert again.loading == loading
        assert reranker._network is None, "inspecting it has loaded the network"

    def test_empty_frame(self, make, frame):
        assert list(make()(frame.head(0)).columns) == list(make()(frame).columns)
        assert list(make().transform_iter([])) == []

    @pytest.mark.parametrize("column", ["qid", "query", "docno", "text"])
    def test_missing_column(self, make, frame, column):
        with pytest.raises(pt.validate.InputValidationError, match=column):
            make()(frame.drop(columns=column))

    @pytest.mark.parametrize("column", ["query", "text"])
    def test_not_a_string(self, make, frame, column):
        broken = frame.astype({column: object})
        broken.loc[2, column] = None
        with pytest.raises(ValueError, match=f"{column} must be a string.*'d2'"):
            make()(broken)

    @pytest.mark.parametrize("model", ["/no/such/folder", "no/such-model"])
    def test_no_such_model(self, cls, frame, model):
        with pytest.raises(OSError, match=f"{cls.__name__} cannot load the model '{model}': give"):
            cls(model)(frame)

    def test_folder_without_a_model(self, cls, frame, tmp_path):
        with pytest.raises(OSError, match="cannot load the model .*config.json"):
            cls(tmp_path)(frame)

    @pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("max_length", 7)])
    def test_not_a_size(self, make, option, value):
        with pytest.raises(ValueError, match=option):
            make(**{option: value})

    def test_no_such_loss(self, make, cls):
        own = "in_batch" if cls is BiEncoder else "pointwise"
        for loss in ("hinge", "in_batch" if cls is not BiEncoder else "pairwise"):
            with pytest.raises(ValueError, match=f"one of {own}.* distillation.*, not '{loss}'"):
                make(training={"loss": loss})

    @pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
    def test_no_such_temperature(self, make, value):
        with pytest.raises(
            ValueError, match=f"temperature must be (above 0|a number), not {value}"
        ):
            make(training={"temperature": value})

    def test_save_and_load(self, cls, make, frame, tmp_path):
        saved = make(max_length=20)
        path = saved.save(tmp_path / "deep" / "checkpoint")
        assert path == tmp_path / "deep" / "checkpoint"
        loaded = cls(path, dtype="float32", device="cpu")
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))
        assert not np.allclose(scores(loaded, frame), scores(make(), frame)), "max_length is lost"

    def test_save_in_the_home_folder(self, make, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert make().save("~/saved") == tmp_path / "saved"
        assert any((tmp_path / "saved").iterdir())

    def test_save_does_not_overwrite(self, make, tmp_path):
        (tmp_path / "precious").write_text("")
        with pytest.raises(FileExistsError, match=str(tmp_path)):
            make().save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]
        assert (make().save(tmp_path, overwrite=True) / "model.safetensors").exists()

    @pytest.mark.parametrize("earlier", CLASSES, ids=lambda other: other.__name__)
    def test_save_over_another_class(self, cls, earlier, make, models, frame, tmp_path):
        """Nothing of the earlier checkpoint stays; files of others do."""
        earlier(models[earlier], device="cpu").save(tmp_path)
        (tmp_path / "notes.md").write_text("mine")
        (tmp_path / "checkpoint-3").mkdir()
        saved, clean = make(), make()
        saved.save(tmp_path, overwrite=True)
        loaded = load_reranker(tmp_path, dtype="float32", device="cpu")
        assert type(loaded) is cls
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))
        alone = clean.save(tmp_path / "alone")
        written = {path.name for path in alone.iterdir()}
        kept = {"notes.md", "checkpoint-3", "alone"}
        assert {path.name for path in tmp_path.iterdir()} == written | kept

    def test_save_that_fails_leaves_the_earlier_checkpoint(self, make, frame, tmp_path):
        saved = make()
        saved.save(tmp_path / "old")
        before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.*")}
        other = make(max_length=20)

        def stop(*_, **__):
            raise KeyboardInterrupt

        other.network.save_pretrained = stop
        for folder in ("old", "new"):
            with pytest.raises(KeyboardInterrupt):
                other.save(tmp_path / folder, overwrite=True)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
        assert [path.name for path in tmp_path.iterdir()] == ["old"]

    def test_repr(self, cls, models):
        reranker = cls(models[cls], training={"seed": 2}, dtype="float32", revision="v1")
        assert repr(reranker) == (
            f"{cls.__name__}({models[cls]!r}, training={{'seed': 2}}, revision='v1', "
            f"dtype='float32')"
        )

    def test_autocast_ranks_alike(self, make, frame):
        exact, rounded = scores(make(), frame), scores(make(dtype="bfloat16"), frame)
        assert not np.array_equal(exact, rounded)
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
        assert len(set(rounded)) == len(rounded), "scores tie where bfloat16 rounds them"

    def test_int8(self, make, frame):
        pytest.importorskip("torchao")
        reranker = make(dtype="int8")
        exact, rounded = scores(make(), frame), scores(reranker, frame)
        assert 0 < np.abs(rounded - exact).max() < 0.1 * np.ptp(exact)
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
        assert len(set(rounded)) == len(rounded)
        layers = [m for m in reranker.network.modules() if isinstance(m, torch.nn.Linear)]
        heads = reranker._heads(reranker.network)
        assert len(layers) > 10 and len(heads) == (not isinstance(reranker, BiEncoder))
        for layer in layers:
            if layer in heads:
                assert type(layer.weight) is torch.nn.Parameter
                assert layer.weight.dtype == torch.float32
            else:
                assert layer.weight.qdata.dtype == torch.int8

    def test_int8_is_made_before_the_device_gets_the_weights(self, make, cls, monkeypatch):
        """A model that fits on a device in int8 only is loaded on the CPU."""
        pytest.importorskip("torchao")
        reranker, loaded = make(dtype="int8", device="cpu"), []
        load = reranker._load
        monkeypatch.setattr(reranker, "_load", lambda device: loaded.append(device) or load(device))
        monkeypatch.setattr(base, "best_device", lambda name: torch.device("meta"))
        network = reranker.network
        assert [device.type for device in loaded] == ["cpu"]
        assert {weight.device.type for weight in network.parameters()} == {"meta"}
        assert any(hasattr(weight, "qdata") for weight in network.parameters())

    def test_weights_that_do_not_fit(self, make, cls, monkeypatch):
        """The error says why, and not that the model is unknown."""

        def full(self, *args, **options):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 112.00 MiB")

        monkeypatch.setattr(torch.nn.Module, "to", full)
        with pytest.raises(MemoryError, match=f"{cls.__name__}: .* in float32, 4 GB per billion"):
            _ = make(device="cpu").network

    def test_int8_is_for_scoring(self, make, frame, tmp_path):
        reranker = make(dtype="int8")
        with pytest.raises(ValueError, match="cannot be trained, .* another dtype"):
            reranker.fit(frame.assign(label=[1, 0, 1] * 5))
        with pytest.raises(ValueError, match="cannot be saved, .* another dtype"):
            reranker.save(tmp_path / "checkpoint")
        assert not (tmp_path / "checkpoint").exists()
        assert reranker._network is None, "it was loaded for an error"

    def test_no_such_dtype(self, make, frame):
        with pytest.raises(ValueError, match="float16 or int8, not 'int4'"):
            make(dtype="int4")(frame)

    @pytest.mark.slow
    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder])
    @pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
    def test_compiled_network_gives_the_same_scores(
        self, cls, backend, frame, tmp_path, monkeypatch
    ):
        """It scores, trains and saves the same.

        The backend ``eager`` executes the graphs that ``inductor``, the default, compiles, without
        a C++ compiler, which takes a minute.
        """
        compile_module = partialmethod(torch.nn.Module.compile, backend=backend)
        monkeypatch.setattr(torch.nn.Module, "compile", compile_module)
        model = tmp_path / "model"
        if cls is MonoT5:
            tiny.tiny_t5(model, dropout=0.0)
            file = model / "config.json"  # one layer compiles in half the time
            one = {"num_layers": 1, "num_decoder_layers": 1}
            file.write_text(json.dumps(json.loads(file.read_text()) | one))
        else:
            tiny.tiny_classifier(model, "bert", 1, dropout=0.0)
        frame = frame.assign(label=[1, 0, 1] * 5)
        training = {"max_steps": 1, "learning_rate": 1e-3, "gradient_accumulation_steps": 1}
        if cls is CrossEncoder:  # a listwise loss has no gradient for the bias but rounding
            training["loss"] = "pointwise"
        options = {"dtype": "float32", "device": "cpu", "training": training}
        plain, compiled = cls(model, **options), cls(model, compile=True, **options)
        torch._dynamo.utils.counters.clear()
        np.testing.assert_allclose(scores(compiled, frame), scores(plain, frame), atol=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"], "nothing was compiled"
        assert list(compiled.network.state_dict()) == list(plain.network.state_dict())
        expected = scores(plain.fit(frame), frame)
        np.testing.assert_allclose(scores(compiled.fit(frame), frame), expected, atol=1e-4)
        loaded = cls(compiled.save(tmp_path / "saved"), dtype="float32", device="cpu")
        np.testing.assert_allclose(scores(loaded, frame), expected, atol=1e-4)


class TestParametersSetAfterFirstUse:
    """As ``set_parameter`` and ``pt.GridScan`` change them: what a new object gives."""

    def check(self, reranker, cls, frame, model, **options):
        for name, value in options.items():
            reranker.set_parameter(name, value)
        if model != reranker.model:
            reranker.set_parameter("model", model)
        fresh = cls(model, **{"dtype": "float32", "device": "cpu", **options})
        expected = scores(fresh, frame)
        np.testing.assert_array_equal(scores(reranker, frame), expected)
        return expected

    def test_of_every_reranker(self, cls, make, models, plain_models, frame, tmp_path):
        reranker = make()
        first = scores(reranker, frame)
        other = Path(make(max_length=12).save(tmp_path / "other"))
        found = [
            self.check(reranker, cls, frame, models[cls], max_length=12),
            self.check(reranker, cls, frame, models[cls], max_length=31),
            self.check(reranker, cls, frame, plain_models[cls], max_length=None),
            self.check(reranker, cls, frame, other, max_length=None),
            self.check(reranker, cls, frame, models[cls], max_length=None),
            self.check(reranker, cls, frame, models[cls], dtype="bfloat16"),
        ]
        assert not np.allclose(found[0], found[1])
        np.testing.assert_array_equal(found[3], found[0])
        np.testing.assert_array_equal(found[4], first)
        reranker.set_parameter("max_length", 3)
        with pytest.raises(ValueError, match="max_length must be .* at least 8"):
            reranker(frame)

    def test_int8(self, cls, make, models, frame):
        pytest.importorskip("torchao")
        reranker = make()
        first = scores(reranker, frame)
        rounded = self.check(reranker, cls, frame, models[cls], dtype="int8")
        assert not np.array_equal(rounded, first)
        self.check(reranker, cls, frame, models[cls], dtype="float32")

    def test_compile(self, make, frame):
        """The option, beside the method of this name that every transformer has."""
        reranker = make()
        assert reranker.network._compiled_call_impl is None
        for value in (True, False):
            reranker.set_parameter("compile", value)
            assert reranker.loading.get("compile", False) is value
            assert (reranker.network._compiled_call_impl is not None) is value
        assert (pt.Transformer.identity() >> reranker).compile() is not None

    def test_template_and_labels(self, models, frame):
        reranker = MonoT5(models[MonoT5], dtype="float32", device="cpu")
        first = scores(reranker, frame)
        for options in (
            {"labels": ("false", "true")},
            {"labels": None, "template": "Document: {query} Query: {text} Relevant:"},
        ):
            assert not np.allclose(
                self.check(reranker, MonoT5, frame, models[MonoT5], **options), first
            )

    def test_trained_weights_stay(self, cls, make, models, frame, examples, tmp_path):
        """With another length, and not with another model, where the training is forgotten."""
        reranker = make(training={"max_steps": 1, "learning_rate": 1e-3})
        reranker.fit(examples)
        saved = reranker.save(tmp_path / "trained")
        reranker.set_parameter("max_length", 12)
        fresh = cls(saved, dtype="float32", device="cpu", max_length=12)
        np.testing.assert_array_equal(scores(reranker, frame), scores(fresh, frame))
        assert reranker.provenance is not None
        reranker.set_parameter("max_length", None)
        again = reranker.save(tmp_path / "again")
        for file in ("config.json", "model.safetensors"):
            assert (again / file).read_bytes() == (saved / file).read_bytes()
        (tmp_path / "link").symlink_to(models[cls])
        self.check(reranker, cls, frame, tmp_path / "link")
        assert reranker.provenance is reranker.train_loss is None

    def test_grid_scan(self, cls, make, frame):
        labels = [0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0]
        qrels = frame[["qid", "docno"]].assign(label=labels)
        topics = frame[["qid", "query"]].drop_duplicates()
        results, reranker = pt.Transformer.from_df(frame.drop(columns="extra")), make()
        grid, lengths = {reranker: {"max_length": [8, 31]}}, [8, 31]
        found = pt.GridScan(results >> reranker, grid, topics, qrels, ["ndcg"], dataframe=False)
        expected = [
            pt.Evaluate((results >> make(max_length=n))(topics), qrels, ["ndcg"]) for n in lengths
        ]
        assert [measures["ndcg"] for _, measures in found] == [e["ndcg"] for e in expected]


class TestBatchesOfSimilarLength:
    @given(
        st.lists(st.integers(0, 50), min_size=1, max_size=40),
        st.integers(1, 8),
        st.sampled_from([1.0, 20.0, 64.0, np.inf]),
    )
    def test_longest_first_and_as_full_as_the_limits_allow(self, lengths, rows, tokens):
        found = batches_of_similar_length(lengths, rows, tokens)
        order = [i for batch in found for i in batch]
        assert order == sorted(range(len(lengths)), key=lambda i: -lengths[i])

        def fits(batch: list[int]) -> bool:
            longest = max(1, *(lengths[i] for i in batch))
            return len(batch) <= rows and len(batch) * longest <= tokens

        for i, batch in enumerate(found):
            assert len(batch) == 1 or fits(batch)
            if i + 1 < len(found):
                assert not fits([*batch, found[i + 1][0]]), "there was room for another"


def _schematics(folder: Path) -> None:
    """PyTerrier's own tests of each reranker: inspection and schematic, without a network."""
    for reranker in CLASSES:
        globals()[f"Test{reranker.__name__}Schematic"] = pt.testing.transformer_test_class(
            lambda reranker=reranker: reranker(folder)
        )
