"""Measures which share of the processor's matrix product rate generation reaches.

    python tests/benchmarks/generation_limit.py [--beir FOLDER] [--documents 256] [--dtype float32]

Counts the multiply-accumulate operations (MACs) that the weights of the model require: each token
of a document and each generated token passes the layers once, the shared prefix of the prompts
passes them once for all documents, and the output layer is computed only where a token is chosen.
Attention and everything else is not counted, so a share of 1 is not attainable. The reference is
the rate of a product of two square matrices of size 2,048 in the same precision, the best one
before and after each run. Prints the median share at the end.
"""

import argparse
import statistics
import time

import pandas as pd
from generation import MOST, documents
from precisions import precisions

from pyterrier_inpars import QueryGenerator
from pyterrier_inpars.demo import language_model

SIDE = 2048


def rate(dtype: str) -> float:
    """Returns the MAC/s of a matrix product."""
    import torch

    a, b = (torch.randn(SIDE, SIDE).to(getattr(torch, dtype)) for _ in range(2))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return SIDE**3 / min(times)


def needed(path: str, prompt_texts: list[str], written: pd.DataFrame, prefix: str) -> int:
    """Returns the number of MACs that the weights require."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    head = model.get_output_embeddings().weight.numel()
    layers = sum(weight.numel() for weight in model.base_model.layers.parameters())
    shared = len(tokenizer(prefix)["input_ids"])
    read = sum(len(ids) - shared for ids in tokenizer(prompt_texts)["input_ids"])
    # The token that ends a query is generated, but has no log-probability in the output.
    chosen = written["log_probs"].map(len).sum() + (written["finish_reason"] == "stop").sum()
    return int((shared + read + chosen - len(written)) * layers + chosen * head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beir", help="folder of a collection; default: the demo collection")
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--prompt", default="three-shot")
    parser.add_argument("--dtype", default=precisions()[-1])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    path = language_model()
    frame = documents(args.beir, args.documents)
    generator = QueryGenerator(
        path, prompt=args.prompt, max_new_tokens=MOST, dtype=args.dtype, keep_prompt=True
    )
    written = generator(frame)  # loads the model
    work = needed(str(path), written["prompt_text"].tolist(), written, generator.prompt.prefix)
    print(f"{len(written)} queries require {work / 1e9:,.0f} GMAC")
    shares = []
    for _ in range(args.runs):
        before = rate(args.dtype)
        start = time.perf_counter()
        generator(frame)
        took = time.perf_counter() - start
        best = max(before, rate(args.dtype))
        shares.append(work / took / best)
        print(
            f"{took:.1f} s, {len(written) / took:.1f} queries/s, {work / took / 1e9:.0f} of "
            f"{best / 1e9:.0f} GMAC/s: {shares[-1]:.2f}",
            flush=True,
        )
    print(f"median share of the matrix rate: {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
