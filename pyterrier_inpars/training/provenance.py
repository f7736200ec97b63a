"""The account of a training: what it depended on, how it went, and a model card that tells it."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars._fingerprint import StreamFingerprint

if TYPE_CHECKING:
    import torch

TRAINING_FILE = "inpars_training.json"
"""The account of a training, in its ``output_dir`` and beside the checkpoint that ``save`` made."""


def fingerprint(frame: pd.DataFrame, text_field: str = "text") -> dict[str, Any]:
    """What tells examples from others: their number of rows, and a SHA-256 of them in order.

    It takes in the columns ``qid``, ``query``, ``docno`` and ``text_field``, and of ``label`` and
    ``score`` those that are there.
    """
    mark = StreamFingerprint()
    columns = [frame[c].astype(str) for c in ("qid", "query", "docno", text_field)]
    numbers = [pd.to_numeric(frame[c], "coerce") for c in ("label", "score") if c in frame]
    columns += [column.map(lambda x: repr(float(x))) for column in numbers]
    for row in zip(*columns, strict=True):
        mark = mark.extended(*row)
    return {"rows": mark.documents, "sha256": mark.fingerprint}


def first_weights(network: torch.nn.Module) -> str:
    """A fingerprint of a network's weights: the SHA-256 of the first 1,024 numbers of each."""
    from hashlib import sha256

    digest = sha256()
    for name, weight in network.named_parameters():
        numbers = weight.detach().flatten()[:1024].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + numbers.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions of the packages that a training depends on, of those installed."""
    found = {}
    for package in ("pyterrier_inpars", "torch", "transformers", "sentence-transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def model_card(record: dict[str, Any], kind: str) -> str:
    """A model card in the form of the Hugging Face hub, from the account of a training.

    Args:
        record: see ``Reranker.provenance``.
        kind: class of the reranker, such as ``"MonoT5"``.
    """
    told = record["settings"]
    library = "transformers" if kind == "MonoT5" else "sentence-transformers"
    arguments = told["arguments"]
    shown = ("learning_rate", "lr_scheduler_type", "weight_decay", "warmup_steps", "seed")
    rows = {
        "examples": f"{told['examples']['rows']:,} rows, SHA-256 `{told['examples']['sha256']}`",
        "recipe": told["recipe"] or "the defaults of pyterrier_inpars",
        "steps": f"{record['steps']:,} of {told['effective_batch']:,} examples",
        **{name: arguments[name] for name in shown if name in arguments},
        **({"LoRA": f"`{told['lora']}`"} if "lora" in told else {}),
        "mean training loss": f"{record['loss']:.4f}",
    }
    for name, value in _best(record["history"]).items():
        rows[f"best {name} in validation"] = f"{value:.4f}"
    rows |= record["versions"]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: {library}
tags:
- pyterrier
- inpars
- reranker
---

# {kind} trained from {told["reranker"]["model"]}

A reranker for PyTerrier, trained on synthetic queries by `pyterrier_inpars`.

```python
from pyterrier_inpars import {kind}

reranker = {kind}("path or name of this model")
pipeline = first_stage >> reranker
```

| | |
|---|---|
{table}

`{TRAINING_FILE}` has all settings and the loss curve.
"""


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    """The highest value of each measure in a log."""
    best: dict[str, float] = {}
    for entry in history:
        for name, value in entry.items():
            if name.startswith("eval_"):
                name = name.removeprefix("eval_")
                best[name] = max(value, best.get(name, value))
    return best
