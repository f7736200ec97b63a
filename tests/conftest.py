"""Settings before any import (no model hub, quiet libraries), and shared fixtures."""

import gc
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PT_TEST_TRANSFORMER_REPORTS"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with two threads each are slower than one
    os.environ["OMP_NUM_THREADS"] = "1"


pytest.register_assert_rewrite("bad_input")


def pytest_collection_finish():
    """Leaves what the tests import out of garbage collections; see `frozen`."""
    gc.freeze()


@pytest.fixture(autouse=True)
def frozen():
    """Collects the garbage of a test, and leaves what remains out of later collections.

    The end of a training and each correction of p-values (statsmodels) collect garbage. Going
    through all imported modules takes 0.3 seconds, four times as long as to train a tiny network.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Skips the wait for the disk, milliseconds for each shard, which no test here can observe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Uses one thread, since tiny networks do not gain from more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(
    scope="session",
    params=["bloom", "gemma3", "gemma3-images", "gpt2", "llama", "mamba", "mistral"],
)
def any_model(request, tmp_path_factory):
    """A tiny causal language model of each architecture."""
    import tiny_llm

    return tiny_llm.save(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny causal language model."""
    import tiny_llm

    return tiny_llm.save(tmp_path_factory.mktemp("gemma3"))


def pytest_collection_modifyitems(items):
    """Runs the Ray tests first, since Ray's signal handlers would crash a running JVM.

    Files with slow tests are next. Processes take whole files, in this order, and would wait at the
    end for one that began late.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_distributed.py", item.path not in slow))
