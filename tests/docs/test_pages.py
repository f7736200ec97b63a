"""The pages build without warnings, and document every public name."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from snippets import DOCS, ROOT

import pyterrier_inpars

pytest.importorskip("sphinx", reason="needs the extra docs")
pytest.importorskip("furo", reason="needs the extra docs")

HERE = Path(__file__).parent


def build(source, out):
    command = ["-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-c", HERE, source, out]
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The built pages."""
    out = tmp_path_factory.mktemp("html")
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def documented(html):
    """Dotted names of the documented objects."""
    content = (html / "objects.inv").read_bytes().split(b"\n", 4)[4]
    items = (line.split() for line in zlib.decompress(content).decode().splitlines())
    return {name for name, kind, *_ in items if kind.startswith("py:")}


def public_names():
    """Dotted names of what the package and its public modules define or export."""
    modules = [pyterrier_inpars] + [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(pyterrier_inpars.__path__, "pyterrier_inpars.")
        if not any(part.startswith("_") for part in info.name.split("."))
    ]
    for module in modules:
        for name, thing in vars(module).items():
            if name.startswith("_") or not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            exported = name in getattr(module, "__all__", [name])
            if exported and thing.__module__.partition(".")[0] == "pyterrier_inpars":
                yield f"{module.__name__}.{name}", thing


def test_every_page_is_linked_and_has_a_picture_or_words(html):
    pages = {page.stem for page in DOCS.glob("*.rst")}
    assert {page.stem for page in html.glob("*.html")} >= pages
    front = (html / "index.html").read_text()
    assert all(f'href="{page}.html"' in front for page in pages - {"index"})


def test_pipelines_are_drawn(html):
    drawn = [page.stem for page in html.glob("*.html") if "pts-transformer" in page.read_text()]
    assert {"tour", "filters", "mining", "rerankers"} <= set(drawn)


def test_every_exported_name_is_documented(documented):
    exported = {f"pyterrier_inpars.{name}" for name in pyterrier_inpars.__all__}
    modules = {
        name
        for name in exported
        if inspect.ismodule(getattr(pyterrier_inpars, name.rpartition(".")[2]))
    }
    assert exported - modules <= documented


@pytest.mark.parametrize(
    "module",
    [
        "backends.base",
        "backends.huggingface",
        "backends.pyterrier_rag",
        "datasets",
        "datasets.beir",
        "datasets.published",
        "datasets.toolkit_files",
        "demo",
        "distributed",
        "evaluation",
        "training.losses",
        "training.memory",
    ],
)
def test_every_name_of_a_module_is_documented(module, documented):
    """Under the module itself, or under the package where the package exports it."""
    prefix = f"pyterrier_inpars.{module}."
    names = [(name, thing) for name, thing in public_names() if name.startswith(prefix)]
    here = [(name, thing) for name, thing in names if "." not in name.removeprefix(prefix)]
    assert here
    homes = {id(thing): name for name, thing in public_names() if name in documented}
    missing = [name for name, thing in here if name not in documented and id(thing) not in homes]
    assert not missing


def test_public_methods_of_the_stages_are_documented(documented):
    """What a class defines itself, and what of its base classes users call."""
    expected = {
        "SyntheticQueries": [
            "index",
            "verify",
            "get_results",
            "get_topics",
            "get_qrels",
            "metadata",
            "fewshot_topics",
        ],
        "Prompt": ["load", "build"],
        "MonoT5": ["fit", "save"],
        "CrossEncoder": ["fit", "save"],
        "BiEncoder": ["fit", "save"],
        "LuceneIndex": ["index", "bm25", "prebuilt"],
    }
    names = {f"pyterrier_inpars.{c}.{m}" for c, methods in expected.items() for m in methods}
    assert names <= documented


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".. schematic::\n\n   1 / 0", "ZeroDivisionError"),
        (
            ".. schematic::\n   :input_columns: qid, query\n\n"
            "   import pyterrier_inpars\n   pyterrier_inpars.CopyFilter()",
            "columns are missing",
        ),
        (".. related:: pyterrier_inpars.Nothing", "is not documented"),
        ("See :doc:`nowhere`.", "nowhere"),
    ],
)
def test_a_broken_page_fails_the_build(text, message, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "index.rst").write_text(f"Page\n====\n\n{text}\n")
    done = build(tmp_path / "source", tmp_path / "out")
    assert done.returncode != 0
    assert message in done.stderr
