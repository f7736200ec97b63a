"""CrossEncoder: query and document read together by a BERT-like encoder."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars.rerankers.base import Reranker
from pyterrier_inpars.training.examples import check_negatives
from pyterrier_inpars.training.losses import (
    FROM_TEACHER,
    POINTWISE,
    as_module,
    by_length,
    checked_loss,
    checked_temperature,
    listings,
    objective,
    spread,
)
from pyterrier_inpars.training.trainer import Training

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
            its qid (ListNet, Cao et al. 2007); ``"pairwise"``, the logistic loss of the difference
            between a positive and a negative (RankNet, Burges et al. 2005); ``"pointwise"``, also
            called ``"binary"``, the cross-entropy of each pair by itself; and with a teacher's
            scores in a column ``score``, ``"margin_mse"``, the squared error of that difference to
            the teacher's (Hofstätter et al. 2020, arXiv 2010.02666), or ``"distillation"``, the
            Kullback-Leibler divergence of the softmax over the documents of a qid from the
            teacher's. But for ``"pointwise"``, a list stays in one batch,
            ``per_device_train_batch_size`` counts lists, and those of one document, which teach
            nothing, are left out. On a TPU give each query as many negatives as the others: every
            other number of rows is another program to compile.
        temperature: of both softmaxes in ``"distillation"``; the others do not read it.

    The other parameters are those of :class:`Reranker`.

    Raises:
        ValueError: there is no such loss, the temperature is not above 0, or (on use) the model has
            more than two outputs.
    """

    schematic = {"label": "CrossEncoder", "help_url": None}

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        loss: str = "listwise",
        temperature: float = 1.0,
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
        checked_loss(loss)
        self.loss = loss
        self.temperature = checked_temperature(temperature)

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
        network, pairs = self.network, list(zip(self._cut(queries), texts, strict=True))

        def forward(rows: list[int]) -> torch.Tensor:
            return network(self._batch([pairs[r] for r in rows]))["scores"].view(-1)

        return self._in_batches(self._tokens(query + text for query, text in pairs), forward)

    def _train(self, examples: pd.DataFrame, training: Training) -> None:
        from datasets import Dataset
        from sentence_transformers.cross_encoder import (
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            losses,
        )

        name = checked_loss(self.loss)
        if name not in FROM_TEACHER:
            check_negatives(examples)
        examples = examples.assign(query=self._cut(examples["query"].tolist()))
        if name == POINTWISE:
            columns = {
                "query": examples["query"].tolist(),
                "texts": examples[self.text_field].tolist(),
                "labels": examples["label"].astype(float).tolist(),
            }
            loss: Any = losses.BinaryCrossEntropyLoss(self.network)
        else:
            rows = listings(examples, self.text_field, name)
            columns = {
                "query": [row.query for row in rows],
                "texts": [row.texts for row in rows],
                "labels": [row.targets for row in rows],
            }
            if name == "listwise":
                columns["labels"] = [[CERTAIN * target for target in row.targets] for row in rows]
                loss = losses.ListNetLoss(self.network)
            elif name == "pairwise":
                loss = losses.RankNetLoss(self.network, reduction_log="natural")
            else:
                loss = as_module(self.network, self._list_scores, objective(name, self.temperature))
        training.run(
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            self.network,
            "cross_encoder",
            arguments={"batch_sampler": by_length},
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
        )

    def _list_scores(self, network: Any, inputs: list[list], targets: torch.Tensor) -> torch.Tensor:
        """The logits of the batch's lists, in the shape of the targets."""
        pairs = [(query, text) for query, texts in zip(*inputs, strict=True) for text in texts]
        return spread(network(self._batch(pairs))["scores"].view(-1), targets)

    def _batch(self, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        """The network's input for the pairs, on its device."""
        from sentence_transformers.util import batch_to_device

        return batch_to_device(self.network.preprocess(pairs), self.network.device)

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
