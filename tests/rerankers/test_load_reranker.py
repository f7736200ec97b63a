import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_llm
from safetensors.torch import load_file, save_file
from tiny_training import scores

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, load_reranker

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestLoadReranker:
    def test_what_each_class_saves(self, cls, make, frame, tmp_path):
        saved = make(max_length=20)
        path = saved.save(tmp_path / "checkpoint")
        loaded = load_reranker(path, dtype="float32", device="cpu")
        assert type(loaded) is cls
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))

    def test_encoder_without_a_head(self, models):
        assert type(load_reranker(models[CrossEncoder])) is CrossEncoder

    def test_old_folder_of_a_bi_encoder(self, models, frame, tmp_path):
        """Before version 5.2 sentence-transformers did not write the class into a folder."""
        saved = BiEncoder(models[BiEncoder], dtype="float32")
        path = saved.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        assert config.pop("model_type") == "SentenceTransformer"
        for change in (lambda: file.write_text(json.dumps(config)), file.unlink):
            change()
            assert type(load_reranker(path)) is BiEncoder

    def test_options(self, models):
        path = models[CrossEncoder]
        reranker = load_reranker(path, training={"loss": "binary"}, batch_size=3)
        assert (reranker.batch_size, reranker.model) == (3, path)
        assert reranker.training_options.loss == "pointwise"
        for options in ({"labels": ("a", "b")}, {"self": 1}):
            with pytest.raises(TypeError, match=f"is for CrossEncoder: .*'{[*options][0]}'"):
                load_reranker(path, **options)

    def test_language_model(self, tmp_path):
        path = tiny_llm.save(tmp_path / "monot5", "llama")
        with pytest.raises(ValueError, match="monot5' is a LlamaForCausalLM, which is not a rera"):
            load_reranker(path)

    def test_another_kind_of_sentence_transformers(self, models, tmp_path):
        path = BiEncoder(models[BiEncoder]).save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "SparseEncoder"}))
        with pytest.raises(ValueError, match="is a SparseEncoder, which is not a reranker"):
            load_reranker(path)

    @pytest.mark.parametrize("model", ["/no/such/folder", "no/such-model"])
    def test_no_such_model(self, model):
        with pytest.raises(OSError, match=f"cannot load the model '{model}': give"):
            load_reranker(model)

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(OSError, match="cannot load the model .*config.json"):
            load_reranker(tmp_path)


CODE = """
import json, sys
import pandas as pd
from pyterrier_inpars import rerankers

frame, (names, given) = pd.DataFrame(json.loads(sys.argv[1])), json.loads(sys.argv[2])
for name in names:
    reranker = getattr(rerankers, name)(*given[name][0], **given[name][1], device="cpu")
    print("SCORES", json.dumps(reranker(frame)["score"].tolist()))
"""


def in_a_process(frame, calls, **environment):
    """Scores of rerankers that another process makes, with its own cache of the hub."""
    names = [name for name, *_ in calls]
    given = json.dumps([names, {name: [args, options] for name, args, options in calls}])
    records = json.dumps(frame[["qid", "query", "docno", "text"]].to_dict("list"))
    done = subprocess.run(
        [sys.executable, "-c", CODE, records, given],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("SCORES")]
    return [json.loads(line.removeprefix("SCORES")) for line in lines]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the hub with two revisions of each model, and the folders they are from."""
    home, folders = tmp_path_factory.mktemp("hub"), {}
    for name, save in (("MonoT5", tiny.tiny_t5), ("CrossEncoder", tiny_two), ("BiEncoder", bi)):
        repo = home / "hub" / f"models--inpars--{name}"
        for commit, revision, scale in (("1" * 40, "main", 1.0), ("2" * 40, "v2", 1.5)):
            folder = save(repo / "snapshots" / commit)
            change_weights(Path(folder), scale)
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / revision).write_text(commit)
            folders[name, revision] = folder
    return home, folders


class TestSource:
    """Where a network is loaded from: revision, code of its own, and local stand-ins."""

    @pytest.mark.parametrize("revision", ["main", "v2"])
    def test_revision(self, hub, frame, revision):
        home, folders = hub
        names = ["MonoT5", "CrossEncoder", "BiEncoder"]
        calls = [(n, [f"inpars/{n}"], {"revision": revision, "dtype": "float32"}) for n in names]
        found = in_a_process(frame, calls, HF_HOME=str(home))
        for name, scored in zip(names, found, strict=True):
            expected = [
                scores(load_reranker(folders[name, which], dtype="float32", device="cpu"), frame)
                for which in (revision, "main" if revision == "v2" else "v2")
            ]
            np.testing.assert_allclose(scored, expected[0], atol=1e-6)
            assert not np.allclose(scored, expected[1], atol=1e-4)
        loaded = [("load_reranker", ["inpars/BiEncoder"], {"revision": revision})]
        again = in_a_process(frame, loaded, HF_HOME=str(home))
        np.testing.assert_allclose(again[0], found[-1], atol=0.05)

    def test_local_stand_in(self, models, frame, monkeypatch):
        names = {"castorini/monot5": models[MonoT5], "some/bi-encoder": models[BiEncoder]}
        monkeypatch.setenv("INPARS_LOCAL_MODELS", json.dumps(names))
        options = {"dtype": "float32", "device": "cpu"}
        for cls, (name, path) in zip((MonoT5, BiEncoder), names.items(), strict=True):
            expected = scores(cls(path, **options), frame)
            np.testing.assert_array_equal(scores(cls(name, **options), frame), expected)
        assert type(load_reranker("castorini/monot5")) is MonoT5
        assert load_reranker("castorini/monot5").model == "castorini/monot5"

    @pytest.mark.parametrize("make", [MonoT5, CrossEncoder, BiEncoder, load_reranker])
    def test_bad_options(self, make):
        for name, value in (("revision", 3), ("trust_remote_code", "no")):
            with pytest.raises(TypeError, match=f"{name} must be .*, not {value!r}"):
                make("no/such-model", **{name: value})
        with pytest.raises((TypeError, OSError), match="'dtipe': did you mean 'dtype'|cannot load"):
            make("no/such-model", dtipe="float32")

    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    def test_code_of_a_model_runs_only_if_trusted(self, cls, models, frame, tmp_path):
        model, mark = tmp_path / "model", tmp_path / "mark"
        shutil.copytree(models[cls], model)
        (model / "own.py").write_text(
            f"open({str(mark)!r}, 'w').close()\n"
            "from transformers import BertConfig, T5Config\n"
            f"class Config({'T5Config' if cls is MonoT5 else 'BertConfig'}):\n"
            "    model_type = 'own'\n"
        )
        config = json.loads((model / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
        (model / "config.json").write_text(json.dumps(config))
        for make in (cls, load_reranker):
            with pytest.raises(OSError, match="trust_remote_code"):
                make(model, trust_remote_code=False)(frame)
            assert not mark.exists()
        with pytest.raises((OSError, ValueError)):  # there is no network for the configuration
            cls(model, trust_remote_code=True)(frame)
        assert mark.exists()


def change_weights(folder: Path, scale: float) -> None:
    file = next(folder.rglob("*.safetensors"))
    weights = load_file(file)
    save_file({n: w * scale for n, w in weights.items()}, file, metadata={"format": "pt"})


def tiny_two(folder: Path) -> str:
    return tiny.tiny_classifier(folder, "bert", 1)


def bi(folder: Path) -> str:
    encoder = tiny.tiny_bert(folder.parent.parent / "encoder")
    return str(BiEncoder(encoder, dtype="float32").save(folder))
