"""Measures which share of the processor's limit generation reaches, and what takes the rest.

    python tests/benchmarks/generation_limit.py [--beir FOLDER] [--documents 256] [--dtype float32]
        [--cpu-time]

The limit is a roofline of the two phases. Reading: each token of a document passes the layers once,
and the shared prefix of the prompts passes them once for all documents, at the rate of a product of
two square matrices of size 2,048 in the same precision. Writing: each step of a full batch passes
the layers and the output layer, and takes the longer of two times, that of its multiply-accumulate
operations (MACs) at the same rate and that of reading the weights at the memory's rate. Both rates
are measured before and after each run, and the best ones count. Attention and everything else is
not counted, so a share of 1 is not attainable.

Prints the share of each run and their median, then a profile of one more run. ``--cpu-time`` is for
a machine with other work: time of the processor, with ``OMP_NUM_THREADS=1``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
from generation import MOST, documents
from paired import processor, seconds
from precisions import precisions

from pyterrier_inpars import QueryGenerator
from pyterrier_inpars.backends.huggingface import BATCH_SIZE
from pyterrier_inpars.demo import language_model

SIDE = 2048
MEMORY = 2**30
"""Bytes that are read to measure the memory's rate: more than the caches hold."""
KINDS = {
    "linear layers": {"_linear_pointwise", "addmm", "mm", "linear"},
    "attention": {"bmm", "_softmax"},
    "copies": {"copy_", "cat", "_index_put_impl_", "index", "fill_"},
}
"""Operations of PyTorch by kind; the others are norms, activations and the choice of tokens."""


def rates(dtype: str, clock: Callable[[], float]) -> tuple[float, float]:
    """Returns the MAC/s of a matrix product, and the bytes/s that the memory gives."""
    import torch

    a, b = (torch.randn(SIDE, SIDE).to(getattr(torch, dtype)) for _ in range(2))
    numbers = torch.ones(MEMORY // 4)
    macs = min(seconds(lambda: a @ b, clock) for _ in range(5))
    memory = min(seconds(numbers.sum, clock) for _ in range(3))
    return SIDE**3 / macs, MEMORY / memory


class Work:
    """What the queries for some documents require.

    Attributes:
        read: MACs for reading the prompts.
        steps: Number of steps of full batches that the generated tokens take.
        step: MACs of a step.
        weights: Bytes of the weights that a step reads.
    """

    def __init__(self, path: str, written: pd.DataFrame, prefix: str, dtype: str):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path)
        head = model.get_output_embeddings().weight.numel()
        layers = sum(weight.numel() for weight in model.base_model.layers.parameters())
        shared = len(tokenizer(prefix)["input_ids"])
        texts = written["prompt_text"].tolist()
        tokens = sum(len(ids) - shared - 1 for ids in tokenizer(texts)["input_ids"])
        # The token that ends a query is generated, but has no log-probability in the output.
        chosen = written["log_probs"].map(len).sum() + (written["finish_reason"] == "stop").sum()
        self.read = (shared + tokens) * layers
        self.steps = int(chosen) / BATCH_SIZE
        self.step = BATCH_SIZE * (layers + head)
        self.weights = (layers + head) * getattr(torch, dtype).itemsize

    def least_seconds(self, macs: float, memory: float) -> tuple[float, float]:
        """Returns the times for reading and writing at given rates."""
        return self.read / macs, self.steps * max(self.step / macs, self.weights / memory)


def profile(generator: QueryGenerator, frame: pd.DataFrame) -> None:
    """Prints which kinds of operations the time of a run goes to."""
    import torch

    start = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as run:
        generator(frame)
        whole = time.perf_counter() - start
    times = dict.fromkeys([*KINDS, "norms, activations, choice of tokens"], 0.0)
    for event in run.key_averages():
        name = event.key.partition("::")[2]
        kind = next((kind for kind, names in KINDS.items() if name in names), list(times)[-1])
        times[kind] += event.self_cpu_time_total / 1e6
    times["Python, tokenizer"] = whole - sum(times.values())
    print(f"profile of {whole:.1f} s:")
    for kind, took in times.items():
        print(f"  {kind}: {took / whole:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beir", help="folder of a collection; default: the demo collection")
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--prompt", default="three-shot")
    parser.add_argument("--dtype", default=precisions()[-1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    path = language_model()
    frame = documents(args.beir, args.documents)
    generator = QueryGenerator(
        path, prompt=args.prompt, max_new_tokens=MOST, dtype=args.dtype, keep_prompt=True
    )
    written = generator(frame)  # loads the model
    work = Work(str(path), written, generator.prompt.prefix, args.dtype)
    print(
        f"{processor()}: {len(written)} queries require {work.read / 1e9:,.0f} GMAC of reading and "
        f"{work.steps * work.step / 1e9:,.0f} of writing, in {args.dtype}"
    )
    clock = time.process_time if args.cpu_time else time.perf_counter
    shares = []
    for _ in range(args.runs):
        before = rates(args.dtype, clock)
        took = seconds(lambda: generator(frame), clock)
        macs, memory = map(max, before, rates(args.dtype, clock))
        read, write = work.least_seconds(macs, memory)
        shares.append((read + write) / took)
        print(
            f"{took:.1f} s, {len(written) / took:.1f} queries/s; at {macs / 1e9:.0f} GMAC/s and "
            f"{memory / 1e9:.0f} GB/s at least {read:.1f} s for reading and {write:.1f} s for "
            f"writing: {shares[-1]:.2f}",
            flush=True,
        )
    print(f"median share of the limit: {statistics.median(shares):.2f}")
    profile(generator, frame)


if __name__ == "__main__":
    main()
