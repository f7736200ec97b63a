"""Rerankers as artifacts of PyTerrier, which are shared as packages."""

from __future__ import annotations

import html
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyterrier as pt

from pyterrier_inpars._files import write_json
from pyterrier_inpars.training.provenance import artifact_card

METADATA_FILE = "pt_meta.json"
"""PyTerrier's file of an artifact's type and format."""


class RerankerArtifact(pt.Artifact):
    """What makes a reranker a ``pt.Artifact``.

    A folder that ``save`` wrote holds PyTerrier's metadata, so that ``pt.Artifact.load(path)``
    makes a reranker of the class that saved it. Packages for sharing hold what ``save`` would
    write, so that a reranker can be uploaded as soon as it is trained.
    """

    ARTIFACT_TYPE = "reranker"
    ARTIFACT_FORMAT: str
    """Name of the class. With the type it is that of the entry point in ``setup.py``."""
    ARTIFACT_PACKAGE_HINT = "pyterrier_inpars"
    ARTIFACT_SCHEMATIC_SHOW_AS_TRANSFORMER = True
    model: str | os.PathLike[str]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the folder of the artifact."""
        raise NotImplementedError

    def _last_provenance(self) -> dict[str, Any] | None:
        """Returns the provenance of the training that made the present weights, if there is one."""
        raise NotImplementedError

    @property
    def path(self) -> Any:  # type: ignore[override]
        """Folder that the reranker was loaded from, ``pt.Artifact.NO_PATH`` for a hub name."""
        folder = Path(self.model).expanduser()
        return folder if folder.is_dir() else pt.Artifact.NO_PATH

    def build_package(
        self, package_path: str | os.PathLike[str] | None = None, **options: Any
    ) -> str:
        """Packs what ``save`` would write into one file, as ``to_hf`` and ``to_zenodo`` do.

        Args:
            package_path: File to write, replaced if it exists. Missing parent folders are created.
                ``None`` for the reranker's folder with ``.tar.lz4``.
            **options: See ``pt.Artifact.build_package``.

        Returns:
            The file.

        Raises:
            ValueError: There is neither a path nor a folder, or the reranker cannot be saved.
            IsADirectoryError: The path is that of a folder.
        """
        if package_path is None:
            if not isinstance(self.path, Path):
                raise ValueError(
                    f"{self!r} has no folder whose name a package could have: give its path, as in "
                    f"build_package('reranker.tar.lz4')"
                )
            package_path = f"{self.path.resolve()}.tar.lz4"
        file = Path(package_path).expanduser()
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: give a file, such as {file}.tar.lz4")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            return pt.Artifact(self.save(folder)).build_package(os.fspath(file), **options)

    def _hf_readme(
        self, *, repo: str, branch: str | None = "main", pretty_name: str | None = None, **_: Any
    ) -> str:
        source = repo if branch in (None, "main") else f"{repo}@{branch}"
        return self._card(pretty_name or repo, f"pt.Artifact.from_hf({source!r})")

    def _zenodo_metadata(
        self, *, zenodo_id: str, pretty_name: str | None = None, metadata: dict[str, Any]
    ) -> dict[str, Any]:
        known = super()._zenodo_metadata(
            zenodo_id=zenodo_id, pretty_name=pretty_name, metadata=metadata
        )
        load = f"pt.Artifact.from_zenodo({str(zenodo_id)!r})"
        card = self._card(pretty_name or type(self).__name__, load).split("---\n", 2)[-1]
        return known | {"description": f"<pre>{html.escape(card.strip())}</pre>"}

    def _card(self, title: str, load: str) -> str:
        artifact = f"pyterrier-artifact.{self.ARTIFACT_TYPE}"
        tags = ["pyterrier", "pyterrier-artifact", artifact, f"{artifact}.{self.ARTIFACT_FORMAT}"]
        return artifact_card(self._last_provenance(), type(self).__name__, title, load, tags)

    def _write_metadata(self, folder: Path) -> None:
        write_json(folder / METADATA_FILE, self._build_metadata())


def other_artifact(folder: Path) -> str:
    """Returns the type of an artifact in a folder that is not a reranker; empty if there is none.

    A file of metadata that cannot be read counts as one.
    """
    file = folder / METADATA_FILE
    if not file.exists():
        return ""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["type"]
    except (OSError, ValueError, LookupError, TypeError):
        found = "unknown"
    return "" if found == RerankerArtifact.ARTIFACT_TYPE else str(found)
