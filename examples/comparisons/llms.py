"""Compares language models: what their queries are like, and whether they choose a system well.

    python examples/comparisons/llms.py path/to/collection

The instruct model is prompted twice: as a base model, and by its chat template. All get the same
documents. Queries and results are stored in ``--folder``, and a later call resumes after them.
"""

import argparse

from _measure import Bench, Run, arguments_of, compare, start


def runs(arguments: argparse.Namespace) -> list[Run]:
    """Returns the runs; the first one is the baseline of the p-values."""
    base, instruct = arguments.base_model, arguments.instruct_model
    return [
        Run("base, three-shot", base, {"prompt": "three-shot"}),
        Run("instruct, three-shot", instruct, {"prompt": "three-shot"}),
        Run("instruct, chat", instruct, {"prompt": "chat"}),
    ]


if __name__ == "__main__":
    start()
    arguments = arguments_of(__doc__)
    compare(Bench(arguments), runs(arguments))
