"""Kills runs over a server with faults, and compares the artifact with that of a run without any.

A share of the prompts fails once, another one for good. Each run is killed (SIGKILL) after a
random number of answers, and the next one resumes. At the end, every document must have its query
or be among ``failed``, no answer that was stored may have been requested again, and the rows must
be those of a run without faults, but for the failed documents::

    python tests/faults/kill_server_runs.py --kills 10 --documents 500
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import tiny_llm

from pyterrier_inpars import QueryGenerator, StaticPrompt, SyntheticQueries
from pyterrier_inpars.queries._answers import AnswerLog

TESTS = Path(__file__).parents[1]
PROMPT = StaticPrompt("{document}\nQuery:")


def corpus(count):
    draw = random.Random(1)
    for i in range(count):
        yield {"docno": f"d{i}", "text": f"d{i} {' '.join(draw.choices(tiny_llm.WORDS, k=20))}"}


def start(*options):
    """Starts a server as a process of its own, and returns it with its address."""
    command = [sys.executable, str(TESTS / "fault_server.py"), "--latency", "0.05", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, server.stdout.readline().strip()


def run(url, path, count):
    warnings.simplefilter("ignore")
    generator = QueryGenerator(url, endpoint="completions", prompt=PROMPT, concurrency=8)
    queries = SyntheticQueries(path, shard_size=100)
    (generator >> queries).index(corpus(count), batch_size=50)
    return queries


def stats(url):
    with urllib.request.urlopen(f"{url}/stats") as response:
        return json.load(response)


def answered(url):
    return sum(stats(url)["answered"].values())


def stored(path):
    """Docnos with an answer on the disk that a further run must not ask for."""
    docnos = {row["docno"] for file in Path(path).glob("queries-*.gz") for row in rows(file)}
    return docnos, len(AnswerLog(Path(path)))


def rows(file):
    import gzip

    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--documents", type=int, default=500)
    options.add_argument("--fail-once", default="0.1")
    options.add_argument("--fail-for-good", default="0.02")
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    draw = random.Random(options.seed)
    import openai  # noqa: F401 (so that a forked run starts at once)

    fork = multiprocessing.get_context("fork")
    plain, plain_url = start()
    faulty, url = start("--fail-once", options.fail_once, "--fail-for-good", options.fail_for_good)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path, kills, kept = f"{folder}/killed", 0, 0
            while kills < options.kills:
                child = fork.Process(target=run, args=(url, path, options.documents))
                until = answered(url) + draw.randint(1, max(1, options.documents // options.kills))
                child.start()
                while child.is_alive() and answered(url) < until:
                    time.sleep(0.02)
                child.kill()
                child.join()
                if child.exitcode != -signal.SIGKILL:
                    print(f"a run ended with {child.exitcode} after {kills} kills")
                    break
                kills += 1
                finished, answers = stored(path) if Path(path).exists() else (set(), 0)
                kept = len(finished) + answers
                print(f"kill {kills}: {len(finished)} in shards, {answers} in the log")
            time.sleep(0.5)  # the server ends what the last kill left
            before = stats(url)["answered"]
            queries = run(url, path, options.documents)
            after = stats(url)["answered"]
            whole = run(plain_url, f"{folder}/whole", options.documents)
            failed = set(queries.failed["docno"])
            found = {row["qid"]: row for row in queries.iter_results()}
            expected = {
                row["qid"]: row for row in whole.iter_results() if row["docno"] not in failed
            }
            asked_again = sum(after[prompt] - before.get(prompt, 0) for prompt in after)
            lost = sum(count - 1 for count in after.values())
            print(
                f"kills: {kills}, documents: {options.documents}, queries: {len(found)}, "
                f"failed and named: {len(failed)}, equal: {found == expected}, "
                f"answers in the last run: {asked_again}, stored before it: {kept}, "
                f"answers that a kill cut off: {lost}"
            )
            complete = len(found) + len(failed) == options.documents
            none_again = asked_again <= options.documents - kept
            return 0 if found == expected and complete and none_again else 1
    finally:
        for server in (plain, faulty):
            server.terminate()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
