"""Batches that do not fit into memory: halved, with a warning, and with the same results."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_llm
import torch

from pyterrier_inpars import CrossEncoder, QueryGenerator
from pyterrier_inpars._compute.memory_limit import MemoryLimit, is_out_of_memory
from pyterrier_inpars.backends.base import Sampling
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

pytestmark = pytest.mark.usefixtures("one_thread")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8])
def test_parts_are_in_order_and_the_limit_stays(fits):
    limit, tried = MemoryLimit("Stage"), []

    def compute(rows):
        tried.append(len(rows))
        if len(rows) > fits:
            raise FULL
        return [row * 10 for row in rows]

    with pytest.warns(UserWarning, match="a batch of 8 does not fit") if fits < 8 else nothing():
        found = list(limit.run(range(8), compute, str))
    assert [row for part, _ in found for row in part] == list(range(8))
    assert [value for _, values in found for value in values] == [row * 10 for row in range(8)]
    assert max(len(part) for part, _ in found) > fits / 2
    failed = len([size for size in tried if size > fits])
    list(limit.run(range(8, 20), compute, str))
    assert len([size for size in tried if size > fits]) == failed + (fits == 8)


class nothing:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def test_one_row_that_does_not_fit_is_an_error():
    def compute(rows):
        raise FULL

    with (
        pytest.warns(UserWarning, match="Stage: a batch of 3 .* batches of at most 1 "),
        pytest.raises(MemoryError, match="Stage: row 7 does not fit .* even alone: limit the"),
    ):
        list(MemoryLimit("Stage").run([7, 8, 9], compute, lambda row: f"row {row}"))


@pytest.mark.parametrize(
    "text", ["can't allocate memory: you tried", "not enough memory: you tried"]
)
def test_the_allocator_of_the_cpu(text):
    """On Linux, and on Windows."""
    assert is_out_of_memory(RuntimeError(f"[enforce fail] . DefaultCPUAllocator: {text}"))


@pytest.mark.parametrize("library", ["CUBLAS_STATUS", "CUDNN_STATUS"])
def test_libraries_of_cuda_name_it_otherwise(library):
    assert is_out_of_memory(RuntimeError(f"CUDA error: {library}_ALLOC_FAILED when calling"))
    assert not is_out_of_memory(RuntimeError(f"CUDA error: {library}_NOT_SUPPORTED"))


def test_other_errors_are_raised_unchanged():
    def compute(rows):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(MemoryLimit("Stage").run([1, 2], compute, str))
    assert not is_out_of_memory(KeyError("out of memory"))


def test_a_real_failure_of_the_allocator():
    """The address space of a process is limited: 32 rows of 16 MiB do not fit, but 1 does."""
    code = """
        import resource, warnings
        import torch
        from pyterrier_inpars._compute.memory_limit import MemoryLimit

        torch.set_num_threads(1)
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + 200 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        memory = MemoryLimit("Stage")
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            found = list(memory.run(
                range(32), lambda rows: torch.ones(len(rows), 2**22).sum(dim=1).tolist(), str
            ))
        assert [value for _, values in found for value in values] == [2.0**22] * 32
        assert memory.rows in (4, 8) and len(shown) in (2, 3), (memory.rows, len(shown))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def limited(monkeypatch, network_class, rows_of, fits):
    """Makes the forward of a network fail for more than ``fits`` rows; returns the attempts."""
    forward, tried = network_class.forward, []

    def limited_forward(self, *args, **options):
        tried.append(rows_of(*args, **options))
        if tried[-1] > fits:
            raise FULL
        return forward(self, *args, **options)

    monkeypatch.setattr(network_class, "forward", limited_forward)
    return tried


def test_reranking(tmp_path, monkeypatch):
    path = tiny.tiny_classifier(tmp_path / "bert", "bert", 1)
    frame = pd.DataFrame(
        [("1", "apple", f"d{i}", "banana stone " * (i % 5 + 1)) for i in range(23)],
        columns=["qid", "query", "docno", "text"],
    )
    expected = CrossEncoder(path, batch_size=3, device="cpu", dtype="float32")(frame)
    reranker = CrossEncoder(path, batch_size=8, device="cpu", dtype="float32")
    tried = limited(
        monkeypatch, type(reranker.network.transformers_model), lambda **o: len(o["input_ids"]), 4
    )
    with pytest.warns(UserWarning, match="CrossEncoder: a batch of 8 does not fit"):
        found = reranker(frame)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)
    assert tried.count(8) == 1
    if hasattr(reranker, "inputs"):
        assert reranker.inputs == 23  # also the batch that was tried twice counts once
    monkeypatch.undo()
    limited(
        monkeypatch, type(reranker.network.transformers_model), lambda **o: len(o["input_ids"]), 0
    )
    with (
        pytest.warns(UserWarning, match="does not fit"),
        pytest.raises(MemoryError, match=r"CrossEncoder: an input of about \d+ tokens"),
    ):
        reranker(frame)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}])
def test_generation(tmp_path, monkeypatch, sampling):
    path = tiny_llm.save(tmp_path / "llm", "llama")
    frame = pd.DataFrame(
        [(f"d{i}", " ".join(tiny_llm.WORDS[i : i + 3 + i % 4])) for i in range(13)],
        columns=["docno", "text"],
    )

    def generator(batch_size):
        return QueryGenerator(
            path, prompt="zero-shot", sampling=sampling, num_queries=1 + bool(sampling),
            max_new_tokens=5, batch_size=batch_size, device="cpu", dtype="float32",
        )  # fmt: skip

    expected = generator(2)(frame)
    ours = generator(12)
    model = ours._backend.model
    tried = limited(
        monkeypatch, type(model), lambda *a, **o: len(o["input_ids"] if not a else a[0]), 4
    )
    with pytest.warns(UserWarning, match="HuggingFaceBackend: a batch of .* does not fit"):
        found = ours(frame)
    pd.testing.assert_frame_equal(found, expected)
    assert len([rows for rows in tried if rows > 4]) <= 2
    assert not [rows for rows in tried[-3:] if rows > 4]


@pytest.mark.parametrize("fits", [2, 4, 0])
@pytest.mark.parametrize("batch_size", [2, 4, 6, 64])
def test_more_samples_than_fit(tmp_path, monkeypatch, batch_size, fits):
    """The samples of a prompt are split, and each is that of a larger batch."""
    path = tiny_llm.save(tmp_path / "llm", "llama")
    prompts = [" ".join(tiny_llm.WORDS[i : i + 3 + i]) for i in range(3)]
    options = {
        "max_new_tokens": 4,
        "sampling": Sampling(temperature=1.0),
        "num_samples": 8,
        "seeds": range(24),
    }
    expected = HuggingFaceBackend(path, device="cpu", dtype="float32").complete(prompts, **options)
    ours = HuggingFaceBackend(path, device="cpu", dtype="float32", batch_size=batch_size)
    ours.complete(prompts[:1], max_new_tokens=1)  # checks the masks, with two prompts
    tried = limited(
        monkeypatch, type(ours.model), lambda *a, **o: len(o["input_ids"] if not a else a[0]), fits
    )
    if fits == 0:
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(MemoryError, match="a prompt of .* does not fit into memory, even alone"),
        ):
            ours.complete(prompts, **options)
        assert tried[-1] == 1
        return
    counts = []
    with warnings.catch_warnings(action="ignore"):
        found = ours.complete(prompts, progress=counts.append, **options)
    assert max(tried) <= batch_size and sum(counts) == 24
    assert [c.text for c in found] == [c.text for c in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)


@pytest.mark.parametrize("place", ["float32 weights", "shared prefix"])
def test_the_check_of_the_masks_in_the_models_dtype(tmp_path, monkeypatch, recwarn, place):
    """Where float32 weights do not fit, it does not take the lack of memory for a wrong mask."""
    from pyterrier_inpars.backends import _kv_cache

    ours = HuggingFaceBackend(tiny_llm.save(tmp_path / "llm", "llama"), dtype="bfloat16")
    prompts = [" ".join(tiny_llm.WORDS[i : i + 4]) for i in range(3)]
    prefilled, failed = _kv_cache.prefilled, []

    def fails_in_float32(model, *args):
        if ours.model.dtype == torch.float32:
            failed.append(place)
            raise FULL
        return prefilled(model, *args)

    class Batch(_kv_cache.SequentialBatch):
        def __init__(self, model):
            if model.dtype == torch.float32:
                failed.append(place)
                raise FULL
            super().__init__(model)

    if place == "shared prefix":
        monkeypatch.setattr(_kv_cache, "prefilled", fails_in_float32)
    else:
        monkeypatch.setattr(_kv_cache, "SequentialBatch", Batch)
    ours.complete(prompts, max_new_tokens=2)
    assert failed == [place]
    assert ours._supports_masks is True and ours.model.dtype == torch.bfloat16
    assert not [w for w in recwarn if "masks" in str(w.message) or "memory" in str(w.message)]


def test_the_check_of_the_masks_without_memory_for_float32(tmp_path, monkeypatch):
    """On a CPU, Linux would end the process, without an error."""
    from pyterrier_inpars.backends import _kv_cache

    path = tiny_llm.save(tmp_path / "llm", "llama")
    for available, expected in {
        1e5: {torch.bfloat16},
        1e9: {torch.float32, torch.bfloat16},
    }.items():
        ours = HuggingFaceBackend(path, dtype="bfloat16", device="cpu")
        monkeypatch.setattr(_kv_cache, "available_memory", lambda: available)  # noqa: B023
        seen = set()
        ours.model.model.norm.register_forward_hook(lambda *a: seen.add(a[2].dtype))  # noqa: B023
        ours.complete(["the gain of the receiver", "noise"], max_new_tokens=2)
        assert seen == expected and ours._supports_masks is True


def test_likelihoods(tmp_path, monkeypatch):
    path = tiny_llm.save(tmp_path / "llm", "llama")
    prompts = [" ".join(tiny_llm.WORDS[i : i + 4]) for i in range(10)]
    after = [" gain signal"] * 10
    expected = HuggingFaceBackend(path, batch_size=2, device="cpu", dtype="float32").log_likelihood(
        prompts, after
    )
    ours = HuggingFaceBackend(path, batch_size=10, device="cpu", dtype="float32")
    limited(
        monkeypatch, type(ours.model), lambda *a, **o: len(o["input_ids"] if not a else a[0]), 3
    )
    with pytest.warns(UserWarning, match="a batch of 10 does not fit"):
        found = ours.log_likelihood(prompts, after)
    for values, same in zip(found, expected, strict=True):
        assert values == pytest.approx(same, abs=1e-5)
