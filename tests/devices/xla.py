"""The steps of xla.sh: trains tiny rerankers and reranks on a device; compares two devices."""

import json
import random
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "compute")]

CASES = ["MonoT5 pointwise", "MonoT5 listwise", "CrossEncoder listwise", "BiEncoder in_batch"]
"""Class and loss."""
LIMITS = {"MonoT5": 128, "CrossEncoder": 32, "BiEncoder": 32}
LENGTHS = {"MonoT5": 3, "CrossEncoder": 1, "BiEncoder": 1}
"""Number of padded lengths up to the limit: 32, 64 and 128, or 32 alone."""

SCORING = 3
"""Programs per shape: the test of transformers for padding, and the network with and without it."""
TRAINING = 5
"""The same with forward and backward pass, once for the first batch of a step and once for the
others, which add their gradients."""
STEP = 8
"""Programs of the optimizer, whose first step differs, and of the log."""


def allowed(case: str, action: str) -> int:
    """Most programs that may be compiled, for any number of batches."""
    lengths = LENGTHS[case.split()[0]]
    return {
        "training": TRAINING * 2 * lengths + STEP,  # the last batch is incomplete
        "training on others": TRAINING,  # a length that the last batch did not have
        "scoring": SCORING * lengths,
        "scoring unpadded": SCORING * lengths,
        "scoring others": 0,
    }[action]


def run(folder: Path, device: str) -> None:
    import torch

    torch.set_num_threads(1)
    results = {case: trial(folder, device, *case.split()) for case in CASES}
    (folder / f"{device}.json").write_text(json.dumps(results))


def trial(folder: Path, device: str, name: str, loss: str) -> dict[str, Any]:
    import tiny
    from test_xla import make_examples, shapes_of

    from pyterrier_inpars import rerankers
    from pyterrier_inpars._compute import xla

    def examples(rows: int, seed: int) -> Any:
        rng = random.Random(seed)
        frame = make_examples([round(120 ** rng.random()) for _ in range(rows)], seed)
        # batches of lists of several lengths are not filled up for sentence-transformers
        return frame if name == "MonoT5" else frame.groupby("qid").head(2)

    def programs() -> int:
        if device != "xla":
            return 0
        from torch_xla.debug import metrics

        return (metrics.metric_data("CompileTime") or [0])[0]

    counts: dict[str, Any] = {}

    def counted(action: str, reranker: Any, *args: Any) -> Any:
        shapes, before = shapes_of(reranker), programs()
        result = reranker.fit(*args) if "training" in action else reranker(*args)["score"]
        counts[action] = programs() - before, len(shapes), len(set(shapes))
        return result

    model = folder / name
    if not model.exists():  # without dropout: each device would draw its own numbers
        (tiny.tiny_t5 if name == "MonoT5" else tiny.tiny_bert)(model, dropout=0.0)
    training: dict[str, Any] = {
        "loss": loss,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    }
    if name == "MonoT5":
        training |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}
    options = {"max_length": LIMITS[name], "batch_size": 8, "dtype": "float32", "device": device}
    cls = getattr(rerankers, name)
    reranker = cls(model, training=training, **options)
    counted("training", reranker, examples(160, 0))
    losses = [entry["loss"] for entry in reranker.history if "loss" in entry]
    saved = folder / f"{name} {loss}"
    reranker.save(f"{saved} {device}")
    results = examples(120, 1)
    # The checkpoint that the CPU wrote: xla.sh trains there first.
    loaded = cls(f"{saved} cpu", **options)
    result = {
        "losses": losses,
        "scores": counted("scoring", loaded, results).tolist(),
        "own scores": reranker(results)["score"].tolist(),
    }
    counted("scoring others", loaded, examples(120, 2))
    if device == "cpu":
        return result
    mixed = training | {"train_sampling_strategy": "random"}  # lengths in any order in a step
    others = cls(model, training=mixed, **options)
    counted("training on others", others, examples(160, 3))
    # Weights saved on XLA are the same elsewhere.
    elsewhere = cls(f"{saved} xla", **options | {"device": "cpu"})(results)["score"]
    result["saved"] = elsewhere.tolist()
    if name == "MonoT5" and loss == "pointwise":
        padded, xla.on_xla = xla.on_xla, lambda device: False
        counted("scoring unpadded", loaded, results)
        xla.on_xla = padded
    result["resumed"] = resumed(folder / f"{saved} resumed", cls, examples(24, 4), options)
    return result | {"programs": counts}


def resumed(folder: Path, cls: Any, examples: Any, options: dict[str, Any]) -> float:
    """Difference of the scores after an interrupted and resumed training with dropout."""
    import pytest
    import tiny
    from transformers import Trainer

    class Stopped(BaseException):
        pass

    step = Trainer.training_step

    def stopping(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 2:
            raise Stopped
        return step(self, *args, **options)

    model = folder / "model"
    (tiny.tiny_t5 if cls.__name__ == "MonoT5" else tiny.tiny_bert)(model, dropout=0.1)
    training = {"max_steps": 4, "save_steps": 1, "learning_rate": 1e-3}
    training |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    whole, stopped, again = (
        cls(model, training=training | {"output_dir": folder / output}, **options)
        for output in ("whole", "stopped", "stopped")
    )
    whole.fit(examples)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "training_step", stopping)
        stopped.fit(examples)
    again.fit(examples)
    return float((again(examples)["score"] - whole(examples)["score"]).abs().max())


def largest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def compare(folder: Path, tolerance: float) -> bool:
    cpu, xla = (json.loads((folder / f"{device}.json").read_text()) for device in ("cpu", "xla"))
    worst, right = 0.0, True
    for case in CASES:
        one, other = cpu[case], xla[case]
        scores = largest(one["scores"], other["scores"])
        saved = largest(other["own scores"], other["saved"])
        print(f"{case}: scores of one checkpoint differ by {scores:.3g},", end="")
        print(
            f" of one saved on XLA by {saved:.3g}, losses of {len(one['losses'])} steps by", end=""
        )
        print(f" {largest(one['losses'], other['losses']):.3g}, scores after training by", end="")
        print(f" {largest(one['own scores'], other['own scores']):.3g}")
        print(f"  interrupted and resumed: scores differ by {other['resumed']:.3g} (at most 0)")
        worst, right = max(worst, scores, saved), right and other["resumed"] == 0
        for action, (programs, batches, shapes) in other["programs"].items():
            most, padded = allowed(case, action), "unpadded" not in action
            print(f"  {action}: {programs} programs for {batches} batches", end="")
            print(f" of {shapes} shapes ({'at most' if padded else 'more than'} {most})")
            right = right and (programs <= most) == padded
    for device, results in (("CPU", cpu), ("XLA", xla)):
        losses = " ".join(f"{loss:.4f}" for loss in results[CASES[0]]["losses"])
        print(f"losses of {CASES[0]} on {device}: {losses}")
    print(f"{'all within' if right else 'NOT ALL WITHIN'} the limits;", end="")
    print(" largest difference of the scores of one checkpoint", end="")
    print(f" {worst:.3g} (tolerance {tolerance:.3g})")
    return right and worst <= tolerance


if __name__ == "__main__":
    step, folder, *argument = sys.argv[1:]
    if step == "compare":
        sys.exit(0 if compare(Path(folder), float(*argument)) else 1)
    run(Path(folder), step)
