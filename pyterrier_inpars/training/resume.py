"""Resuming an interrupted training from the checkpoints in its ``output_dir``."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from pyterrier_inpars._files import write_json
from pyterrier_inpars._fingerprint import settings_difference
from pyterrier_inpars.training.provenance import TRAINING_FILE

WEIGHTS_FOLDER = "weights-"
"""Prefix of the temporary folders, in ``output_dir``, of weights to select from."""
NEXT = (
    "give another output_dir, or training={'overwrite': True} to remove its checkpoints and train "
    "from the start"
)


def open_output_dir(
    folder: Path, provenance: dict[str, Any], args: Any, overwrite: bool
) -> Path | None:
    """Prepares the folder of a run, and finds the checkpoint to resume from.

    The first process removes incomplete checkpoints, and with ``overwrite``, or if that training
    diverged, all of them.

    Args:
        folder: ``output_dir``, created if missing.
        provenance: Provenance of the run, whose settings must be those in the folder.
        args: ``TrainingArguments`` of the run.
        overwrite: Whether an earlier training in the folder is discarded.

    Returns:
        The last complete checkpoint, or ``None`` to train from the start.

    Raises:
        ValueError: The training in the folder has other data or settings.
        FileExistsError: The training in the folder is finished, or is not one of this package.
    """
    file = folder / TRAINING_FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step)
    complete = [path for path in checkpoints if _is_complete(path, args.world_size)]
    if overwrite or (known is not None and known.get("diverged")):
        complete, known = [], None
    elif known is None and checkpoints:
        raise FileExistsError(
            f"{folder} holds checkpoints of another training, without {TRAINING_FILE}: {NEXT}"
        )
    elif known is not None and known["finished"]:
        raise FileExistsError(f"{folder} holds a finished training: {NEXT}")
    elif known is not None and complete:
        if other := settings_difference(known["settings"], provenance["settings"]):
            raise ValueError(
                f"the training in {folder} has other data or settings:\n{other}\n"
                f"Resume it with those, or {NEXT}"
            )
        if other := settings_difference(known["versions"], provenance["versions"]):
            warnings.warn(f"{folder} is resumed with other packages:\n{other}", stacklevel=2)
    args.distributed_state.wait_for_everyone()
    if args.process_index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for path in {*checkpoints, *folder.glob(f"{WEIGHTS_FOLDER}*")} - {*complete}:
            shutil.rmtree(path)
        write_json(file, provenance)
    args.distributed_state.wait_for_everyone()
    return complete[-1] if complete else None


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the state that the trainer wrote into a checkpoint, log and callbacks included."""
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_complete(checkpoint: Path, processes: int) -> bool:
    """Returns whether a checkpoint was written to its end, and nothing was removed since."""
    random_states = (
        ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    )
    files = ("optimizer.pt", "scheduler.pt", *random_states)
    if not all((checkpoint / file).exists() for file in files):
        return False
    try:  # the last file that the trainer writes
        return trainer_state(checkpoint)["global_step"] == _step(checkpoint) and any(
            checkpoint.rglob("*.safetensors")
        )
    except (OSError, ValueError):
        return False
