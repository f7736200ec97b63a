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
            exported = getattr(module, "__all__", None)
            own = thing.__module__ == module.__name__
            ours = thing.__module__.partition(".")[0] == "pyterrier_inpars"
            if own if exported is None else ours and name in exported:
                yield f"{module.__name__}.{name}", thing


def test_every_page_is_linked_and_has_a_picture_or_words(html):
    pages = {page.stem for page in DOCS.glob("*.rst")}
    assert {page.stem for page in html.glob("*.html")} >= pages
    front = (html / "index.html").read_text()
    assert all(f'href="{page}.html"' in front for page in pages - {"index"})


def test_pipelines_are_drawn(html):
    drawn = [page.stem for page in html.glob("*.html") if "pts-transformer" in page.read_text()]
    assert {"tour", "filters", "mining", "rerankers", "dense", "long_documents", "caching"} <= set(
        drawn
    )


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
        "datasets.exports",
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


def test_broken_pages_fail_the_build(tmp_path):
    """With a warning for each, from a single build."""
    pages = {
        "error": ".. schematic::\n\n   1 / 0",
        "red": ".. schematic::\n   :input_columns: qid, query\n\n"
        "   import pyterrier_inpars\n   pyterrier_inpars.CopyFilter()",
        "related": ".. related:: pyterrier_inpars.Nothing",
        "link": "See :doc:`nowhere`.",
    }
    messages = ["ZeroDivisionError", "columns are missing", "is not documented", "nowhere"]
    (tmp_path / "source").mkdir()
    index = ".. toctree::\n\n" + "".join(f"   {name}\n" for name in pages)
    for name, text in {"index": index, **pages}.items():
        (tmp_path / "source" / f"{name}.rst").write_text(f"Page\n====\n\n{text}\n")
    done = build(tmp_path / "source", tmp_path / "out")
    assert done.returncode != 0
    for name, message in zip(pages, messages, strict=True):
        lines = [line for line in done.stderr.splitlines() if f"{name}.rst" in line]
        assert any(message in line for line in lines), done.stderr
