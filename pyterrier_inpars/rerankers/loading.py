"""One way to load any reranker: its class is that of the checkpoint."""

from __future__ import annotations

import inspect
import os
from typing import Any

from pyterrier_inpars.rerankers.base import Reranker, cannot_load, read_json
from pyterrier_inpars.rerankers.bi_encoder import BiEncoder
from pyterrier_inpars.rerankers.cross_encoder import CrossEncoder
from pyterrier_inpars.rerankers.monot5 import MonoT5

SAVED_BY = {"SentenceTransformer": BiEncoder, "CrossEncoder": CrossEncoder}
"""Classes by the one of sentence-transformers that a folder was saved from."""


def load_reranker(model: str | os.PathLike[str], **options: Any) -> Reranker:
    """The reranker that a checkpoint is made for, found from the configuration saved with it.

    A folder of sentence-transformers tells whether it is a :class:`BiEncoder` or a
    :class:`CrossEncoder`. Otherwise a model with a head for sequences is a ``CrossEncoder``, any
    other encoder-decoder a :class:`MonoT5`, and a BERT-like encoder a ``CrossEncoder`` that has yet
    to be trained.

    Args:
        model: name on the Hugging Face hub, or path of a folder.
        **options: parameters of the class.

    Raises:
        OSError: there is no such model.
        ValueError: the model is of no kind that reranks, such as a language model that only writes.
        TypeError: the class does not take an option.
    """
    reranker = _reranker(os.fspath(model))
    taken = list(inspect.signature(reranker).parameters)[1:]
    for option in options:
        if option not in taken:
            raise TypeError(
                f"{str(model)!r} is a {reranker.__name__}, which takes no {option}: it takes "
                f"{', '.join(taken)}"
            )
    return reranker(model, **options)


def _reranker(model: str) -> type[Reranker]:
    import transformers

    try:
        kind = _sentence_transformers(model)
        config = None if kind else transformers.AutoConfig.from_pretrained(model)
    except Exception as error:  # a damaged file can raise anything
        raise cannot_load("load_reranker", model, error) from error
    if config is None:
        if kind in SAVED_BY:
            return SAVED_BY[kind]
        raise _no_reranker(model, kind)
    architecture = (config.architectures or [config.model_type])[0]
    if architecture.endswith("ForSequenceClassification"):
        return CrossEncoder
    if config.is_encoder_decoder:
        return MonoT5
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        return CrossEncoder
    raise _no_reranker(model, architecture)


def _sentence_transformers(model: str) -> str:
    """The class of sentence-transformers that a folder was saved from; empty if none."""
    if read_json(model, "modules.json") is None:
        return ""
    saved = read_json(model, "config_sentence_transformers.json") or {}
    return saved.get("model_type", "SentenceTransformer")  # old ones do not tell


def _no_reranker(model: str, kind: str) -> ValueError:
    return ValueError(
        f"{model!r} is a {kind}, which is no reranker: give an encoder-decoder (T5, mT5), a "
        f"cross-encoder, a BERT-like encoder or a sentence-transformers model"
    )
