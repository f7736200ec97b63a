"""The two steps of ddp.sh: trains a tiny monoT5 and notes what happened, and compares trainings."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def train(folder: Path, name: str) -> None:
    import tiny
    import torch
    from test_training import make_examples, weights

    from pyterrier_inpars.rerankers import MonoT5

    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    # No dropout, whose numbers each process draws for itself.
    model = tiny.tiny_t5(folder / f"{name}.{rank}", dropout=0.0)
    training = {"effective_batch": 16, "learning_rate": 1e-3, "num_train_epochs": 2}
    reranker = MonoT5(
        model,
        training=training | {"logging_steps": 1},
        output_dir=folder / f"{name}.output",
        dtype="float32",
        device="cpu",
        verbose=True,
    )
    seen: list[str] = []
    batch = reranker._batch

    def noted(queries: list[str], texts: list[str]) -> object:
        seen.extend(texts)
        return batch(queries, texts)

    reranker._batch = noted
    examples = make_examples(40, 3, 0, "class")
    examples["text"] += [f" {i}" for i in range(len(examples))]  # to tell them apart
    reranker.fit(examples)
    reranker.save(folder / f"{name}.saved")
    out = {
        "losses": [entry["loss"] for entry in reranker.history if "loss" in entry],
        "batches": reranker.provenance["batches"],
        "seen": seen,
        "weights": weights(reranker).tolist(),
    }
    (folder / f"{name}.{rank}.json").write_text(json.dumps(out))


def compare(folder: Path, tolerance: float) -> bool:
    one = json.loads((folder / "one.0.json").read_text())
    two = [json.loads((folder / f"two.{rank}.json").read_text()) for rank in (0, 1)]
    checks = {
        "the same examples in all": sorted(one["seen"]) == sorted(two[0]["seen"] + two[1]["seen"]),
        "a half for each process": len(two[0]["seen"]) == len(two[1]["seen"]),
        "the same number and size of steps": one["batches"] == two[0]["batches"],
        "the same weights in both processes": two[0]["weights"] == two[1]["weights"],
        "a loss for each step": len(one["losses"]) == len(two[0]["losses"]) == 20,
        "one checkpoint": len(list((folder / "two.saved").glob("*.safetensors"))) == 1,
    }
    for check, passed in checks.items():
        print(f"{check}: {'yes' if passed else 'NO'}")
    pairs = zip(one["losses"], two[0]["losses"], strict=True)
    largest = max(abs(a - b) for a, b in pairs)
    print(f"largest difference of the losses: {largest:.3g} (tolerance {tolerance:.3g})")
    return all(checks.values()) and largest <= tolerance


if __name__ == "__main__":
    step, folder, argument = sys.argv[1:]
    if step == "train":
        train(Path(folder), argument)
    else:
        sys.exit(0 if compare(Path(folder), float(argument)) else 1)
