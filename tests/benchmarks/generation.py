"""Compares the throughput of query generation with the InPars Toolkit's loop, in queries/s.

    python tests/benchmarks/generation.py [--beir FOLDER] [--documents 256] [--peer-documents 64]
        [--peer static | generate_batch | compiled] [--peer-dtype bfloat16] [--cpu-time]

The peer encodes the whole prompt of each document in float32, in padded batches of eight, with the
model's own ``generate``, which runs until the last query of a batch has ended, and computes the
log-probability of each token from the scores of the whole vocabulary, as the toolkit does. The
toolkit ends a query at one token id, which is not a newline in every model; here the peer gets all
token ids that contain a newline in this model. Both sides get the same prompt texts and have the
model loaded. The other peers are ``generate`` of transformers with a static cache and batches of
64 prompts of similar length; its continuous batching, ``generate_batch``, with a paged KV cache and
the same limits; and this package with ``compile=True``. The first run of a peer, which may compile,
is timed separately.

Our side is the line that users type, ``(generator >> SyntheticQueries(path)).index(documents)``.
Checks first that both sides generate identical queries in float32, and prints how many are equal in
other precisions. Then runs the peer and each precision alternately, and prints the queries/s of
each run and the median of the ratios. The peer is slow, so it may get fewer documents, taken at
equal steps from those sorted by length. ``--cpu-time`` is for a machine with other work: time of
the processor, with ``OMP_NUM_THREADS=1``.
"""

import argparse
import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import pandas as pd
from more_itertools import chunked
from paired import processor, seconds
from precisions import precisions

from pyterrier_inpars import QueryGenerator, SyntheticQueries
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.demo import StdlibDocs, language_model

BATCH, MOST = 8, 64
ROWS = 64
"""Batch size of ``generate`` with a static cache."""


def documents(beir: str | None, count: int) -> pd.DataFrame:
    """Returns the first documents of a collection, by default of the demo collection."""
    corpus = StdlibDocs().get_corpus_iter()
    if beir is not None:
        from pyterrier_inpars.datasets import BeirFolder

        corpus = BeirFolder(beir).get_corpus_iter()
    return pd.DataFrame(itertools.islice(corpus, count))[["docno", "text"]]


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Returns ``count`` documents, at equal steps from the shortest to the longest."""
    by_length = frame.sort_values("text", key=lambda texts: texts.str.len(), kind="stable")
    steps = [i * len(frame) // count for i in range(count)]
    return by_length.iloc[steps].sort_index()


class Toolkit:
    """The toolkit's loop."""

    def __init__(self, path: str, dtype: str):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        vocabulary = range(len(self.tokenizer))
        self.ends = [i for i in vocabulary if "\n" in self.tokenizer.decode([i])]
        self.ends.append(self.tokenizer.eos_token_id)

    def __call__(self, prompts: list[str]) -> list[str]:
        import torch

        queries = []
        for i in range(0, len(prompts), BATCH):
            batch = self.tokenizer(prompts[i : i + BATCH], padding=True, return_tensors="pt")
            with torch.no_grad():
                outputs = self.model.generate(
                    **batch,
                    max_new_tokens=MOST,
                    do_sample=False,
                    output_scores=True,
                    return_dict_in_generate=True,
                    eos_token_id=self.ends,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            written = outputs.sequences[:, batch["input_ids"].shape[1] :]
            texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            queries += [text.split("\n")[0].strip() for text in texts]
            chances = torch.stack(outputs.scores, dim=1).log_softmax(dim=-1).max(dim=2).values
            for row, tokens in zip(chances, written, strict=True):
                row[tokens != self.tokenizer.pad_token_id].tolist()
        return queries


class Static(Toolkit):
    """``generate`` of transformers with a static cache and large batches."""

    def __call__(self, prompts: list[str]) -> list[str]:
        import torch

        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        queries = {}
        for rows in chunked(order, ROWS):
            texts = [prompts[i] for i in rows]
            batch = self.tokenizer(texts, padding=True, return_tensors="pt")
            with torch.inference_mode():
                outputs = self.model.generate(
                    **batch,
                    max_new_tokens=MOST,
                    do_sample=False,
                    cache_implementation="static",
                    eos_token_id=self.ends,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            written = outputs[:, batch["input_ids"].shape[1] :]
            texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            queries |= {i: text.split("\n")[0].strip() for i, text in zip(rows, texts, strict=True)}
        return [queries[i] for i in range(len(prompts))]


class Paged(Toolkit):
    """Continuous batching of transformers, which shares the KV cache pages of a common prefix."""

    def __call__(self, prompts: list[str]) -> list[str]:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        outputs = self.model.generate_batch(
            self.tokenizer(prompts)["input_ids"],
            GenerationConfig(
                max_new_tokens=MOST,
                do_sample=False,
                eos_token_id=self.ends,
                pad_token_id=self.tokenizer.pad_token_id,
            ),
            ContinuousBatchingConfig(page_size=16, return_logprobs=True),
        )
        texts = self.tokenizer.batch_decode(
            [output.generated_tokens for output in outputs.values()], skip_special_tokens=True
        )
        return [text.split("\n")[0].strip() for text in texts]


class Compiled:
    """This package with ``torch.compile``."""

    def __init__(self, path: str, dtype: str):
        self.backend = HuggingFaceBackend(path, dtype=dtype, compile=True)
        self.tokenizer = self.backend.tokenizer

    def __call__(self, prompts: list[str]) -> list[str]:
        shared = os.path.commonprefix(prompts)
        found = self.backend.complete(prompts, prefix=shared, max_new_tokens=MOST)
        return [completion.text for completion in found]


PEERS = {"toolkit": Toolkit, "static": Static, "generate_batch": Paged, "compiled": Compiled}


def index(generator: QueryGenerator, frame: pd.DataFrame) -> None:
    """Stores the queries for the documents."""
    with tempfile.TemporaryDirectory() as folder:
        queries = SyntheticQueries(os.path.join(folder, "queries"))
        (generator >> queries).index(frame.to_dict("records"))


def speed(write: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    return count / seconds(write, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beir", help="folder of a collection; default: the demo collection")
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--peer-documents", type=int, help="default: as many as ours")
    parser.add_argument("--peer", choices=PEERS, default="toolkit")
    parser.add_argument("--peer-dtype", default="float32")
    parser.add_argument("--prompt", default="three-shot")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=precisions())
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    path = language_model()
    frame = documents(args.beir, args.documents)
    part = spread(frame, args.peer_documents or len(frame))
    peer = PEERS[args.peer](str(path), args.peer_dtype)
    ours = {
        dtype: QueryGenerator(
            path, prompt=args.prompt, max_new_tokens=MOST, dtype=dtype, keep_prompt=True
        )
        for dtype in args.dtypes
    }
    written = {dtype: generator(part) for dtype, generator in ours.items()}  # loads the models
    first = written[args.dtypes[0]]
    prompts = first["prompt_text"].tolist()
    lengths = [len(ids) for ids in peer.tokenizer(prompts)["input_ids"]]
    print(
        f"{processor()}: {len(part)} of {len(frame)} documents, "
        f"{statistics.mean(lengths):.0f} tokens per prompt"
    )
    clock = time.process_time if args.cpu_time else time.perf_counter
    start = clock()
    theirs = peer(prompts)
    print(f"{args.peer}: first run {clock() - start:.0f} s", flush=True)
    for dtype, found in written.items():
        same = sum(a == b for a, b in zip(found["query"], theirs, strict=True))
        print(f"{dtype}: {same} of {len(theirs)} queries equal those of the peer")
        if dtype == args.peer_dtype == "float32" and same < len(theirs):
            sys.exit("the queries differ: the times are not comparable")
    sides = {
        args.peer: functools.partial(speed, lambda: peer(prompts), len(prompts), clock),
        **{
            dtype: functools.partial(
                speed, functools.partial(index, generator, frame), len(frame), clock
            )
            for dtype, generator in ours.items()
        },
    }
    ratios: dict[str, list[float]] = {dtype: [] for dtype in ours}
    for run in range(args.runs):
        order = list(sides) if run % 2 == 0 else list(sides)[::-1]
        found = {name: sides[name]() for name in order}
        print(", ".join(f"{name} {found[name]:.2f} queries/s" for name in sides), flush=True)
        for dtype in ours:
            ratios[dtype].append(found[dtype] / found[args.peer])
    for dtype, values in ratios.items():
        print(f"median ratio, {dtype} to {args.peer}: {statistics.median(values):.2f}")


if __name__ == "__main__":
    main()
