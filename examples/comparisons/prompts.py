"""Compares prompts: what their queries are like, what they choose and what they teach.

    python examples/comparisons/prompts.py path/to/collection

Base prompts are completed by the base model, chat prompts answered by the instruct model. All get
the same documents and write one query for each; ``types`` draws the type for each document.
Queries and results are stored in ``--folder``, and a later call resumes after them.
"""

import argparse

from _measure import Run, arguments_of, compare, start

from pyterrier_inpars import ChatPrompt, StaticPrompt, load_prompt

HOW = StaticPrompt("Abstract: {document}\n\nA researcher asks: how {query}")
TYPES = ("question", "keywords", "claim", "title")


def runs(arguments: argparse.Namespace) -> list[Run]:
    """Returns the runs; the first one is the baseline of the p-values."""
    base, instruct = arguments.base_model, arguments.instruct_model
    types = {name: name for name in TYPES}
    few_shot = load_prompt("chat")
    zero_shot = ChatPrompt(few_shot.user, system=few_shot.system)
    return [
        Run("base, three-shot", base, {"prompt": "three-shot"}),
        Run("base, zero-shot", base, {"prompt": "zero-shot"}),
        Run("base, how", base, {"prompt": HOW, "stop": ["\n", "."]}),
        Run("small instruct, how", arguments.small_model, {"prompt": HOW, "stop": ["\n", "."]}),
        Run("instruct, chat", instruct, {"prompt": "chat"}),
        Run("instruct, chat zero-shot", instruct, {"prompt": zero_shot}),
        Run("instruct, types", instruct, {"prompt": types, "types": "one"}),
        Run(
            "instruct, chain of thought",
            instruct,
            {"prompt": "chain-of-thought", "max_new_tokens": 200},
        ),
    ]


if __name__ == "__main__":
    start()
    arguments = arguments_of(__doc__)
    compare(arguments, runs(arguments))
