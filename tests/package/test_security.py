"""Untrusted weights run no code; only the given paths are written; no secret is stored.

Packages, downloads, prompts and documents are tested in ``test_*_security.py`` and
``test_prompts_bad_input.py`` of their rooms.
"""

import gzip
import json
import os
import pickle
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import tiny
import tiny_llm

from pyterrier_inpars import (
    BiEncoder,
    CrossEncoder,
    MonoT5,
    QueryGenerator,
    QueryLikelihood,
    StaticPrompt,
    SyntheticQueries,
)
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.rerankers import load_reranker

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = StaticPrompt("Document: {document}\nQuery:")
DOCUMENTS = [{"docno": f"d{i}", "text": f"the noise of the receiver {i}"} for i in range(4)]
PAIRS = pd.DataFrame(
    {
        "qid": ["a", "a", "b", "b"],
        "query": ["apple", "apple", "fig", "fig"],
        "docno": list("abcd"),
        "text": ["apple", "banana", "fig", "date"],
        "label": [1, 0, 1, 0],
    }
)
ON_CPU = {"device": "cpu", "dtype": "float32"}
USES = {
    "QueryGenerator": lambda m: QueryGenerator(m, prompt=PROMPT, max_new_tokens=2)(DOCUMENTS),
    "QueryLikelihood": lambda m: QueryLikelihood(m)(PAIRS),
    "MonoT5": lambda m: MonoT5(m)(PAIRS),
    "CrossEncoder": lambda m: CrossEncoder(m)(PAIRS),
    "BiEncoder": lambda m: BiEncoder(m)(PAIRS),
    "load_reranker": lambda m: load_reranker(m)(PAIRS),
}


@pytest.fixture(scope="session")
def llm(tmp_path_factory):
    return tiny_llm.save(tmp_path_factory.mktemp("llm"), "llama")


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# ---- models


def model_for(use, folder):
    if use.startswith("Query"):
        return tiny_llm.save(folder, "llama")
    return tiny.tiny_t5(folder) if use == "MonoT5" else tiny.tiny_bert(folder)


@pytest.mark.parametrize("use", USES)
def test_pickled_weights_run_no_code(tmp_path, use):
    model, harm = Path(model_for(use, tmp_path / "model")), tmp_path / "harm"
    pickle.loads(pickle.dumps(Touch(harm)))
    assert harm.exists()  # the test would notice
    harm.unlink()
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.bin", "model.pt", "pytorch_model.pkl"):
        (model / name).write_bytes(pickle.dumps({"weight": Touch(harm)}))
    with pytest.raises(Exception):  # noqa: B017 (any error will do)
        USES[use](str(model))
    assert not harm.exists()


@pytest.mark.parametrize("use", USES)
def test_custom_code_of_a_model_is_not_executed(tmp_path, use):
    model, harm = Path(model_for(use, tmp_path / "model")), tmp_path / "harm"
    add_code(model, harm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:  # transformers uses its own class or requires trust_remote_code
            USES[use](str(model))
        except (ValueError, OSError) as error:
            assert "trust_remote_code" in str(error)
    assert not harm.exists()


def add_code(model, harm, kind=None):
    """Adds custom code to a model, which writes a file when it is loaded."""
    (model / "own.py").write_text(
        f"open({str(harm)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig, BertTokenizer\n"
        "class Config(PretrainedConfig):\n    model_type = 'own'\n"
        "class Tokenizer(BertTokenizer): ...\n"
    )
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": dict.fromkeys(AUTO, "own.Config") | {"AutoConfig": "own.Config"}}
    (model / "config.json").write_text(json.dumps(config | ({"model_type": kind} if kind else {})))
    file = model / "tokenizer_config.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["own.Tokenizer", None]}
    file.write_text(json.dumps(tokenizer))


AUTO = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM")


def test_custom_code_is_executed_on_request(tmp_path, monkeypatch, llm):
    """Shows that the previous test would notice an execution."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.syspath_prepend(str(tmp_path / "hf"))
    model, harm = Path(tiny_llm.save(tmp_path / "model", "llama")), tmp_path / "harm"
    add_code(model, harm, "own")
    with pytest.raises(ValueError, match="(?s)cannot load a causal .*trust_remote_code"):
        _ = HuggingFaceBackend(model).model
    assert not harm.exists()
    with pytest.raises(Exception):  # noqa: B017 (it has a custom configuration, but no model)
        _ = HuggingFaceBackend(model, trust_remote_code=True).model
    assert harm.exists()


def stored(path, llm):
    generator = QueryGenerator(llm, prompt=PROMPT, max_new_tokens=3, **ON_CPU)
    return (generator >> SyntheticQueries(path, shard_size=2)).index(iter(DOCUMENTS))


# ---- written files


@pytest.fixture
def written(monkeypatch):
    """Paths that are opened for writing, created, renamed or removed during a test."""
    paths, live = [], [True]
    events = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1}

    def hook(event, arguments):
        if not live:
            return
        if event == "open":
            path, mode, flags = arguments
            write = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            named = [path] if set(mode or "") & set("wax+") or (flags or 0) & write else []
        else:
            named = arguments[: events.get(event, 0)]
            if event != "os.truncate" and arguments[-1] != -1:
                return  # relative to an open folder, as in a recursive removal
        paths.extend(os.path.abspath(os.fsdecode(p)) for p in named if not isinstance(p, int))

    sys.addaudithook(hook)
    yield paths
    live.clear()


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """Separate folders for home, cache, temporary files and working directory."""
    import tempfile

    for name in ("home", "work", "cache", "temporary", "shared"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


TOKENS = {
    "HF_TOKEN": "hf_s3cret",
    "OPENAI_API_KEY": "sk-s3cret",
    "ZENODO_TOKEN": "zenodo-s3cret",
    "HTTPS_PROXY": "http://user:s3cret@127.0.0.1:9",
}


def test_only_the_given_paths_are_written_and_no_secret_from_the_environment(
    own_home, written, llm, monkeypatch
):
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    model = tiny.tiny_t5(own_home / "t5")
    written.clear()
    queries = stored(own_home / "queries", llm)
    reranker = MonoT5(
        model,
        training={
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "output_dir": own_home / "training",
        },
        **ON_CPU,
    )
    reranker.fit(PAIRS)
    reranker.save(own_home / "saved")
    load_reranker(own_home / "saved", **ON_CPU)(PAIRS)
    queries.build_package(str(own_home / "shared" / "q.tar.lz4"), verbose=False)

    given = ["queries", "training", "saved", "shared", "cache", "temporary"]
    allowed = tuple(str(own_home / name) for name in given)
    others = (*allowed, "/dev/", "/proc/")
    assert [p for p in written if not p.startswith(others) and ".pyc" not in p] == []
    assert any(p.startswith(str(own_home / "queries")) for p in written)  # the audit hook works
    assert [*(own_home / "work").iterdir(), *(own_home / "temporary").iterdir()] == []
    assert secrets_in(own_home) == []


def secrets_in(folder):
    """Files with a secret, including compressed ones."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    contents = {file.name: file.read_bytes() for file in files}
    return [
        name
        for name, data in contents.items()
        if b"s3cret" in (gzip.decompress(data) if name.endswith(".gz") else data)
    ]


def test_a_hub_token_is_not_in_the_provenance_of_a_training(tmp_path):
    reranker = MonoT5(
        tiny.tiny_t5(tmp_path / "t5"),
        training={
            "max_steps": 1,
            "hub_token": "hf_s3cret",
            "output_dir": tmp_path / "training",
        },
        **ON_CPU,
    )
    reranker.fit(PAIRS)
    reranker.save(tmp_path / "saved")
    assert "s3cret" not in json.dumps(reranker.provenance)
    assert secrets_in(tmp_path / "saved") == []
    assert "s3cret" not in (tmp_path / "training" / "inpars_training.json").read_text()


@dataclass
class Service:
    """A backend with the interface of pyterrier_rag, whose repr shows its key."""

    model_id: str
    api_key: str

    def generate(self, prompts, *, return_logprobs, max_new_tokens, stop_sequences):
        output = type("Output", (), {"text": "a query", "logprobs": [{"a query": -1.0}]})
        return [output for _ in prompts]


def test_an_api_key_is_not_in_the_artifact(tmp_path):
    generator = QueryGenerator(Service("gpt", "sk-s3cret"), prompt=PROMPT)
    queries = (generator >> SyntheticQueries(tmp_path / "queries")).index(iter(DOCUMENTS))
    assert len(queries) == 4
    assert queries.metadata["settings"]["model"] == "gpt"
    assert secrets_in(tmp_path) == []
