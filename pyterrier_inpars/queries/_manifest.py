"""The manifest of `SyntheticQueries`: a JSON file that lists the shards of an artifact.

Fields of a manifest:

- ``type``, ``format``, ``package_hint``: PyTerrier's metadata of an artifact.
- ``documents``, ``fingerprint``: position in the corpus at which the last shard ends.
- ``source_documents``: number of distinct docnos, if ``documents`` counts rows since no generator
  was in the pipeline.
- ``queries``: number of queries in all shards.
- ``settings``: settings of the generator, None before the first shard, and if nobody gave those of
  stored rows.
- ``stages``: the stages between generator and artifact, each as its ``repr``; None before the first
  shard. Artifacts of version 0.1 lack this field.
- ``versions``: package versions, with the number of the first shard written with them.
- ``shards``: one entry per shard: ``file``, ``sha256``, ``documents``, ``queries``,
  ``fingerprint``, ``failed`` (errors by docno) if prompts failed, ``unanswered`` (docnos of those
  that the next run tries again) if any, and ``packages`` if the shard was regenerated with other
  bytes, or has queries of a later run with other packages.
- ``open``: entry of the partial shard that an interrupted run kept, if any.
"""

import json
from pathlib import Path
from typing import Any

from pyterrier_inpars._fingerprint import StreamFingerprint

COMPLETE = "pt_meta.json"
"""Name of the manifest of a complete artifact: PyTerrier's metadata file."""
UNFINISHED = "progress.json"
"""Name of the manifest until the end of the corpus is reached."""


def manifest_file(folder: Path) -> Path | None:
    """Returns the path of the current manifest, or None if there is none."""
    files = (folder / COMPLETE, folder / UNFINISHED)
    return next((file for file in files if file.is_file()), None)


def new_manifest(metadata: dict[str, str]) -> dict[str, Any]:
    """Returns the manifest of an artifact without shards.

    Args:
        metadata: PyTerrier's ``type``, ``format`` and ``package_hint``.
    """
    return {
        **metadata,
        **StreamFingerprint()._asdict(),
        "queries": 0,
        "settings": None,
        "stages": None,
        "versions": [],
        "shards": [],
    }


def read_manifest(folder: Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    """Reads the current manifest of a folder and checks it.

    Args:
        folder: Folder of the artifact.
        metadata: Expected ``type`` and ``format``.

    Returns:
        The manifest, or None if there is none.

    Raises:
        FileExistsError: The folder holds an artifact of another type or format.
        ValueError: The manifest is damaged; the error names the file.
    """
    file = manifest_file(folder)
    if file is None:
        return None
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:  # a writer has just renamed it
        return read_manifest(folder, metadata)
    except (ValueError, RecursionError) as error:
        raise _damaged(file) from error
    if not isinstance(manifest, dict):
        raise _damaged(file)
    kind = manifest.get("type"), manifest.get("format")
    if kind != (metadata["type"], metadata["format"]):
        raise FileExistsError(f"{folder} holds another artifact, of type and format {kind}")
    if not _is_consistent(manifest):
        raise _damaged(file)
    return manifest


def shard_ends(manifest: dict[str, Any]) -> list[StreamFingerprint]:
    """Returns the position in the corpus at which each shard ends, in order."""
    ends, documents = [], 0
    for entry in manifest["shards"]:
        documents += entry["documents"]
        ends.append(StreamFingerprint(documents, entry["fingerprint"]))
    return ends


def stored_shards(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of all shards, that of a partial shard included."""
    return [*manifest["shards"], *([manifest["open"]] if manifest.get("open") else [])]


def stored_documents(manifest: dict[str, Any]) -> int:
    """Returns the number of documents whose queries are stored, in a partial shard too."""
    return sum(entry["documents"] for entry in stored_shards(manifest))


def joined_parts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the provenance of the parts that `SyntheticQueries.concat` joined, by name."""
    parts = (manifest["settings"] or {}).get("parts")
    known = parts.items() if isinstance(parts, dict) else []
    return {
        name: part
        for name, part in known
        if isinstance(part, dict) and {"settings", "versions"} <= part.keys()
    }


def without_partial_shard(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of the manifest without the entry of a partial shard."""
    return {key: value for key, value in manifest.items() if key != "open"}


def shard_name(number: int) -> str:
    """Returns the file name of a shard."""
    return f"queries-{number:05d}.jsonl.gz"


def partial_shard_name(number: int, documents: int) -> str:
    """Returns the file name of a partial shard with this number of documents."""
    return f"queries-{number:05d}-{documents}.open"


def _damaged(file: Path) -> ValueError:
    return ValueError(
        f"the manifest {file} is damaged: restore {file.name} from a copy of the artifact, or "
        "index into another path"
    )


def _is_consistent(manifest: dict[str, Any]) -> bool:
    """Returns whether all fields are there and the totals are the sums over the shards."""
    try:
        shards, partial = manifest["shards"], manifest.get("open")
        return (
            all(_is_entry(entry, shard_name(number)) for number, entry in enumerate(shards))
            and (
                partial is None
                or _is_entry(partial, partial_shard_name(len(shards), partial["documents"]))
            )
            and manifest["documents"] == sum(entry["documents"] for entry in shards)
            and manifest["queries"] == sum(entry["queries"] for entry in shards)
            and manifest["fingerprint"]
            == ([StreamFingerprint()] + shard_ends(manifest))[-1].fingerprint
            and isinstance(manifest["versions"], list)
            and isinstance(manifest["settings"], dict | None)
            and isinstance(manifest.get("stages"), list | None)
        )
    except (LookupError, TypeError):
        return False


def _is_entry(entry: dict[str, Any], name: str) -> bool:
    """Returns whether this can be the entry of the shard with this file name."""
    return (
        entry["file"] == name
        and all(isinstance(entry[field], str) for field in ("sha256", "fingerprint"))
        and all(type(entry[field]) is int for field in ("documents", "queries"))
        and entry["documents"] > 0 <= entry["queries"]
    )
