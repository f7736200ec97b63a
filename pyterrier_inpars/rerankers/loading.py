"""Loading any reranker: the checkpoint decides the class."""

from __future__ import annotations

import os
from typing import Any

from pyterrier_inpars._hub import resolved
from pyterrier_inpars.rerankers._checkpoint import cannot_load, check_source, read_json
from pyterrier_inpars.rerankers.base import Reranker
from pyterrier_inpars.rerankers.bi_encoder import BiEncoder
from pyterrier_inpars.rerankers.cross_encoder import CrossEncoder
from pyterrier_inpars.rerankers.monot5 import MonoT5

SAVED_BY = {"SentenceTransformer": BiEncoder, "CrossEncoder": CrossEncoder}
"""Reranker classes by the class of sentence-transformers that saved a folder."""


def load_reranker(model: str | os.PathLike[str], **options: Any) -> Reranker:
    """Makes the reranker that a checkpoint is for, from its configuration.

    A folder of sentence-transformers is a :class:`BiEncoder` or a :class:`CrossEncoder`, as it
    says. Of other models, one with a sequence classification head is a ``CrossEncoder``, any other
    encoder-decoder is a :class:`MonoT5`, and a BERT-like encoder is a ``CrossEncoder`` that needs
    training.

    Args:
        model: Name on the Hugging Face hub, or path of a folder.
        **options: Parameters of the class, including the loading options of
            :class:`LoadingOptions`.

    Raises:
        OSError: There is no such model.
        ValueError: The model cannot rerank, such as a causal language model.
        TypeError: The class does not have an option.
    """
    revision = options.get("revision")
    trust_remote_code = options.get("trust_remote_code", False)
    check_source(revision, trust_remote_code)
    reranker = _reranker_class(os.fspath(model), revision, trust_remote_code)
    try:
        return reranker(model, **options)
    except TypeError as error:
        raise TypeError(f"{str(model)!r} is for {reranker.__name__}: {error}") from error


def _reranker_class(model: str, revision: str | None, trust_remote_code: bool) -> type[Reranker]:
    import transformers

    name = resolved(model)
    try:
        saved_by = _sentence_transformers_class(name, revision)
        config = None
        if not saved_by:
            config = transformers.AutoConfig.from_pretrained(
                name, revision=revision, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a damaged file can raise anything
        raise cannot_load("load_reranker", model, error) from error
    if config is None:
        if saved_by in SAVED_BY:
            return SAVED_BY[saved_by]
        raise _not_a_reranker(model, saved_by)
    architecture = (config.architectures or [config.model_type])[0]
    if architecture.endswith("ForSequenceClassification"):
        return CrossEncoder
    if config.is_encoder_decoder:
        return MonoT5
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        return CrossEncoder
    raise _not_a_reranker(model, architecture)


def _sentence_transformers_class(name: str, revision: str | None) -> str:
    """Returns the class of sentence-transformers that saved a folder; empty if none did."""
    if read_json(name, "modules.json", revision) is None:
        return ""
    saved = read_json(name, "config_sentence_transformers.json", revision) or {}
    return saved.get("model_type", "SentenceTransformer")  # missing before version 5.2


def _not_a_reranker(model: str, kind: str) -> ValueError:
    return ValueError(
        f"{model!r} is a {kind}, which is not a reranker: give an encoder-decoder (T5, mT5), a "
        f"cross-encoder, a BERT-like encoder or a sentence-transformers model. To train a causal "
        f"language model, choose the class: BiEncoder(...) or CrossEncoder(...); QueryLikelihood "
        f"reranks with it untrained"
    )
