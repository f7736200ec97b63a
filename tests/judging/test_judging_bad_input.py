"""Bad input of the judge and of what uses its grades."""

import warnings

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_inpars import RelabelNegatives, RelevanceJudge

FRAME = pd.DataFrame({"qid": ["q"], "query": ["a"], "docno": ["d"], "text": ["b"]})


@pytest.mark.parametrize("scale", [(), (1,), (1, 0), (0, 0), (0, 1.5), (False, True), "01", 3])
def test_a_scale_has_ascending_whole_numbers(scale):
    with pytest.raises(ValueError, match="scale must be two or more whole numbers"):
        RelevanceJudge("m", scale=scale)


def test_another_scale_needs_a_prompt_that_explains_it():
    with pytest.raises(ValueError, match=r"for the scale \(0, 5\), give prompt="):
        RelevanceJudge("m", scale=(0, 5))
    judge = RelevanceJudge("m", scale=(0, 5), prompt="{query}{document}")
    assert judge.scale == (0, 5)


@pytest.mark.parametrize("prompt", ["{query}", "{document}", "{query}{query}{document}", 3])
def test_a_prompt_has_both_fields_once(prompt):
    with pytest.raises(ValueError, match="once each"):
        RelevanceJudge("m", prompt=prompt)


@pytest.mark.parametrize("field", ["{title}", "{grades}", "{text}"])
def test_a_prompt_has_no_other_field(field):
    with pytest.raises(ValueError, match=f"but not \\{field}"):
        RelevanceJudge("m", prompt=f"Of {field}: {{query}}\n{{document}}")
    judge = RelevanceJudge("m")
    with pytest.raises(ValueError, match=f"but not \\{field}"):
        judge.set_parameter("prompt", f"{{query}}\n\n{field}, {{document}}")
    with pytest.warns(UserWarning, match=f"but not \\{field}, which the model gets"):
        RelevanceJudge("m", prompt=f"Of {field}:\n\n{{query}}\n{{document}}")


def test_braces_of_examples_are_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RelevanceJudge("m", prompt='f"{x}" has {y}, {"grade": 1}\n\n{query} {document}')


def test_models_and_options():
    with pytest.raises(TypeError, match="choice_log_probs or complete, not 3"):
        RelevanceJudge(3)
    with pytest.raises(TypeError, match="did you mean 'max_doc_tokens'"):
        RelevanceJudge("m", max_doc_token=3)
    with pytest.raises(ValueError, match="cannot load"):
        RelevanceJudge("no/such/model")(FRAME)
    with pytest.raises(ValueError, match="query must be a string"):
        RelevanceJudge("m")(FRAME.assign(query=None))
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        RelevanceJudge("m")(FRAME.drop(columns="text"))


def test_labels_and_scores_are_numbers():
    with pytest.raises(ValueError, match="min_score must be a number"):
        RelabelNegatives("2")
    for column in ("label", "score"):
        frame = pd.DataFrame({"label": [0.0], "score": [1.0]}).astype(object)
        with pytest.raises(ValueError, match=f"{column} is not a number"):
            RelabelNegatives(2)(frame.assign(**{column: ["x"]}))
