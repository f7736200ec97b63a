"""Prose uses the words of the field: in docstrings, comments, errors and documentation."""

import ast
import io
import re
import tokenize

import pytest
from snippets import DOCS, ROOT

AVOID = {
    r"\bledgers?\b": "resume state",
    r"\breckon(s|ed|ing)?\b": "estimated",
    r"\b(is|are|was|were|be|been) told\b": "fails with, names",
    r"\btells? (whether|how|what|which|its|it|the|of|before)\b": "returns, names, says",
    r"\baccounts? of\b": "provenance",
    r"\bstands? (twice|once|first|last|there|below|together|still)\b": "duplicate, comes first",
    r"\bas (it|they) stands?\b": "unchanged",
    r"\b(come|comes|came) twice\b": "duplicate",
    r"\b(go|goes|going|went) on\b": "resumes, continues",
    r"\bdual[ -]encoders?\b": "bi-encoder",
    r"\bthousand million\b": "6B, GMAC/s",
    r"\b10\^1\d a second\b": "TFLOP/s",
    r"(?<!there )\b(is|are) no "
    r"(string|number|frame|model|prompt|name|whole|list|transformer|file|array|dict|id)\b": (
        "is not a"
    ),
    r"\brows? .{0,20}that begin alike\b": "shared prefix",
    r"\bbegin alike\b": "shared prefix",
    r"\bReading\b(?= *[(=`])": "SharedPrefixCache",
    r"\blayers? computed otherwise\b": "oneDNN linear",
    r"\badapters? \(LoRA\)": "LoRA",
    r"\blikeliest tokens that\b": "nucleus threshold",
    r"\bScoreSum\b": "ScoreFusion",
    r"\btopics_shown\b": "fewshot_topics",
    r"\bGenerateBackend\b": "PyTerrierRagBackend",
    r"\bholds? for about\b": "scores within a margin of",
    r"\bwhat [a-z ]{1,30} asks for\b": "requires",
    r"\bfor the time being\b": "temporary",
    r"\bsuch as (it is|they are)\b": "",
    r"\bnought\b|\bwherein\b|\bthereof\b|\bwhither\b": "",
}
"""Patterns of words to avoid, and what to write."""

ALLOWED = {
    "CHANGELOG.md": {r"\bScoreSum\b", r"\bledgers?\b", r"\btopics_shown\b", r"\bGenerateBackend\b"},
}
"""The changelog has the old names."""


def prose(path):
    """Yields the line number and text of each docstring, comment, message and paragraph."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())
        elif isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "x" for v in node.values]
            yield node.lineno, " ".join("".join(map(str, parts)).split())


def files():
    documents = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    documents += sorted(DOCS.glob("*.rst"))
    documents += sorted(ROOT.glob("examples/*.md")) + [ROOT / "tests" / "benchmarks" / "README.md"]
    code = [*(ROOT / "pyterrier_inpars").rglob("*.py"), *ROOT.glob("examples/*.py")]
    return [
        pytest.param(file, id=str(file.relative_to(ROOT))) for file in [*documents, *sorted(code)]
    ]


@pytest.mark.parametrize("file", files())
def test_prose_has_the_words_of_the_field(file):
    found = [
        f"{file.relative_to(ROOT)}:{line}: {match[0]!r}, write: {AVOID[pattern] or 'plain words'}"
        for line, text in prose(file)
        for pattern in AVOID.keys() - ALLOWED.get(file.name, set())
        for match in re.finditer(pattern, text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "the ledger of a run",
        "a qid stands twice",
        "the run goes on where it was",
        "Promptagator's dual encoder",
        "24 thousand million multiply-adds",
        "docno is no string",
        "the account of the training",
        "as far as it is told",
        "rows of tokens that begin alike",
        "likeliest tokens that hold this share",
        "One place for layers computed otherwise",
    ],
)
def test_the_words_to_avoid_are_found(text):
    assert any(re.search(pattern, text) for pattern in AVOID)
