"""Compares the time to the first query of a new process with that of llama.cpp's server.

    python tests/benchmarks/first_query.py --llama-python /path/to/venv/bin/python --gguf model.gguf
        [--model FOLDER] [--runs 3] [--threads 2]

The peer is the server of ``llama-cpp-python`` in an environment of its own, timed from the start of
its process to the answer of the first request; before, it refuses connections. Ours is a process
that imports the package, makes a ``QueryGenerator`` and applies it to one document. ``--gguf`` and
``--model`` are the same weights: the file of the demo's Gemma 3 270M in Q4_K_M, and the folder that
``demo.language_model()`` converts it to once, which is not timed. Both sides complete the same
zero-shot prompt greedily, to at most 32 tokens. Files are in the disk cache after a first run of
each side. Prints the time of each run, what both write, and the median of the ratios.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

from paired import processor

DOCUMENT = (
    "Coral polyps host algae in their tissue. When the water is too warm, they expel the algae and "
    "turn white, which is called bleaching."
)
PROMPT = "zero-shot"
TOKENS = 32
OURS = f"""
import sys
from pyterrier_inpars import QueryGenerator
generator = QueryGenerator(sys.argv[1], prompt={PROMPT!r}, max_new_tokens={TOKENS}, device="cpu")
print(generator([{{"docno": "d1", "text": {DOCUMENT!r}}}])[0]["query"])
"""


def ours(model: str, environment: dict[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    command = [sys.executable, "-c", OURS, model]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, run.stdout.strip().splitlines()[-1]


def peer(
    python: str, gguf: str, threads: int, environment: dict[str, str], prompt: str
) -> tuple[float, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "llama_cpp.server", "--model", gguf, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--n_ctx", "2048", "--n_threads", str(threads)]
    start = time.perf_counter()
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        answer = completion(server, f"http://127.0.0.1:{port}/v1/completions", prompt)
        return time.perf_counter() - start, answer
    finally:
        server.terminate()
        server.wait()


def completion(server: subprocess.Popen, url: str, prompt: str) -> str:
    """Returns the completion of the prompt, as soon as the server answers."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stop": ["\n"]}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while server.poll() is None:
        try:
            with urllib.request.urlopen(request) as response:
                return str(json.load(response)["choices"][0]["text"]).strip()
        except urllib.error.URLError:
            time.sleep(0.02)
    sys.exit(f"the server ended with status {server.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--model", help="default: the demo's language model")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    from pyterrier_inpars import demo, load_prompt

    model = args.model or demo.language_model()
    prompt = load_prompt(PROMPT).build(DOCUMENT)
    # Modules are compiled in both environments, as after an installation.
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    print(f"{processor()}, {args.threads} threads", flush=True)
    ratios = []
    for run in range(args.runs + 1):
        theirs = peer(args.llama_python, args.gguf, args.threads, environment, prompt)
        own = ours(model, environment)
        print(f"peer {theirs[0]:.1f} s, {theirs[1]!r}; ours {own[0]:.1f} s, {own[1]!r}", flush=True)
        if not theirs[1] or not own[1]:
            sys.exit("a side wrote no query")
        if run:  # the first one fills the disk cache
            ratios.append(theirs[0] / own[0])
    print(f"median ratio, peer to ours: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
