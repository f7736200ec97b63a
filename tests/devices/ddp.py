"""The two steps of ddp.sh: trains tiny rerankers and records the training; compares trainings."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CASES = {
    "MonoT5 pointwise": (40, {"effective_batch": 16}),
    "MonoT5 distillation": (40, {"effective_batch": 8}),
    # with an incomplete last batch
    "CrossEncoder listwise": (42, {"effective_batch": 8}),
    # with weights selected after training
    "CrossEncoder pairwise": (42, {"effective_batch": 8, "held_out": 0.1, "eval_strategy": "no"}),
    "CrossEncoder pointwise": (42, {"effective_batch": 16, "lora": True}),
    "BiEncoder in_batch": (42, {"effective_batch": 8}),
    "BiEncoder margin_mse": (42, {"effective_batch": 8, "activation_checkpointing": True}),
}
"""Class and loss, number of queries, and training options."""


def train(folder: Path, name: str) -> None:
    import tiny_training
    import torch

    import pyterrier_inpars.rerankers

    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    # No dropout: each process would draw its own numbers.
    models = tiny_training.build(folder / f"{name}.{rank}", dropout=0.0)
    results = {}
    for case, (num_queries, training) in CASES.items():
        cls, loss = case.split()
        cls = getattr(pyterrier_inpars.rerankers, cls)
        options = {
            "loss": loss,
            "learning_rate": 1e-3,
            "num_train_epochs": 2,
            "logging_steps": 1,
            "output_dir": folder / f"{name}.{case}.output",
        }
        reranker = cls(
            models[cls],
            training=options | training,
            dtype="float32",
            device="cpu",
            verbose=True,
        )
        examples = tiny_training.make_examples(num_queries, 3, 0, "class")
        numbers = examples.index.to_series()
        examples["text"] += numbers.map(lambda i: f" {i}" + " cloud" * (i % 7))
        examples["score"] = numbers.map(lambda i: i * 7 % 11 / 2)
        seen: list[str] = []

        def note(layer: torch.nn.Module, ids: tuple, seen: list[str] = seen) -> None:
            if layer.training:
                seen.extend(" ".join(str(i) for i in row if i) for row in ids[0].tolist())

        network = getattr(reranker.network, "transformers_model", reranker.network)
        if network.config.is_encoder_decoder:
            network = network.encoder
        noting = network.get_input_embeddings().register_forward_pre_hook(note)
        reranker.fit(examples)
        noting.remove()
        reranker.save(folder / f"{name}.{case}.saved")
        results[case] = {
            "losses": [entry["loss"] for entry in reranker.history if "loss" in entry],
            "batches": reranker.provenance["batches"],
            "kept": reranker.provenance["verdict"]["kept"],
            "seen": seen,
            "weights": tiny_training.weights(reranker).tolist(),
        }
    (folder / f"{name}.{rank}.json").write_text(json.dumps(results))


def compare(folder: Path, tolerance: float) -> bool:
    runs = [json.loads((folder / f"{n}.json").read_text()) for n in ("one.0", "two.0", "two.1")]
    worst, right = 0.0, True
    for case in CASES:
        one, *two = (run[case] for run in runs)
        checks = {
            "the same examples": sorted(one["seen"])
            == sorted(two[0]["seen"] + two[1]["seen"])
            > [],
            "a half for each process": len(two[0]["seen"]) == len(two[1]["seen"]),
            "the same steps": one["batches"] == two[0]["batches"],
            "the same verdict": one["kept"] == two[0]["kept"] == two[1]["kept"],
            "a loss for each": len(two[0]["losses"]) == one["batches"]["steps"] >= 10,
            "the same weights in both": two[0]["weights"] == two[1]["weights"],
            "one checkpoint": len(list((folder / f"two.{case}.saved").glob("*.safetensors"))) == 1,
        }
        failed = [check for check, passed in checks.items() if not passed]
        pairs = zip(one["losses"], two[0]["losses"], strict=False)
        largest = max(abs(a - b) / max(1, a) for a, b in pairs)
        moved = max(abs(a - b) for a, b in zip(one["weights"], two[0]["weights"], strict=True))
        print(f"{case}: losses differ by {largest:.3g}, weights by {moved:.3g}", end="")
        print(f"; NOT {', '.join(failed)}" if failed else "; all checks passed")
        worst, right = max(worst, largest), right and not failed
    print(f"largest difference of the losses, relative above 1: {worst:.3g}", end="")
    print(f" (tolerance {tolerance:.3g})")
    return right and worst <= tolerance


if __name__ == "__main__":
    step, folder, argument = sys.argv[1:]
    if step == "train":
        train(Path(folder), argument)
    else:
        sys.exit(0 if compare(Path(folder), float(argument)) else 1)
