"""Contents of the wheel, its prompts and data after installation, light imports."""

import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import pyterrier_inpars

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyterrier_inpars"

SCRIPT = """
import sys
sys.path.append({dependencies!r})
import pandas as pd
import pyterrier as pt
import pyterrier_inpars
from pyterrier_inpars.queries.artifact import SyntheticQueries
from pyterrier_inpars.prompts import load_prompt, prompt_names

assert pyterrier_inpars.__path__ == [{home!r} + "/pyterrier_inpars"]
examples = pd.DataFrame([{{"query": f"query {{n}}", "text": f"text {{n}}"}} for n in range(9)])
for name in prompt_names():
    if name.startswith("inpars"):  # downloaded
        continue
    try:
        prompt = load_prompt(name, examples=examples)
    except ValueError:  # it has no examples
        prompt = load_prompt(name)
    assert "a document" in str(prompt.build("a document"))
entry_points = {{
    entry.name: entry
    for group in ("pyterrier.artifact", "pyterrier.dataset_provider", "console_scripts")
    for entry in pt.utils.entry_points(group)
}}
assert entry_points["synthetic_queries.inpars"].load() is SyntheticQueries
assert entry_points["pyserini"].load().__module__ == "pyterrier_inpars.datasets.lucene"
assert entry_points["pyterrier-inpars"].load().__module__ == "pyterrier_inpars.cli"
print(*prompt_names())
"""


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("build")
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "copy", ignore=skip)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, folder / "copy")
    return next(folder.glob("*.whl"))


def test_wheel_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].removesuffix(".dist-info") for name in names} == {
        "pyterrier_inpars",
        wheel.name.removesuffix("-py3-none-any.whl"),
    }
    sources = {
        file.relative_to(ROOT).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert sources == {name for name in names if name.startswith("pyterrier_inpars/")}
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    listed = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert all(
        name in listed
        for name in ("synthetic_queries.inpars", "pyserini = ", "pyterrier-inpars = ")
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_installed(wheel, tmp_path):
    """In a new environment it loads all prompts, its data and its artifact class."""
    venv.create(tmp_path / "env", symlinks=os.name == "posix")
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    home = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    options = ["--no-deps", "--no-index", "--target", home]
    run(sys.executable, "-m", "pip", "install", *options, wheel)
    dependencies = sysconfig.get_path("purelib")
    script = SCRIPT.format(home=home, dependencies=dependencies)
    names = run(python, "-c", script, cwd=tmp_path).split()
    assert {"three-shot", "zero-shot", "promptagator-fever"} <= set(names)


def test_import_is_light():
    heavy = ["torch", "transformers", "sentence_transformers", "pyserini", "jnius", "click"]
    script = f"import sys, pyterrier_inpars; print([m for m in {heavy} if m in sys.modules])"
    assert run(sys.executable, "-c", script, cwd=ROOT).strip() == "[]"


def test_the_documentation_names_every_public_object():
    text = (PACKAGE / "pt_docs" / "api.rst").read_text()
    directive = r"^\.\. (currentmodule|auto\w+):: (.+)\n(?: +:members: (.+))?"
    module, named = "", []
    for kind, name, members in re.findall(directive, text, re.MULTILINE):
        if kind == "currentmodule":
            module = name
            continue
        named.append(name if name.startswith("pyterrier_inpars.") else f"{module}.{name}")
        found = pkgutil.resolve_name(named[-1])
        assert all(hasattr(found, member) for member in members.split(", ") if member), name
    for name in pyterrier_inpars.__all__:
        full = f"pyterrier_inpars.{name}"
        assert any(n == full or n.startswith(f"{full}.") for n in named), name


def test_the_named_python_version_installs_the_pinned_packages():
    """The README, ``setup.py`` and mypy name one version, which every pinned package allows."""
    named = re.search(r"With Python ([\d.]+) or later", (ROOT / "README.md").read_text())[1]
    least = re.search(r'python_requires=">=(.+)"', (ROOT / "setup.py").read_text())[1]
    checked = re.search(r'python_version = "(.+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert named.startswith(least) and checked == least
    pins = re.findall(
        r"^([\w.-]+)==", (ROOT / "examples/constraints.txt").read_text(), re.MULTILINE
    )
    installed = {}
    for name in pins:
        try:
            installed[name] = metadata.metadata(name)["Requires-Python"] or ""
        except metadata.PackageNotFoundError:  # of an extra that is not installed
            continue
    assert {"numpy", "transformers"} <= installed.keys()
    assert not [name for name, allowed in installed.items() if named not in SpecifierSet(allowed)]


def test_citations_have_the_version_of_the_package():
    version = pyterrier_inpars.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    page = (PACKAGE / "pt_docs" / "reproducibility.rst").read_text()
    assert f"note   = {{Version {version}, " in page
