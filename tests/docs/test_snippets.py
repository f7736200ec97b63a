"""Every Python snippet of the README and of the documentation runs, or at least compiles."""

import re

import pyterrier as pt
import pytest
import snippets

RECOMMENDED = "LengthFilter(3) >> CopyFilter() >> DuplicateFilter() >> OverlapFilter(0.7)"
"""Filters of the recommended setting, in the page ``choosing_system``."""
OWN_START = {"README", "CONTRIBUTING", "index", "tour"}
_FEWER = {"get_corpus_iter(), 80)": "get_corpus_iter(), 8)", "length=64": "length=8"}
CHEAPER = {"README": _FEWER, "index": _FEWER}
"""Pages whose snippets use the demo's models; what is replaced, for fewer queries and tokens."""


@pytest.fixture(scope="module")
def local_models(tmp_path_factory):
    return snippets.models_as_json(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    return snippets.tour(tmp_path_factory.mktemp("tour"))


def red_pipelines(namespace):
    """Yields the names of pipelines whose schematic has a stage without its input columns."""
    red = re.compile('class="[^"]*pts-input-validation-error')
    for name, value in namespace.items():
        if isinstance(value, pt.Transformer) and red.search(pt.schematic.draw(value)):
            yield name


def pages():
    """Each page with what is replaced in it; heavy ones as they stand too, marked ``long``."""
    slow, long = pytest.mark.slow, pytest.mark.long
    for page in filter(snippets.snippets, snippets.PAGES):
        if page.stem in CHEAPER:
            yield pytest.param(page, CHEAPER[page.stem], id=f"{page.stem}-cheaper", marks=slow)
        marks = [slow, long] if page.stem in CHEAPER else []
        yield pytest.param(page, {}, id=page.stem, marks=marks)


@pytest.mark.parametrize("page, replaced", [*pages()])
def test_snippets_run(page, replaced, local_models, tmp_path, monkeypatch, request, one_thread):
    """In one namespace per page, in a folder of its own, with tiny models for hub names."""
    assert all(old in page.read_text() for old in replaced)
    if page.stem != "README":
        monkeypatch.setenv("INPARS_LOCAL_MODELS", local_models)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pt.documentation, "url_for_class", lambda _: None)  # looked up on the web
    own = page.stem in OWN_START
    namespace = {} if own else dict(request.getfixturevalue("tour"))
    for snippet in snippets.snippets(page):
        source = "\n" * snippet.line + snippet.code
        for old, new in replaced.items():
            source = source.replace(old, new)
        code = compile(source, str(page), "exec")
        if snippet.runs:
            exec(code, namespace)
    assert not list(red_pipelines(namespace))


def test_few_snippets_are_compiled_only():
    found = [snippet for page in snippets.PAGES for snippet in snippets.snippets(page)]
    assert sum(snippet.runs for snippet in found) >= 40
    assert sum(not snippet.runs for snippet in found) <= 12


def test_no_python_snippet_is_overlooked():
    """Code is in blocks that `snippets` finds: no doctest, and no literal block of Python."""
    for page in snippets.PAGES:
        text = page.read_text()
        assert ">>> " not in text, page
        if page.suffix == ".rst":
            literal = re.findall(r"[^:]::\n\n( +.+)", text)
            assert not [line for line in literal if re.search(r"import |\w\(", line)], page
        else:
            assert text.count("```") == 2 * len(snippets.snippets(page)), page


def test_pages_that_choose_have_the_recommended_filters():
    """With the same values on every page."""
    code = {page: "\n".join(s.code for s in snippets.snippets(page)) for page in snippets.PAGES}
    choosing = {page.stem for page, text in code.items() if "evaluation.select(" in text}
    assert {"README", "index", "tour", "choosing_system", "choosing_settings"} <= choosing
    assert choosing <= {page.stem for page, text in code.items() if RECOMMENDED in text}


def test_the_readme_is_short():
    assert len((snippets.ROOT / "README.md").read_text().splitlines()) <= 150
