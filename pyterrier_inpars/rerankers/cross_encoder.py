"""CrossEncoder: query and document read together by a BERT-like encoder."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars.rerankers._base import Reranker
from pyterrier_inpars.training import Training, check_negatives, groups

if TYPE_CHECKING:
    import numpy as np
    import torch

SCORING = ("ForSequenceClassification", "ForCausalLM")
"""Endings of the architectures that sentence-transformers takes scores from as they are."""

CERTAIN = 100.0
"""ListNet takes the softmax of the labels for its target: 1 against 0 would leave a positive with
four negatives only 40 % of it. 100 against 0 leaves it all, to the last bit of a float32."""


class CrossEncoder(Reranker):
    """Reranks by the logit of an encoder that reads the query and the document as one input.

    The document is cut to fit, in training as in scoring, and the query is not; only a query that
    alone fills the input is cut too, until a token of the document fits. The checkpoint tells this
    to ``sentence_transformers.CrossEncoder``, which gives the same scores (but raises an error at
    such a query).

    A checkpoint with two outputs, as monoBERT's (Nogueira and Cho 2019, arXiv 1901.04085), is made
    one with one output when it is loaded: the second less the first, which is the log-odds that the
    document is relevant. They rank alike, and the binary cross-entropy of the one is the two-way
    cross-entropy of the other.

    Args:
        model: a cross-encoder with one output or two (not relevant, relevant), or any encoder that
            ``AutoModelForSequenceClassification`` loads; one without a head for scores gets a
            random one, and needs ``fit``.
        max_length: most tokens of query and document together; ``None`` for the model's own (512
            for the BERT family), which a checkpoint carries.
        loss: ``"listwise"``, the cross-entropy of the softmax over a positive and all negatives of
            its qid, which are kept in one batch (ListNet, Cao et al. 2007; qids without a negative
            teach it nothing and are left out), or ``"binary"``, that of each pair by itself.
            ``per_device_train_batch_size`` counts groups for the one and pairs for the other.

    The other parameters are those of :class:`Reranker`.

    Raises:
        ValueError: there is no such loss, or (on use) the model has more than two outputs.
    """

    schematic = {"label": "CrossEncoder", "help_url": None}

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        loss: str = "listwise",
        training: dict[str, Any] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        seed: int = 0,
        batch_size: int = 32,
        text_field: str = "text",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        device: str | None = None,
        verbose: bool = False,
    ):
        super().__init__(
            model,
            max_length=max_length,
            training=training,
            output_dir=output_dir,
            seed=seed,
            batch_size=batch_size,
            text_field=text_field,
            dtype=dtype,
            compile=compile,
            device=device,
            verbose=verbose,
        )
        if loss not in ("listwise", "binary"):
            raise ValueError(f"loss must be 'listwise' or 'binary', not {loss!r}")
        self.loss = loss

    def _load(self, device: torch.device) -> Any:
        import torch
        from sentence_transformers import CrossEncoder
        from transformers import AutoConfig

        name = os.fspath(self.model)
        config = AutoConfig.from_pretrained(name)
        return CrossEncoder(
            name,
            device=str(device),
            num_labels=None if _architecture(config).endswith(SCORING) else 1,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": torch.float32},
        )

    def _adapt(self, network: Any) -> None:
        super()._adapt(network)
        network[0].processing_kwargs = {"text": {"truncation": "only_second"}}
        if network.num_labels > 2:
            raise ValueError(
                f"{str(self.model)!r} has {network.num_labels} outputs: a reranker has one, or two "
                f"(not relevant, relevant)"
            )
        if network.num_labels == 2:
            _fold(network.transformers_model, *self._heads(network))

    def _heads(self, network: Any) -> list[torch.nn.Module]:
        outputs = network.num_labels
        return [m for m in network.modules() if getattr(m, "out_features", None) == outputs][-1:]

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        trained_as = _architecture(self.network.config)
        if self.train_loss is None and not trained_as.endswith(SCORING):
            warnings.warn(
                f"{str(self.model)!r} is a {trained_as or 'model'} without a head for scores: "
                f"these come from a random one until fit() trains it",
                stacklevel=2,
            )
        return self.network.predict(
            list(zip(self._cut(queries), texts, strict=True)),
            batch_size=self.batch_size,
            show_progress_bar=self.verbose,
        )

    def _train(self, examples: pd.DataFrame, training: Training) -> None:
        from datasets import Dataset
        from sentence_transformers.cross_encoder import (
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            losses,
        )

        check_negatives(examples)
        examples = examples.assign(query=self._cut(examples["query"].tolist()))
        if self.loss == "listwise":
            rows = [row for row in groups(examples, self.text_field) if row.negatives]
            if not rows:
                raise ValueError("no qid has a positive and a negative, as loss='listwise' needs")
            columns = {
                "query": [row.query for row in rows],
                "texts": [[row.positive, *row.negatives] for row in rows],
                "labels": [[CERTAIN] + [0.0] * len(row.negatives) for row in rows],
            }
            loss: Any = losses.ListNetLoss(self.network)
        else:
            columns = {
                "query": examples["query"].tolist(),
                "text": examples[self.text_field].tolist(),
                "label": examples["label"].astype(float).tolist(),
            }
            loss = losses.BinaryCrossEntropyLoss(self.network)
        training.run(
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            self.network,
            "cross_encoder",
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
        )

    def _cut(self, queries: list[str]) -> list[str]:
        """The queries, cut where one alone leaves no room for a token of the document."""
        tokenizer = self.network.tokenizer
        room = self.network.max_seq_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
        distinct = list(dict.fromkeys(queries))
        cut = dict(zip(distinct, distinct, strict=True))
        while distinct:
            spans = tokenizer(
                [cut[query] for query in distinct],
                add_special_tokens=False,
                return_offsets_mapping=True,
                verbose=False,
            )["offset_mapping"]
            long = {q: s[room][0] for q, s in zip(distinct, spans, strict=True) if len(s) > room}
            cut.update((query, cut[query][:end]) for query, end in long.items())
            distinct = list(long)
        return [cut[query] for query in queries]


def _architecture(config: Any) -> str:
    """The class that a checkpoint was saved from; empty if it does not tell."""
    return (config.architectures or [""])[0]


def _fold(model: Any, head: Any) -> None:
    """Makes one output of two: the second less the first."""
    import torch

    for weight in ("weight", "bias"):
        two = getattr(head, weight)
        if two is not None:
            setattr(head, weight, torch.nn.Parameter(two.detach().diff(dim=0)))
    head.out_features = model.num_labels = model.config.num_labels = 1
    model.config.problem_type = None  # of a classifier with several classes
