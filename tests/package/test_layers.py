"""Imports run one way: no circle among modules, and no room imports one above it."""

import ast
import graphlib
import importlib
import sys
from pathlib import Path

import pyterrier_inpars

PACKAGE = Path(pyterrier_inpars.__file__).parent

LAYERS = [  # from the bottom to the top; a room may import those below its own line
    ["_errors", "_files", "_fingerprint", "_html", "_hub", "_measures", "_names", "_passages"],
    ["_progress", "_stack_level"],
    ["_arguments", "_quiet", "_scores", "_significance", "_words"],
    ["_stage"],
    ["_compute", "_counted", "_native_output", "_ray_workers"],
    ["_retrieval", "_similarity"],
    ["_text_sources", "backends", "queries", "training"],
    ["datasets"],
    ["prompts"],
    ["evaluation", "filtering", "generation", "judging", "mining", "rerankers"],
    ["demo", "distributed", "report"],
    ["pyterrier_inpars"],
    ["cli"],
    ["__main__"],
]


def modules():
    """The package's modules by name, with their files."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file, known):
    """The package's modules that a file imports, in functions and for type checks too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            if (node.module or "") in known:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in known else node.module for name in names)


def room(module):
    return (module.split(".") + ["pyterrier_inpars"])[1] if "." in module else "pyterrier_inpars"


def graph():
    known = modules()
    return {name: set(imports(file, known)) - {name} for name, file in known.items()}


def test_no_circle_among_modules():
    """Raises ``CycleError``, which names the modules of a circle, if there is one."""
    order = list(graphlib.TopologicalSorter(graph()).static_order())
    assert order.index("pyterrier_inpars._stage") < order.index("pyterrier_inpars.filtering")


def test_no_room_imports_one_above_it():
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    upwards = {
        f"{module} imports {imported}"
        for module, found in graph().items()
        for imported in found
        if room(module) != room(imported) and layer[room(module)] <= layer[room(imported)]
    }
    assert not upwards


def forget(names):
    """Takes modules out of ``sys.modules`` and out of their packages, and returns both.

    A package may have a function under the name of the module, as ``evaluation.leaked_topics``.
    """
    forgotten = {}
    for name in names:
        parent, _, own = name.rpartition(".")
        attribute = vars(sys.modules.get(parent, sys)).pop(own, None)
        forgotten[name] = sys.modules.pop(name), attribute
    return forgotten


def loaded():
    return [name for name in sys.modules if name.partition(".")[0] == "pyterrier_inpars"]


def test_every_module_can_be_the_first_one_imported():
    """Each import begins with that of the package, which imports most modules."""
    before = forget(sorted(loaded(), reverse=True))
    try:
        importlib.import_module("pyterrier_inpars")
        with_package = set(loaded())
        for module in sorted(modules().keys() - with_package - {"pyterrier_inpars.__main__"}):
            importlib.import_module(module)
            forget(sorted(set(loaded()) - with_package, reverse=True))
    finally:
        forget(sorted(loaded(), reverse=True))
        for name, (module, attribute) in sorted(before.items()):
            sys.modules[name] = module
            parent, _, own = name.rpartition(".")
            if attribute is not None:
                setattr(sys.modules[parent], own, attribute)


def test_storage_imports_no_network():
    network = {"requests", "urllib", "http", "huggingface_hub", "socket"}
    for file in (PACKAGE / "queries").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", ())]
            names += [getattr(node, "module", None) or ""]
            assert not network & {str(name).partition(".")[0] for name in names}, file


def test_submodules_are_attributes_of_the_package():
    names = {}
    exec("from pyterrier_inpars import *", names)  # as a notebook begins
    for name in ("datasets", "demo", "distributed", "evaluation", "training"):
        assert names[name] is getattr(pyterrier_inpars, name)
        assert name in dir(pyterrier_inpars)
    assert set(pyterrier_inpars.__all__) <= set(names)


def test_test_modules_have_names_of_their_own():
    """pytest imports them by name, from any folder."""
    names = [file.name for file in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
