"""Writes queries through a running server twice, and checks them and their log-probabilities::

python tests/servers/check_server.py http://127.0.0.1:8000/v1 chat
"""

import argparse
import time
import urllib.error
import urllib.request

from pyterrier_inpars import ChatPrompt, QueryGenerator, demo, load_prompt

_ASK = load_prompt("chat")
PROMPTS = {"chat": ChatPrompt(_ASK.user, system=_ASK.system), "completions": "zero-shot"}
"""Prompts without examples: reading a prompt takes most of the time of a server on a processor."""


def wait_for(url, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return urllib.request.urlopen(f"{url}/models").read()
        except urllib.error.URLError:
            time.sleep(0.5)
    raise TimeoutError(f"no server at {url} after {seconds} s")


def writer(options, **limits):
    """Returns a generator that asks the server for one answer at a time."""
    return QueryGenerator(
        options.url,
        endpoint=options.endpoint,
        prompt=PROMPTS[options.endpoint],
        max_doc_tokens=32,
        concurrency=1,
        **limits,
    )


def sample(options, documents):
    """Returns two sampled queries for each document, up to a stop string."""
    sampling = {"temperature": 1.0, "top_p": 0.95, "seed": 3}
    generator = writer(
        options, max_new_tokens=12, num_queries=2, sampling=sampling, stop=["z", "\n"]
    )
    queries = [row["query"] for row in generator.transform_iter(documents)]
    assert not any("z" in query for query in queries)
    return queries


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("endpoint", choices=["chat", "completions"])
    options.add_argument("--documents", type=int, default=8)
    options.add_argument("--log-probs", action="store_true", help="the server must give them")
    options = options.parse_args()
    wait_for(options.url)
    documents = demo.StdlibDocs().get_corpus_iter()
    documents = [next(documents) for _ in range(options.documents)]
    generator = writer(options, max_new_tokens=24)
    first, second = (generator.transform_iter(documents) for _ in range(2))
    for row in first:
        score = f"{row['score']:.2f}" if "score" in row else "no score"
        print(f"{row['qid']}: {row['query']} ({score}, {row['finish_reason']})")
    assert first, f"no queries; failed: {generator.failed}"
    assert [row["query"] for row in first] == [row["query"] for row in second]
    assert all(value <= 0 for row in first for value in row.get("log_probs", []))
    assert not options.log_probs or all(row["log_probs"] for row in first)
    sampled, again = (sample(options, documents) for _ in range(2))
    assert len(sampled) >= len(documents) and sampled == again, "seeds have no effect"
    assert sampled != [row["query"] for row in first]
    print(f"{len(first)} queries for {options.documents} documents, equal in two runs")


if __name__ == "__main__":
    main()
