"""Bad templates, YAML files and few-shot examples."""

import re

import pandas as pd
import pytest
from bad_input import (
    HALF,
    MISSING,
    NO_STRING,
    NOT_ONE_OR_MORE,
    NOT_ZERO_OR_MORE,
    PLAIN,
    TWO,
    Error,
    gives,
    queries,
    rows,
)

from pyterrier_inpars import (
    ChatPrompt,
    FewShotPrompt,
    Prompt,
    StaticPrompt,
    load_prompt,
)


@pytest.mark.parametrize(
    "template, error",
    rows(
        ("", "{document} once, but this one contains it 0 times"),
        ("no field", "contains it 0 times: 'no field'"),
        ("{Document}", "contains it 0 times"),
        ("{ document }", "contains it 0 times"),
        ("{query}", "contains it 0 times"),
        ("{document} {document}", "contains it 2 times"),
        ("{query}: {document}", "{query} must come after {document}"),
        ("\ud800{document}", r"must not contain the lone surrogate '\\ud800'"),
        (None, "must be a string that contains {document}, not None"),
        (7, "must be a string that contains {document}, not 7"),
        (b"{document}", "must be a string that contains {document}, not b'"),
    ),
)
def test_invalid_templates_are_refused(template, error):
    error = Error(error.replace("{", r"\{"))
    gives(lambda: StaticPrompt(template), error)
    if template is not None:  # None is the default template
        gives(lambda: FewShotPrompt(queries(), num_examples=1, template=template), error)


@pytest.mark.parametrize(
    "content, error",
    rows(
        ("", "must map names to prompts, but holds NoneType"),
        ("- a\n", "must map names to prompts, but holds list"),
        ("text", "must map names to prompts, but holds str"),
        ("7", "must map names to prompts, but holds int"),
        ("!!set {p}", "must map names to prompts, but holds set"),
        ("p: [", "is not YAML"),
        ("p:\n\t- a", "is not YAML"),
        ("p: 1\n---\np: 2", "is not YAML"),
        ("? [a]\n: b", "is not YAML"),
        ("p: {<<: 3}", "is not YAML"),
        ("p: 2020-99-99", "is not YAML: month must be in"),
        ("p: !!int ''", "is not YAML"),
        ("p: !!float x", "is not YAML"),
        ("p: !!bool x", "is not YAML"),
        ("p: !!timestamp x", "is not YAML"),
        ("p: " + "9" * 5000, "is not YAML"),
        ("[" * 20_000, "is not YAML"),
        ("p: \0", "is not YAML"),
        ("p: é".encode("latin-1"), "p.yaml is not text in UTF-8"),
        ("p: a".encode("utf-16"), "p.yaml is not text in UTF-8"),
        ("p: !!python/object/apply:os.abort []", "is not YAML: could not determine a constr"),
        ("q: {mode: static}", "no prompt 'p' in .*p.yaml; there are: q"),
        ("1: 2", "no prompt 'p' in .*; there are: 1"),
        ("p:", "must have a mode .* but is None"),
        ("p: text", "must have a mode .* but is 'text'"),
        ("p: [a]", r"must have a mode .* but is \['a'\]"),
        ("p: {mode: other, template: '{document}'}", "must have a mode"),
        ("p: {mode: static}", "must have a mode"),
        ("p: {mode: static, template: 3}", "must have a mode"),
        ("p: {mode: static, template: [x]}", "must have a mode"),
        ("p: {mode: static, template: x}", "contains it 0 times"),
        ('p: {mode: static, template: "\\udc00{document}"}', "lone surrogate"),
        ("p: {mode: dynamic, template: '{document}{query}'}", "give examples="),
        ("p: &p [*p]", "must have a mode"),
    ),
)
def test_invalid_files_are_refused(tmp_path, content, error):
    path = tmp_path / "p.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    gives(lambda: Prompt.load(path, "p"), Error(error))


def test_errors_do_not_expand_yaml_aliases(tmp_path):
    """Nine levels of nine aliases each are small in memory but would be huge in an error."""
    levels = ["l0: &l0 [x]"] + [
        f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10)
    ]
    (tmp_path / "p.yaml").write_text("\n".join([*levels, "p: *l9"]))
    with pytest.raises(ValueError, match="must have a mode") as caught:
        Prompt.load(tmp_path / "p.yaml", "p")
    assert len(str(caught.value)) < 2_000_000


def test_yaml_creates_no_objects(tmp_path):
    harm = tmp_path / "harm"
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir"):
        (tmp_path / "p.yaml").write_text(f"p: !!{tag} ['{harm}']\n")
        with pytest.raises(ValueError, match="not YAML"):
            Prompt.load(tmp_path / "p.yaml", "p")
        assert not harm.exists()


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: load_prompt("other"), Error("there is no prompt 'other'; there are: three-shot")),
        (
            lambda: load_prompt("three-shot", examples=TWO),
            Error("static and has no option examples"),
        ),
        (lambda: load_prompt("few-shot"), Error("needs examples: give examples=")),
        (lambda: Prompt.load("nowhere.yaml", "p"), Error("nowhere.yaml", FileNotFoundError)),
        (lambda: FewShotPrompt(None), Error("a DataFrame is needed, not None", TypeError)),
        (lambda: FewShotPrompt([PLAIN, 7]), Error(r"a DataFrame is needed, not \[", TypeError)),
        (lambda: FewShotPrompt([PLAIN]), Error("missing_columns=.'query'.", MISSING)),
        (lambda: FewShotPrompt(TWO), Error("missing_columns=.'query'.", MISSING)),
        (
            lambda: FewShotPrompt(queries()),
            Error("num_examples is 3, but there are only 2"),
        ),
        (
            lambda: FewShotPrompt(queries().iloc[:0], num_examples=1),
            Error("there are only 0"),
        ),
        (lambda: FewShotPrompt(queries(query=None)), Error(f"query {NO_STRING} None.*'q2'")),
        (lambda: FewShotPrompt(queries(text=7)), Error(f"text {NO_STRING} 7.*'q2'")),
        (lambda: FewShotPrompt(queries(qid=7)), Error(f"qid {NO_STRING} 7")),
        (lambda: FewShotPrompt(queries(text=HALF)), Error("text contains the lone surrogate")),
        (
            lambda: FewShotPrompt(pd.concat([queries(), queries()], axis=1)),
            Error("two columns are called 'qid'"),
        ),
        (
            lambda: FewShotPrompt(queries(), num_examples=1, template="{document}"),
            Error(r"must contain \{query\} once"),
        ),
        (
            lambda: FewShotPrompt(queries(), num_examples=1, template="{document}{query}{query}"),
            Error(r"must contain \{query\} once"),
        ),
    ],
)
def test_invalid_prompts_are_refused(call, error):
    gives(call, error)


@pytest.mark.parametrize("value", NOT_ONE_OR_MORE)
@pytest.mark.parametrize(
    "make",
    [
        lambda k: FewShotPrompt(queries(), num_examples=k),
        lambda k: FewShotPrompt(queries(), num_examples=1, max_query_tokens=k),
    ],
)
def test_numbers_below_one_are_refused(make, value):
    gives(
        lambda: make(value),
        Error(f"whole number of at least 1, not {re.escape(repr(value))}"),
    )


@pytest.mark.parametrize("value", NOT_ZERO_OR_MORE)
def test_negative_seeds_are_refused(value):
    for make in (lambda: FewShotPrompt(queries(), num_examples=1, seed=value),):
        gives(make, Error("must be a whole number of at least 0, not"))


@pytest.mark.parametrize(
    "make", [FewShotPrompt, lambda e, **o: ChatPrompt("{document}", examples=e)]
)
@pytest.mark.parametrize("column", ["query", "text"])
def test_a_blank_example_is_refused(make, column):
    examples = queries(**{column: " \n"})
    expected = Error(f"example 1 has a blank {column}, .*: drop the row")
    gives(lambda: make(examples, num_examples=1), expected)
