"""What the folder of `SyntheticQueries` holds, also while it is being written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pyterrier_inpars._counted import counted
from pyterrier_inpars._progress import rate
from pyterrier_inpars.queries._manifest import COMPLETE, stored_shards


@dataclass(frozen=True)
class Status:
    """What an artifact holds; its ``repr`` is a table.

    Attributes:
        state: ``empty``, ``unfinished`` or ``complete``.
        documents: Number of documents whose queries are stored.
        queries: Number of stored queries.
        failed: Number of documents that lack queries because a prompt failed.
        unanswered: Number of these whose prompts the same ``index()`` tries again.
        shards: Number of shards, a partial one included.
        size: Size of the folder in bytes.
        model: Model of the generator; None if it is not known.
        prompt: Its prompt, as in the settings; None if it is not known.
        started: When the first shard was written, by the time of its file; None without shards.
        written: When the last shard was written.
        queries_per_second: Speed between these two; None with fewer than two shards.
    """

    state: str
    documents: int = 0
    queries: int = 0
    failed: int = 0
    unanswered: int = 0
    shards: int = 0
    size: int = 0
    model: str | None = None
    prompt: Any = None
    started: datetime | None = None
    written: datetime | None = None
    queries_per_second: float | None = None

    def shown(self) -> dict[str, str | None]:
        """Returns names and values as people read them; None for what is not known."""
        if self.state == "empty":
            return {"state": self.state}
        speed = rate(self.queries_per_second or 0, 1)
        return {
            "state": self.state,
            "documents": f"{self.documents:,}",
            "queries": f"{self.queries:,}",
            "failed": self._shown_failures(),
            "shards": f"{self.shards:,}",
            "size": _size(self.size),
            "model": self.model,
            "prompt": _name(self.prompt),
            "first written": _time(self.started),
            "last written": _time(self.written),
            "speed": speed and speed.replace("/", " queries/"),
        }

    def _shown_failures(self) -> str | None:
        again = f", {self.unanswered:,} to be tried again by index()" if self.unanswered else ""
        return counted(self.failed, "document") + again if self.failed else None

    def __repr__(self) -> str:
        return "\n".join(f"{name:14} {value}" for name, value in self.shown().items() if value)


def status_of(folder: Path, manifest: dict[str, Any] | None) -> Status:
    """Returns what a folder holds according to its manifest."""
    size = sum(_stat(file, "st_size") or 0 for file in folder.glob("*"))
    if manifest is None:
        return Status("empty", size=size)
    shards = stored_shards(manifest)
    times = [time for entry in shards if (time := _stat(folder / entry["file"], "st_mtime"))]
    seconds = times[-1] - times[0] if times else 0
    later = sum(entry["queries"] for entry in shards[1:])
    settings = manifest["settings"] or {}
    return Status(
        state="complete" if (folder / COMPLETE).is_file() else "unfinished",
        documents=sum(entry["documents"] for entry in shards),
        queries=sum(entry["queries"] for entry in shards),
        failed=sum(len(entry.get("failed", ())) for entry in shards),
        unanswered=sum(len(entry.get("unanswered", ())) for entry in shards),
        shards=len(shards),
        size=size,
        model=settings.get("model"),
        prompt=settings.get("prompt"),
        started=datetime.fromtimestamp(times[0]) if times else None,
        written=datetime.fromtimestamp(times[-1]) if times else None,
        queries_per_second=later / seconds if later and seconds > 0 else None,
    )


def _stat(file: Path, field: str) -> Any:
    """Returns a field of ``os.stat``; None for a file that a writer has just removed."""
    try:
        return getattr(file.stat(), field)
    except OSError:
        return None


def _time(value: datetime | None) -> str | None:
    return None if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def _size(count: float) -> str:
    unit = "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if count >= 1000:
            count, unit = count / 1000, larger
    return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"


def _name(prompt: Any) -> str | None:
    """Returns a prompt of the settings in one line, cut after some words."""
    if prompt is None:
        return None
    shown = " ".join(str(prompt).split())
    return shown if len(shown) <= 120 else shown[:119] + "…"
