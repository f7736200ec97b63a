"""Compares language models: what their queries are like, what they choose and what they teach.

    python examples/comparisons/llms.py path/to/collection

The instruct models are prompted twice: as base models, and by their chat templates. With the
address of an OpenAI-compatible server over the instruct model (``--server``), its queries are
compared too. All get the same documents. Queries and results are stored in ``--folder``, and a
later call resumes after them.
"""

import argparse

from _measure import Run, arguments_of, compare, start


def runs(arguments: argparse.Namespace) -> list[Run]:
    """Returns the runs; the first one is the baseline of the p-values."""
    models = {
        "base": arguments.base_model,
        "small instruct": arguments.small_model,
        "instruct": arguments.instruct_model,
    }
    base = [Run(f"{name}, three-shot", m, {"prompt": "three-shot"}) for name, m in models.items()]
    chat = [
        Run(f"{name}, chat", models[name], {"prompt": "chat"})
        for name in ("small instruct", "instruct")
    ]
    if arguments.server:
        # llama.cpp's server computes one answer at a time, and for log-probabilities the logits of
        # each token of the prompt.
        options = {"prompt": "chat", "concurrency": 1, "log_probs": False}
        options["tokenizer"] = arguments.instruct_model
        chat.append(Run("instruct, chat, server", arguments.server, options))
    return [*base, *chat]


if __name__ == "__main__":
    start()
    arguments = arguments_of(__doc__)
    compare(arguments, runs(arguments))
