"""Fuzzes the file readers with atheris: an unexpected exception is a finding.

    pip install atheris
    python tests/fuzz/readers.py            # every reader for 20 seconds
    python tests/fuzz/readers.py qrels -max_total_time=300

The options are those of libFuzzer. Expected are a ValueError or OSError whose message names
the file. A finding ends the run with a traceback and a file ``crash-...`` with the input.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pyterrier_inpars", "json", "csv", "yaml"]):
    import pandas as pd

    from pyterrier_inpars import Prompt, SyntheticQueries, datasets
    from pyterrier_inpars.datasets import toolkit_files

# A reader, the name of its file, and a file that it can read.
JSON_LINES = "queries.jsonl"
READERS = {
    "queries": (
        toolkit_files.read_queries,
        JSON_LINES,
        '{"doc_id": "1", "query": "q", "text": "t", "log_probs": [-1.5], "score": -1, "qid": "a"}\n'
        '{"docno": 2, "question": "q", "doc_text": "\\ud83d\\ude00", "fewshot_examples": ["3"]}\n',
    ),
    "fewshot": (
        toolkit_files.read_fewshot,
        JSON_LINES,
        '{"query_id": "1", "doc_id": 2, "query": "q", "document": "d"}\n',
    ),
    "triples": (
        toolkit_files.read_triples,
        "t.tsv",
        'q\tp\tn\r\n"q ""x"""\tp\tn\nq\t"a\n\tb"\tn\n"q\tp"\tn\n',
    ),
    "pairs": (toolkit_files.read_pairs, "t.tsv", "q\tp\t1\nq\tn\t0\n"),
    "run": (toolkit_files.read_run, "r.trec", "1 Q0 d1 0 1.5 x\n1 Q0 d2 1 -1e3 x\n"),
    "qrels": (datasets.read_qrels, "q.tsv", "query-id\tcorpus-id\tscore\n1\td1\t1\n2 0 d2 -1\n"),
    "corpus": (datasets.read_corpus, JSON_LINES, '{"_id": "1", "title": "t", "text": "d"}\n'),
    "table": (datasets.read_corpus, "c.csv", '\ufeffdocno,text\n1,"a ""b"""\n'),
    "plain": (datasets.read_corpus, "c.tsv", '0\t"a\n1\tb"\n'),
    "topics": (datasets.read_topics, "t.tsv", "qid\tquery\n1\ta\n"),
    "yaml": (
        lambda path: Prompt.load(path, "p"),
        "p.yaml",
        "p:\n  mode: static\n  template: |\n    {document} {query}\nq: &a [1, *a]\n",
    ),
    "manifest": (
        lambda path: SyntheticQueries(path.parent).get_results(),
        "pt_meta.json",
        json.dumps(
            {
                "type": "synthetic_queries",
                "format": "inpars",
                "documents": 1,
                "queries": 1,
                "fingerprint": "0" * 64,
                "settings": {"model": "m", "fewshot_topics": [{"qid": "1", "query": "q"}]},
                "versions": [{"from_shard": 0, "packages": {}}],
                "shards": [{"file": "x", "sha256": "0", "documents": 1, "queries": 1}],
            }
        ),
    ),
}


def fuzz(name: str, options: list[str]) -> None:
    """Runs one reader until libFuzzer ends it."""
    reader, file, example = READERS[name]
    folder = Path(tempfile.mkdtemp())
    (folder / "seeds").mkdir()
    (folder / "seeds" / "example").write_text(example, encoding="utf-8")
    (folder / "in").mkdir()
    path = folder / "in" / file

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = reader(path)
            if not isinstance(found, pd.DataFrame | Prompt):
                pd.DataFrame(found)  # which holds no half of a character
        except (ValueError, OSError) as error:
            if str(path.parent) not in str(error) and "template" not in str(error):
                raise

    read(example.encode())
    atheris.Setup([sys.argv[0], str(folder / "seeds"), "-max_len=400", *options], read)
    atheris.Fuzz()


def main() -> None:
    """Runs the reader that is named, or one after the other in processes of their own."""
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    if names:
        fuzz(names[0], options)
    for name in READERS:
        print(f"--- {name}", flush=True)
        subprocess.run([sys.executable, __file__, name, "-max_total_time=20", *options], check=True)


if __name__ == "__main__":
    main()
