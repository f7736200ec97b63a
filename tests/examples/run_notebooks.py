"""Executes notebooks, and stores them without what differs from run to run.

    python tests/examples/run_notebooks.py [NAME...]

This renews the outputs of ``examples/notebooks``. What is executed runs in a temporary folder.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
TIMEOUT = 1800
"""Seconds for one cell, for a slow or busy machine too."""
HIDDEN = {
    r" at 0x[0-9a-f]+": "",  # addresses in memory
    r'<tr><th scope="row">(first|last) \w+</th><td>[^<]*</td></tr>': "",  # times
    r"\S*ipykernel_\d+\S+\.py:\d+: ": "",  # the cell that a warning is about
    re.escape(str(Path.home())): "~",
}
"""What differs from run to run or from machine to machine in outputs, and what replaces it."""


def execute(notebook, folder):
    """Executes all cells in a folder; raises ``CellExecutionError`` at the first error."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=TIMEOUT, resources=resources, record_timing=False, kernel_name="python3"
    ).execute()
    return notebook


def clean(notebook):
    """Removes what depends on the machine or the run from metadata and outputs."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {}
            if "text" in output:
                output.text = _without_differences(output.text)
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = _without_differences(text)
    return notebook


def _without_differences(text):
    for pattern, replacement in HIDDEN.items():
        text = re.sub(pattern, replacement, text)
    return text


def main(names):
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in [path for path in paths if not names or path.stem in names]:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(nbformat.read(path, as_version=4), folder)
        nbformat.write(clean(notebook), path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
