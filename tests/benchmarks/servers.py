"""Queries a second from a server with a latency, and memory, as the number of documents grows.

The server is a process of its own on the same machine, whose answers take ``--latency`` seconds. A
loop over aiohttp sends the same requests first: what server and machine allow::

    python tests/benchmarks/servers.py --documents 2000 --concurrency 64 --latency 0.1
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from pyterrier_inpars import QueryGenerator, StaticPrompt, SyntheticQueries

TESTS = Path(__file__).parents[1]
PROMPT = StaticPrompt("{document}\nQuery:")


def documents(count, words):
    for i in range(count):
        yield {"docno": f"d{i}", "text": f"d{i}" + " word" * words}


async def send(url, corpus, concurrency):
    """Sends the prompts by aiohttp, and reads the answers; nothing is made of them."""

    async def worker():
        for document in prompts:
            fields = {"prompt": PROMPT.build(document["text"]), "logprobs": 1, "stop": ["\n"]}
            body = json.dumps({"model": "fault-model", "max_tokens": 64, **fields})
            async with session.post(f"{url}/completions", data=body) as response:
                json.loads(await response.read())

    prompts = iter(corpus)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*[worker() for _ in range(concurrency)])


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--documents", type=int, default=2_000)
    options.add_argument("--words", type=int, default=150)
    options.add_argument("--concurrency", type=int, default=64)
    options.add_argument("--latency", type=float, default=0.1)
    options.add_argument("--times", type=int, default=5, help="documents of the last run")
    options = options.parse_args()
    command = [sys.executable, str(TESTS / "fault_server.py"), "--latency", str(options.latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    url = server.stdout.readline().strip()
    limit = options.concurrency / options.latency
    try:
        start, cpu = time.perf_counter(), time.process_time()
        asyncio.run(send(url, documents(options.documents, options.words), options.concurrency))
        seconds = time.perf_counter() - start
        cpu = time.process_time() - cpu
        print(
            f"aiohttp alone, {options.documents:,} documents: {seconds:.2f} s, "
            f"{options.documents / seconds / limit:.1%} of concurrency / latency, "
            f"{cpu / options.documents * 1000:.2f} ms CPU a query"
        )
        # the first run imports the client
        for count in (
            options.documents // 10,
            options.documents,
            options.documents * options.times,
        ):
            generator = QueryGenerator(
                url, endpoint="completions", prompt=PROMPT, concurrency=options.concurrency
            )
            corpus = documents(count, options.words)
            with tempfile.TemporaryDirectory() as folder:
                start, cpu = time.perf_counter(), time.process_time()
                (generator >> SyntheticQueries(f"{folder}/queries")).index(corpus)
                seconds = time.perf_counter() - start
                cpu = time.process_time() - cpu
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{count:,} documents: {seconds:.2f} s, {count / seconds:.0f} queries/s, "
                f"{count / seconds / limit:.1%} of concurrency / latency, "
                f"{cpu / count * 1000:.2f} ms CPU a query, {memory:.0f} MiB at most",
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"the server used {used.ru_utime + used.ru_stime:.1f} s of CPU")


if __name__ == "__main__":
    main()
