"""VectorPRF refuses what it cannot compute with."""

import pyterrier as pt
import pytest

from pyterrier_inpars import BiEncoder, VectorPRF


def test_arguments(models):
    encoder = BiEncoder(models[BiEncoder])
    with pytest.raises(TypeError, match="encoder must be a BiEncoder"):
        VectorPRF(pt.Transformer.identity())
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, not 0"):
        VectorPRF(encoder, 0)
    with pytest.raises(ValueError, match="weight"):
        VectorPRF(encoder, weight=float("nan"))
    with pytest.raises(ValueError, match="vector_cache must be a whole number of at least 0"):
        BiEncoder(models[BiEncoder], vector_cache=-1)
    with pytest.raises(ValueError, match="task must be 'document' or 'query', not 'passage'"):
        encoder.encode(["a"], "passage")


def test_results(frame, models):
    stage = VectorPRF(BiEncoder(models[BiEncoder], device="cpu"))
    with pytest.raises(pt.validate.InputValidationError, match="score"):
        stage(frame.drop(columns="score"))
    with pytest.raises(ValueError, match="score"):
        stage(frame.assign(score="high"))
    with pytest.raises(ValueError, match="qid"):
        stage(frame.assign(qid=1))
