"""Measures and checks this package on a GPU, without a network; see gpu.sh.

    python tests/devices/gpu.py [--device cuda] [--shapes full | tiny] [--seconds 600]
        [--sections NAME ...] [--json FILE]

Models have the shapes of published ones and random weights, which are made on the device. Each
section is a process of its own with a limit on its time, so that a crash, a hang or a full memory
ends this section only. Its lines appear when it ends, and once more in a table at the end:

- ``pass`` or ``FAIL``: what was checked, with the value and its limit;
- ``×N``: our speed divided by the peer's. It is measured and not judged;
- ``skipped``: a peer is not installed, or the device cannot do it.

Ends with status 1 if a line fails. ``--device cpu --shapes tiny`` tests the script itself.
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "training")]

NEW_TOKENS = 32
VOCABULARY = [f"{a}{b}{c}" for a, b, c in itertools.product("bdfgklmn", "aeiou", "prstvwxz")]

LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}
T5_BASE = {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_heads": 12, "num_layers": 12}
T5_3B = {"d_model": 1024, "d_ff": 16384, "d_kv": 128, "num_heads": 32, "num_layers": 24}
MINILM = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}
TINY_LLAMA = LLAMA_1B | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
TINY_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
TINY_BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


class Shapes(NamedTuple):
    """What is measured.

    Attributes:
        llama: Language models by name: configuration and number of documents.
        t5: Shapes of MonoT5 by name: configuration, and numbers of pairs and training steps.
        bert: Shape of CrossEncoder and BiEncoder, and the same numbers.
        words: Words of a few-shot prompt, of a document to write a query for, and, at most, of one
            to rerank.
        batch: Examples of a training step, and the tokens of each.
        runs: Number of paired runs, of which the median counts.
        kinds: Architectures of `tiny_llm` to compare with the CPU; none for all.
        every: Of the ways to train, each of this number is compared with the CPU.
    """

    llama: dict[str, tuple[dict[str, Any], int]]
    t5: dict[str, tuple[dict[str, Any], int, int]]
    bert: tuple[dict[str, Any], int, int]
    words: tuple[int, int, int]
    batch: tuple[int, int]
    runs: int
    kinds: tuple[str, ...] = ()
    every: int = 1


SHAPES = {
    "full": Shapes(
        {"1B": (LLAMA_1B, 256), "7B": (LLAMA_7B, 128)},
        {"base": (T5_BASE, 1024, 10), "3B": (T5_3B, 256, 4)},
        (MINILM, 1024, 20),
        (250, 120, 240),
        (16, 256),
        3,
    ),
    "tiny": Shapes(
        {"1B": (TINY_LLAMA, 6), "7B": (TINY_LLAMA, 6)},
        {"base": (TINY_T5, 12, 2), "3B": (TINY_T5, 12, 2)},
        (TINY_BERT, 12, 2),
        (20, 10, 30),
        (4, 32),
        1,
        ("llama",),
        3,
    ),
}


class Row(NamedTuple):
    """A line of the table."""

    section: str
    what: str
    ours: str = ""
    other: str = ""
    verdict: str = ""


@dataclasses.dataclass
class Run:
    """Where a section runs, and on what."""

    device: str
    shapes: Shapes
    folder: Path
    section: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def dtype(self) -> str:
        """Precision of what is timed."""
        return "bfloat16" if self.on_gpu else "float32"

    def check(self, what: str, value: float, limit: float, most: bool = True) -> Row:
        """A value that must be at most, or at least, a limit; NaN fails."""
        passed = value <= limit if most else value >= limit
        bound = f"at {'most' if most else 'least'} {limit:g}"
        return Row(self.section, what, f"{value:.3g}", bound, "pass" if passed else "FAIL")

    def speed(self, what: str, unit: str, ours: float, other: float, name: str) -> Row:
        """Our speed beside a peer's."""
        return Row(
            self.section,
            what,
            f"{ours:,.1f} {unit}",
            f"{name} {other:,.1f}",
            f"×{ours / other:.2f}",
        )

    def note(self, what: str, ours: str, other: str = "", verdict: str = "measured") -> Row:
        return Row(self.section, what, ours, other, verdict)

    def seconds(self, work: Callable[[], object]) -> float:
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def paired(self, *sides: Callable[[], object]) -> list[float]:
        """Runs the sides in turn, in alternating order; returns the median seconds of each."""
        took: list[list[float]] = [[] for _ in sides]
        for run in range(self.shapes.runs):
            numbers = range(len(sides))
            for i in numbers if run % 2 else reversed(numbers):
                took[i].append(self.seconds(sides[i]))
        return [statistics.median(values) for values in took]

    def synchronize(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()

    def rows_that_fit(self, most: int, size: float) -> int:
        """The number of rows, at least 1, of which each takes so many bytes.

        Half of the free memory is left for what else a batch takes, such as logits and copies.
        """
        if not self.on_gpu:
            return most
        import torch

        self.forget_memory()
        free, _ = torch.cuda.mem_get_info()
        return max(1, min(most, int(free / 2 / size)))

    def forget_memory(self) -> int:
        """Frees what is cached, and returns the bytes that are still allocated on the GPU."""
        import gc

        import torch

        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def limit_memory(self, size: float) -> None:
        """Limits what this process may allocate on the GPU, in bytes."""
        import torch

        self.forget_memory()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))


# -- Models and texts ------------------------------------------------------------------------


def words(count: int, seed: int) -> str:
    import random

    return " ".join(random.Random(seed).choices(VOCABULARY, k=count))


def word_tokenizer(size: int) -> Any:
    """One token per word; numbers fill the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<eos>", "<unk>", *VOCABULARY]
    pieces += map(str, range(size - len(pieces)))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def language_model(run: Run, shape: dict[str, Any], dtype: str) -> Any:
    """A backend whose Llama of a shape is made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

    config = LlamaConfig(**shape, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    path = run.folder / "llama"
    config.save_pretrained(path)
    word_tokenizer(shape["vocab_size"]).save_pretrained(path)
    torch.manual_seed(0)
    with torch.device(run.device):
        model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, dtype))
    backend = HuggingFaceBackend(path, device=run.device, dtype=dtype)
    backend.model = model.eval()  # a checkpoint of 14 GB would take the time of a section
    return backend


def query_generator(run: Run, backend: Any) -> Any:
    from pyterrier_inpars import QueryGenerator, StaticPrompt

    # The last word is one of the vocabulary: a model with tied random weights repeats it.
    prompt = StaticPrompt(
        f"{words(run.shapes.words[0], 0)}\n{{document}}\n{VOCABULARY[0]} {{query}}"
    )
    return QueryGenerator(backend, prompt=prompt, max_new_tokens=NEW_TOKENS, keep_prompt=True)


def documents(run: Run, count: int) -> Any:
    """Documents of half to one and a half times the usual length."""
    import pandas as pd

    usual = run.shapes.words[1]
    lengths = [usual // 2 + i * 37 % (usual + 1) for i in range(count)]
    texts = [words(n, 1 + i) for i, n in enumerate(lengths)]
    return pd.DataFrame({"docno": [f"d{i}" for i in range(count)], "text": texts})


def pairs(run: Run, count: int, full: bool = False) -> Any:
    """Query-document pairs of mixed length, or all as long as the network reads."""
    import pandas as pd

    most = run.shapes.words[2]
    rows = []
    for i in range(count):
        length = 4 * most if full else 5 + i * 7919 % most
        rows.append((str(i // 2), words(6, -1 - i // 2), f"d{i}", words(length, i), 1 - i % 2))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])
    return frame.assign(score=0.0, rank=0)


def monot5_model(run: Run, name: str) -> str:
    """Saves a T5 of a shape, unless another section has."""
    import tiny
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    path, unfinished = (run.folder / f"t5-{name}{end}" for end in ("", "-unfinished"))
    if path.exists():
        return str(path)
    tokenizer = tiny.t5_tokenizer(("true", "false"), VOCABULARY)
    config = T5Config(
        **run.shapes.t5[name][0],
        vocab_size=32128,
        n_positions=512,
        decoder_start_token_id=tokenizer.pad_token_id,
        dropout_rate=0.0,
    )
    torch.manual_seed(0)
    with torch.device(run.device):
        network = T5ForConditionalGeneration(config)
    network.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(path)
    return str(path)


def encoder_model(run: Run, head: bool) -> str:
    """Saves a MiniLM with or without a scoring head."""
    import tiny
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    path = run.folder / f"minilm-{head}"
    known = tiny.bert_tokenizer().get_vocab()
    vocabulary = [*sorted(known, key=known.__getitem__), *VOCABULARY]
    config = BertConfig(
        **run.shapes.bert[0],
        vocab_size=30522,
        max_position_embeddings=512,
        num_labels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,  # spreads the scores
    )
    torch.manual_seed(0)
    (BertForSequenceClassification if head else BertModel)(config).save_pretrained(path)
    BertTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)}, model_max_length=256
    ).save_pretrained(path)
    return str(path)


# -- Sections --------------------------------------------------------------------------------


def equality(run: Run) -> Iterator[Row]:
    """Compares results on the device with those on the CPU."""
    import numpy as np
    import pandas as pd
    import tiny_llm

    from pyterrier_inpars import BiEncoder, CrossEncoder, MonoT5, QueryGenerator
    from pyterrier_inpars.backends.huggingface import HuggingFaceBackend

    texts = [" ".join(tiny_llm.WORDS[i : i + 3 + i % 4]) for i in range(12)]
    frame = pd.DataFrame({"docno": [f"d{i}" for i in range(12)], "text": texts})
    for kind in run.shapes.kinds or tiny_llm.CONFIGS:
        path = tiny_llm.save(run.folder / kind, kind)
        for what, sampling in {"greedy": {}, "sampled": {"temperature": 0.7, "top_p": 0.9}}.items():
            options = {"prompt": "zero-shot", "max_new_tokens": 8, "sampling": sampling}
            cpu, ours = (
                QueryGenerator(path, dtype="float32", device=device, batch_size=5, **options)(frame)
                for device in ("cpu", run.device)
            )
            ours = cpu[["qid", "query"]].merge(ours, on="qid", how="left", suffixes=("", "_ours"))
            equal = float((ours["query"] == ours["query_ours"]).mean())
            yield run.check(f"{kind}, {what}: equal queries, float32", equal, 1.0, most=False)
        scores = [
            HuggingFaceBackend(path, dtype=dtype, device=device).log_likelihood(
                texts, [" gain signal"] * len(texts)
            )
            for device, dtype in [
                ("cpu", "float32"),
                (run.device, "float32"),
                (run.device, "bfloat16"),
            ]
        ]
        cpu, single, half = ([value for row in rows for value in row] for rows in scores)
        furthest = float(np.abs(np.subtract(cpu, single)).max())
        yield run.check(f"{kind}: log-probabilities, float32, furthest", furthest, 1e-2)
        alike = float(np.corrcoef(cpu, half)[0, 1])
        yield run.check(f"{kind}: log-probabilities, bfloat16, correlation", alike, 0.98, False)

    varied = {"num_hidden_layers": 2, "tie_word_embeddings": False, "initializer_range": 0.1}
    backend = language_model(run, run.shapes.llama["1B"][0] | varied, "float32")
    found = query_generator(run, backend)(documents(run, 8))
    generated = transformers_generate(backend, found["prompt_text"].tolist(), 8)
    equal = float(np.mean([a == b for a, b in zip(found["query"], generated, strict=True)]))
    yield run.check("Llama 1B, two layers: queries of generate, float32", equal, 0.8, False)
    del backend

    models = {
        MonoT5: monot5_model(run, "base"),
        CrossEncoder: encoder_model(run, head=True),
        BiEncoder: encoder_model(run, head=False),
    }
    some = pairs(run, 48).drop(columns="label")
    for cls, path in models.items():
        cpu, single, half = (
            cls(path, device=device, dtype=dtype)(some)["score"].to_numpy()
            for device, dtype in [
                ("cpu", "float32"),
                (run.device, "float32"),
                (run.device, "bfloat16"),
            ]
        )
        furthest = float(np.abs(cpu - single).max() / cpu.std())
        name = cls.__name__
        yield run.check(f"{name}: scores, float32, furthest/deviation", furthest, 1e-2)
        alike = float(np.corrcoef(cpu, half)[0, 1])
        yield run.check(f"{name}: scores, bfloat16, correlation", alike, 0.95, False)
    yield from equal_training(run)


def equal_training(run: Run) -> Iterator[Row]:
    """Compares the losses of trainings on the device with those on the CPU."""
    import numpy as np
    import tiny_training

    from pyterrier_inpars.rerankers import BiEncoder

    models = tiny_training.build(run.folder / "trained", dropout=0.0)
    examples = tiny_training.make_examples(12, 2, 0, "pair")
    ways = [(cls, {}) for cls in models] + [(cls, {"lora": True}) for cls in models]
    ways += [(BiEncoder, {"mini_batch_size": 2})]
    for cls, more in ways[:: run.shapes.every]:
        training = tiny_training.QUICK | {"max_steps": 5, "logging_steps": 1} | more

        def losses(
            device: str, dtype: str, cls: type = cls, training: dict[str, Any] = training
        ) -> list[float]:
            reranker = cls(models[cls], device=device, dtype=dtype, training=training)
            reranker.fit(examples)
            return [entry["loss"] for entry in reranker.history if "loss" in entry]

        what = ", ".join([cls.__name__, *more])
        cpu = losses("cpu", "float32")
        for dtype, limit in {"float32": 1e-3, "bfloat16": 0.1}.items():
            furthest = float(np.abs(np.subtract(losses(run.device, dtype), cpu)).max())
            yield run.check(f"training, {what}: losses, {dtype}, furthest", furthest, limit)


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """The model's attention in place of this package's, which it has on a CPU."""
    ours = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(ours)


def transformers_generate(backend: Any, prompts: list[str], rows: int) -> list[str]:
    """The queries of transformers' ``generate``, in padded batches of similar length."""
    import torch

    texts: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        batch = backend.tokenizer(
            [prompts[i] for i in part],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(backend.device)
        with torch.inference_mode(), own_attention(backend.model):
            out = backend.model.generate(
                **batch,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        new = out[:, batch["input_ids"].shape[1] :]
        decoded = backend.tokenizer.batch_decode(new, skip_special_tokens=True)
        texts.update(zip(part, decoded, strict=True))
    return [texts[i].strip() for i in range(len(prompts))]


def transformers_generate_batch(backend: Any, prompts: list[str]) -> int:
    """The number of tokens that transformers' continuous batching writes."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    on_gpu = backend.device.type == "cuda"
    limits = {} if on_gpu else {"num_blocks": 256, "max_batch_tokens": 256}  # else all memory
    with own_attention(backend.model):
        outputs = backend.model.generate_batch(
            backend.tokenizer(prompts)["input_ids"],
            GenerationConfig(
                max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            ContinuousBatchingConfig(page_size=16, **limits),
        )
    return sum(len(output.generated_tokens) for output in outputs.values())


def bytes_per_token(model: Any) -> float:
    """Bytes of the keys and values of a token in all layers."""
    config = model.config
    size = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return 2.0 * config.num_hidden_layers * size * model.dtype.itemsize


def generation(run: Run, name: str) -> Iterator[Row]:
    """Measures queries per second beside transformers', with the prompts that users send."""
    from pyterrier_inpars._compute.memory_limit import is_out_of_memory

    shape, count = run.shapes.llama[name]
    backend = language_model(run, shape, run.dtype)
    # generate keeps keys and values of whole prompts
    longest = run.shapes.words[0] + 3 * run.shapes.words[1] // 2 + NEW_TOKENS
    rows = run.rows_that_fit(min(64, count), longest * bytes_per_token(backend.model))
    backend.batch_size = rows
    generator, frame = query_generator(run, backend), documents(run, count)
    found = generator(frame)  # also warms up
    prompts = found["prompt_text"].tolist()
    tokens = sum(map(len, found["log_probs"]))
    least = count * NEW_TOKENS
    yield run.check(f"Llama {name}: tokens written", tokens, 0.95 * least, most=False)
    yield run.note(f"Llama {name}: prompts", f"{len(prompts[0].split())} tokens, {count} queries")
    ours = run.seconds(lambda: generator(frame))
    what = f"Llama {name}, {run.dtype}, {backend._most_rows} rows"
    try:
        texts = transformers_generate(backend, prompts[:rows], rows)
        same = sum(a == b for a, b in zip(found["query"], texts, strict=False))
        yield run.note(f"Llama {name}: queries of generate, {run.dtype}", f"{same} of {rows}")
        ours, peer = run.paired(
            lambda: generator(frame), lambda: transformers_generate(backend, prompts, rows)
        )
        yield run.speed(what, "queries/s", count / ours, count / peer, f"generate ({rows})")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        yield run.note(what, f"{count / ours:,.1f} queries/s", "generate: out of memory", "skipped")
    yield run.note(f"{what}: 100,000 queries", f"{100_000 / count * ours / 3600:.1f} h")
    if run.on_gpu:
        run.forget_memory()
        generator(frame)
        yield run.note(f"{what}: peak memory", peak(run))
    try:
        written = transformers_generate_batch(backend, prompts[:8])
        if written != len(prompts[:8]) * NEW_TOKENS:
            raise RuntimeError(f"it wrote {written} tokens")
        ours, peer = run.paired(
            lambda: generator(frame), lambda: transformers_generate_batch(backend, prompts)
        )
        yield run.speed(what, "queries/s", count / ours, count / peer, "generate_batch")
    except Exception as error:  # what it needs depends on its version and the device
        yield run.note(
            f"{what}: generate_batch", f"{type(error).__name__}: {error}"[:60], "", "skipped"
        )


def reranking(run: Run) -> Iterator[Row]:
    """Measures pairs per second beside pyterrier_t5 and sentence-transformers."""
    for name, (_, count, _) in run.shapes.t5.items():
        yield from monot5_speed(run, name, count)
    yield from encoder_speed(run)


def monot5_speed(run: Run, name: str, count: int) -> Iterator[Row]:
    import numpy as np

    from pyterrier_inpars import MonoT5

    path, frame = monot5_model(run, name), pairs(run, count).drop(columns="label")
    try:
        from pyterrier_t5 import MonoT5ReRanker
    except ImportError as error:
        yield run.note(f"MonoT5 {name}: pyterrier_t5", str(error), "", "skipped")
        MonoT5ReRanker = None
    peer = None
    if MonoT5ReRanker is not None and name == "base":
        peer = MonoT5ReRanker(path, path, batch_size=1, device=run.device, verbose=False)
    for dtype in ("float32", "bfloat16") if name == "base" else (run.dtype,):
        ours = MonoT5(path, device=run.device, dtype=dtype, batch_size=64)
        ours(frame)
        what = f"MonoT5 {name}, {dtype}"
        if peer is None:
            took = run.seconds(lambda ours=ours: ours(frame))
            yield run.note(what, f"{count / took:,.1f} pairs/s")
            continue
        if dtype == "float32":
            peer.batch_size = 1  # its scores depend on the other rows of a batch
            some = frame.head(32)
            furthest = np.abs(ours(some)["score"] - peer(some)["score"]).max()
            yield run.check("MonoT5 base: scores of pyterrier_t5, furthest", float(furthest), 1e-3)
        else:
            peer.model.bfloat16()
        peer.batch_size = 64
        peer(frame.head(64))
        took, other = run.paired(lambda ours=ours: ours(frame), lambda: peer(frame))
        yield run.speed(what, "pairs/s", count / took, count / other, "pyterrier_t5 (64)")
    if run.on_gpu:
        del peer  # or its weights would count
        run.forget_memory()
        ours(frame)
        yield run.note(f"{what}: peak memory", peak(run))


def encoder_speed(run: Run) -> Iterator[Row]:
    import numpy as np
    import sentence_transformers as st
    import torch

    from pyterrier_inpars import BiEncoder, CrossEncoder

    frame = pairs(run, run.shapes.bert[1]).drop(columns="label")
    texts = frame["text"].tolist()
    both = frame[["query", "text"]].to_numpy().tolist()
    paths = {True: encoder_model(run, True), False: encoder_model(run, False)}
    for dtype in ("float32", "bfloat16"):
        options: dict[str, Any] = {"device": run.device}
        options["model_kwargs"] = {"dtype": getattr(torch, dtype)}
        cross = CrossEncoder(paths[True], device=run.device, dtype=dtype, batch_size=256)
        encoder = BiEncoder(paths[False], device=run.device, dtype=dtype, batch_size=256)
        cross_peer = st.CrossEncoder(
            paths[True], activation_fn=torch.nn.Identity(), max_length=256, **options
        )
        peer = st.SentenceTransformer(paths[False], **options)
        ways: dict[str, tuple[str, Callable[[], Any], Callable[[int], Any]]] = {
            "CrossEncoder": (
                "pairs/s",
                lambda cross=cross: cross(frame)["score"].to_numpy(),
                lambda size, net=cross_peer: net.predict(
                    both, batch_size=size, show_progress_bar=False
                ),
            ),
            "BiEncoder": (
                "texts/s",
                lambda encoder=encoder: encoder.encode(texts),
                lambda size, net=peer: net.encode(
                    texts, batch_size=size, show_progress_bar=False, normalize_embeddings=True
                ),
            ),
        }
        for name, (unit, ours, theirs) in ways.items():
            found, expected = np.asarray(ours()), np.asarray(theirs(32))
            alike = float(np.corrcoef(found.ravel(), expected.ravel())[0, 1])
            least = 0.9999 if dtype == "float32" else 0.95
            yield run.check(f"{name}: correlation with the peer, {dtype}", alike, least, False)
            took = {size: run.seconds(lambda s=size, t=theirs: t(s)) for size in (32, 128, 512)}
            best = min(took, key=took.__getitem__)
            mine, other = run.paired(ours, lambda best=best, t=theirs: t(best))
            count = len(frame)
            yield run.speed(
                f"{name}, {dtype}",
                unit,
                count / mine,
                count / other,
                f"sentence-transformers ({best})",
            )


def training(run: Run) -> Iterator[Row]:
    """Measures examples per second, and the memory beside its estimate."""
    from pyterrier_inpars import CrossEncoder, MonoT5
    from pyterrier_inpars.training.memory import estimate_memory

    lora, checkpointing = {"lora": True}, {"activation_checkpointing": True}
    steps = run.shapes.bert[2]
    paths = {name: monot5_model(run, name) for name in run.shapes.t5}
    ways: list[tuple[str, type, str, int, dict[str, Any]]] = [
        ("MonoT5 base", MonoT5, paths["base"], run.shapes.t5["base"][2], {}),
        ("MonoT5 base, LoRA", MonoT5, paths["base"], run.shapes.t5["base"][2], lora),
        (
            "MonoT5 3B, LoRA, checkpointing",
            MonoT5,
            paths["3B"],
            run.shapes.t5["3B"][2],
            lora | checkpointing,
        ),
        ("CrossEncoder", CrossEncoder, encoder_model(run, True), steps, {"loss": "pointwise"}),
    ]
    size, tokens = run.shapes.batch
    for what, cls, path, steps, more in ways:
        fixed = {
            "held_out": 0,
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": 1,
        }
        examples = pairs(run, size * (steps + 1), full=True)

        def fit(
            steps: int,
            cls: type = cls,
            path: str = path,
            training: dict[str, Any] = fixed | more,
            examples: Any = examples,
        ) -> float:
            reranker = cls(
                path,
                device=run.device,
                dtype=run.dtype,
                max_length=tokens,
                training=training | {"max_steps": steps},
            )
            reranker.network  # noqa: B018  (loads it)
            return run.seconds(lambda: reranker.fit(examples))

        fit(1)  # warms up
        first = fit(1)
        before = run.forget_memory() if run.on_gpu else 0
        took = fit(1 + steps)
        speed = f"{steps * size / (took - first):,.1f} examples/s" if took > first else "too short"
        yield run.note(f"{what}, {run.dtype}", speed)
        if not run.on_gpu:
            continue
        import torch

        measured = torch.cuda.max_memory_allocated() - before
        estimated = estimate_memory(
            path,
            size,
            tokens,
            run.dtype,
            lora=more.get("lora"),
            activation_checkpointing="activation_checkpointing" in more,
        ).total
        share = measured / estimated
        yield Row(
            run.section,
            f"{what}: memory",
            f"{measured / 2**30:.2f} GiB",
            f"estimate {estimated / 2**30:.2f}",
            f"{'pass' if 0.75 <= share <= 1.35 else 'FAIL'} ×{share:.2f}",
        )


def memory(run: Run) -> Iterator[Row]:
    """Checks that what does not fit is computed in smaller batches, with equal results."""
    import numpy as np

    from pyterrier_inpars import CrossEncoder

    if not run.on_gpu:
        yield run.note("limited memory", "of a GPU only", "", "skipped")
        return

    def generates() -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
        shape, count = run.shapes.llama["1B"]
        backend = language_model(run, shape | {"num_hidden_layers": 4}, "float32")
        generator, frame = query_generator(run, backend), documents(run, count)
        return lambda: generator(frame)["query"], lambda a, b: float((a != b).mean())

    def reranks() -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
        path = encoder_model(run, True)
        cross = CrossEncoder(path, device=run.device, dtype="float32", batch_size=1024)
        some = pairs(run, run.shapes.bert[1], full=True).drop(columns="label")
        return (
            lambda: cross(some)["score"],
            lambda a, b: float(np.abs(a - b).max() / b.std()),
        )

    for what, made in {"generation": generates, "CrossEncoder": reranks}.items():
        work, difference = made()
        yield from limited(run, what, work, difference)
        del work, difference
    half = language_model(run, run.shapes.llama["1B"][0], "bfloat16")
    run.limit_memory(1.4 * run.forget_memory())  # float32 weights take 2
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        query_generator(run, half)(documents(run, 4))
    wrong = sum("masks" in str(w.message) for w in shown)
    yield run.check("masks checked where float32 weights do not fit", wrong, 0)


def limited(
    run: Run, what: str, work: Callable[[], Any], difference: Callable[[Any, Any], float]
) -> Iterator[Row]:
    """Repeats the work with a third of the memory that its batches take."""
    import torch

    work()  # loads, checks and warms up
    before = run.forget_memory()
    expected = work()
    most = torch.cuda.max_memory_allocated() - before
    run.limit_memory(before + most / 3)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        found = work()
    run.limit_memory(float("inf"))
    halved = sum("does not fit into memory" in str(w.message) for w in shown)
    yield run.check(f"{what}: times that a batch was halved", halved, 1, most=False)
    yield run.check(f"{what}: results that differ", difference(found, expected), 0.1)


SECTIONS: dict[str, tuple[Callable[[Run], Iterator[Row]], float]] = {
    "equality": (equality, 100),
    "generation 1B": (lambda run: generation(run, "1B"), 60),
    "generation 7B": (lambda run: generation(run, "7B"), 90),
    "reranking": (reranking, 120),
    "training": (training, 180),
    "memory": (memory, 40),
}
"""Sections, and the seconds that each may take."""


# -- Running ---------------------------------------------------------------------------------


def peak(run: Run) -> str:
    import torch

    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def rows_of(name: str, run: Run) -> Iterator[Row]:
    """Runs a section in this process; an error is a line that fails."""
    run.section = name
    try:
        yield from SECTIONS[name][0](run)
    except Exception as error:
        traceback.print_exc()
        yield run.note(f"{type(error).__name__}", str(error).replace("\n", " ")[:100], "", "FAIL")


def in_process(name: str, command: list[str], limit: float) -> list[Row]:
    """Runs a section in a process of its own, and ends it at its limit; prints its lines.

    Args:
        name: Name of the section.
        command: Command whose lines on standard output are rows in JSON.
        limit: Seconds.
    """
    rows: list[Row] = []
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            out, _ = process.communicate(timeout=max(1.0, limit))
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            rows.append(Row(name, "time limit", f"{limit:.0f} s", "", "FAIL"))
        found = [Row(**json.loads(line)) for line in out.splitlines() if line.startswith("{")]
        if process.returncode != 0 and not rows:
            rows.append(Row(name, "status", str(process.returncode), "", "FAIL"))
        rows = [*found, *rows]
        if any("FAIL" in row.verdict for row in rows):
            errors.seek(0)
            print(errors.read()[-3000:], file=sys.stderr)
    for row in rows:
        print(" | ".join(row), flush=True)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as columns."""
    cells = [Row._fields, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(Row._fields))]
    lines = ["  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def machine(device: str) -> str:
    """Names of the device and versions, from a process of its own."""
    code = (
        "import torch, transformers, sentence_transformers as st; "
        f"gpu = {device!r}.startswith('cuda'); "
        "name = torch.cuda.get_device_name(0) if gpu else 'CPU'; "
        "print(f'{name}, torch {torch.__version__}, transformers {transformers.__version__}, '"
        "f'sentence-transformers {st.__version__}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or (done.stderr.strip().splitlines() or ["?"])[-1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", choices=SHAPES, default="full")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--here", choices=SECTIONS, help="run a section in this process")
    parser.add_argument("--folder", type=Path, help="folder of the models, for --here")
    args = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if args.here:
        run = Run(args.device, SHAPES[args.shapes], args.folder)
        for row in rows_of(args.here, run):
            print(json.dumps(row._asdict()), flush=True)
        return 0
    start = time.monotonic()
    print(machine(args.device), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:  # of all sections: a T5 3B has 11 GB
        for name in args.sections:
            left = args.seconds - (time.monotonic() - start)
            command = [sys.executable, __file__, "--here", name, "--folder", folder]
            command += ["--device", args.device, "--shapes", args.shapes]
            rows += in_process(name, command, min(SECTIONS[name][1], left))
    print(f"\n{table(rows)}")
    failed = sum("FAIL" in row.verdict for row in rows)
    print(f"\n{len(rows)} lines, {failed} failed, {time.monotonic() - start:.0f} s")
    if args.json:
        Path(args.json).write_text(json.dumps([row._asdict() for row in rows], indent=1))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
