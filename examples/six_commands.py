"""Runs the command line from a collection to a trained reranker, with the demo models.

    pip install -c examples/constraints.txt ".[demo]" && python examples/six_commands.py FOLDER

FOLDER is a collection in BEIR's layout, with topics and qrels. Prints each command before it runs.
"""

import argparse
import shlex
from pathlib import Path

from pyterrier_inpars.cli import main

# Without the beginning of the query, a model this small copies the document.
PROMPT = "Abstract: {document}\n\nThis article is about the {query}\n"

COMMANDS = """
generate --base_model demo --prompt {out}/prompt.txt --dataset {collection} --max_doc_length 128
    --max_new_tokens 24 --max_generations {documents} --output {out}/queries.jsonl
filter --input {out}/queries.jsonl --filter_strategy round_trip --k 1 --dataset {collection}
    --skip_questions_copied_from_context --output {out}/filtered.jsonl
triples --input {out}/filtered.jsonl --dataset {collection} --n_samples 1 --max_hits 100
    --output {out}/triples.tsv
train --triples {out}/triples.tsv --base_model demo --max_doc_length 128 --output_dir {out}/model
rerank --model demo --dataset {collection} --top_k 100 --output_run {out}/untrained.run
rerank --model {out}/model --dataset {collection} --top_k 100 --output_run {out}/trained.run
evaluate --run bm25 --run {out}/untrained.run --run {out}/trained.run --dataset {collection}
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--documents", type=int, default=320, help="number of source documents")
    parser.add_argument(
        "--out", type=Path, default=Path("six-commands"), help="folder of the results"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "prompt.txt").write_text(PROMPT)
    for command in COMMANDS.strip().replace("\n    ", " ").splitlines():
        words = [word.format(**vars(arguments)) for word in command.split()]
        print("\n$ pyterrier-inpars", shlex.join(words), flush=True)
        main(words)
