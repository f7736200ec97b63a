"""CrossEncoder: a BERT-like encoder that reads query and document together."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars.rerankers._checkpoint import read_json
from pyterrier_inpars.rerankers._first_state import classifies_first_state
from pyterrier_inpars.rerankers._sentence_transformers import (
    GENERATIVE,
    SentenceTransformersReranker,
)
from pyterrier_inpars.training.examples import balanced, check_negatives, listings
from pyterrier_inpars.training.losses import FROM_TEACHER, POINTWISE, list_loss, spread

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pyterrier_inpars.training.trainer import TrainingRun

PAIRS_FOR_A_HEAD = 10_000
"""Number of pairs below which training a new head is warned about."""


class CrossEncoder(SentenceTransformersReranker):
    """Reranks by the logit of an encoder that reads query and document as one input.

    A document that is too long is truncated, in training and in scoring; the query is not. Only a
    query that fills the input by itself is truncated, to leave room for one token of the document.
    The checkpoint stores these settings, so ``sentence_transformers.CrossEncoder`` gives the same
    scores (but raises an error for such a query). If it names a default prompt, that is put before
    each query, in training and in scoring.

    A checkpoint with two outputs, such as monoBERT (Nogueira and Cho 2019, arXiv 1901.04085), is
    converted on loading to one output: the second minus the first, the log-odds of relevance. The
    ranking is the same, and the binary cross-entropy of the one output is the two-way cross-entropy
    of the two.

    The losses of ``training``, see :mod:`pyterrier_inpars.training.losses`:

    - ``"listwise"`` (the default): softmax cross-entropy of a positive among all negatives of its
      qid (ListNet, Cao et al. 2007).
    - ``"pairwise"``: logistic loss of the margin between a positive and a negative of its qid
      (RankNet, Burges et al. 2005).
    - ``"pointwise"``, also called ``"binary"``: binary cross-entropy of each pair on its own.
      Positives are repeated to the number of the negatives.
    - ``"margin_mse"`` and ``"distillation"`` learn from the scores of a teacher in the column
      ``score``: the margin between a positive and a negative of its qid, or the distribution over
      all documents of a qid.

    With all losses except ``"pointwise"``, a list stays in one batch,
    ``per_device_train_batch_size`` counts lists, and lists of one document are dropped. On a TPU,
    give every query the same number of negatives: each number of rows compiles another program.

    Args:
        model: Cross-encoder with one output or two (not relevant, relevant), or any encoder or
            causal language model that ``AutoModelForSequenceClassification`` loads. One without a
            scoring head gets a random one, and needs ``fit``, with thousands of pairs. A causal
            language model saved by sentence-transformers, with its ``LogitScore``, reads and
            truncates pairs as there: by its chat template, if it has one.
        max_length: Maximum number of tokens of query and document together; ``None`` for the
            model's own limit (512 for the BERT family), which a checkpoint stores.
        training: See :class:`Reranker`.
        batch_size: Maximum number of pairs scored at once.
        text_field: Column with the text of the document, or several, such as ``["title", "text"]``,
            whose texts are joined by spaces.
        verbose: Whether to show progress bars and the libraries' own notices.
        **loading: See :class:`LoadingOptions`.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of range, or (on use) the model has more than two outputs.
    """

    schematic = {"label": "CrossEncoder", "help_url": None}

    ARTIFACT_FORMAT = "cross_encoder"
    _method = "cross_encoder"
    _default_loss = "listwise"

    def _load(self, device: torch.device) -> Any:
        import torch
        from sentence_transformers import CrossEncoder
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self._name, **self._source)
        self._made_for = (config.architectures or ["model"])[0]
        scores = self._made_for.endswith("ForSequenceClassification") or (
            read_json(self._name, "modules.json", self.revision) is not None
        )
        self._new_head = not scores
        options: dict[str, Any] = {}
        if self._new_head:
            # Without its architecture, a causal language model also gets a head.
            options = {"num_labels": 1, "config_kwargs": {"architectures": None}}
        return self._load_as(CrossEncoder, device, activation_fn=torch.nn.Identity(), **options)

    def _adapt(self, network: Any) -> None:
        super()._adapt(network)
        if not _reads_messages(network):
            own = network[0].processing_kwargs
            text = {**own.get("text", {}), "truncation": "only_second"}
            network[0].processing_kwargs = {**own, "text": text}
        if network.num_labels > 2:
            raise ValueError(
                f"{str(self.model)!r} has {network.num_labels} outputs: a reranker has one, or two "
                f"(not relevant, relevant)"
            )
        if network.num_labels == 2:
            _merge_outputs(network.transformers_model, *self._heads(network))

    def _input_format(self, network: Any) -> dict[str, Any]:
        return super()._input_format(network) | _known_prompt(network)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | _known_prompt(self.network)

    def _heads(self, network: Any) -> list[torch.nn.Module]:
        if network[0].transformer_task in GENERATIVE:
            return [network.transformers_model.get_output_embeddings()]
        outputs = network.num_labels
        return [m for m in network.modules() if getattr(m, "out_features", None) == outputs][-1:]

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        _ = self.network  # loading says whether the head is new
        if not self._is_trained and self._new_head:
            warnings.warn(
                f"{str(self.model)!r} is a {self._made_for} without a scoring head: its scores "
                f"come from a random head until fit() trains it",
                stacklevel=user_level(),
            )
        return self._pair_scores(list(zip(self._cut(queries), texts, strict=True)))

    def _score_one(self) -> None:
        self._pair_scores([("a", "a")])

    def _pair_scores(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        network = self.network
        tokenize = partial(network.preprocess, prompt=_prompt(network))

        def forward(batch: dict[str, Any]) -> torch.Tensor:
            return network(batch)["scores"].view(-1)

        is_first = classifies_first_state(network.transformers_model)
        return self._computed(pairs, tokenize, forward, is_first)

    def _train(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        from datasets import Dataset
        from sentence_transformers.cross_encoder import (
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            losses,
        )

        from pyterrier_inpars.rerankers._list_training import ListLoss, by_length

        name = str(run.options.loss)
        if name not in FROM_TEACHER:
            check_negatives(examples)
        if not self._is_trained and self._new_head and len(examples) < PAIRS_FOR_A_HEAD:
            warnings.warn(
                f"{str(self.model)!r} is a {self._made_for} without a scoring head, and "
                f"{len(examples):,} pairs are few to train one: on Cranfield, MiniLM with a new "
                f"head reached nDCG@10 0.24 with 500 pairs and 0.33 with 14,384, and BM25 has "
                f"0.37. Begin with a model that ranks, train on {PAIRS_FOR_A_HEAD:,} pairs or "
                f"more with the scores of a teacher, or train a BiEncoder",
                stacklevel=user_level(),
            )
        examples = examples.assign(query=self._cut(examples["query"].tolist()))
        arguments: dict[str, Any] = {"batch_sampler": by_length}
        if prompt := _prompt(self.network):
            arguments["prompts"] = prompt
        if name == POINTWISE:
            examples = balanced(examples)
            columns = {
                "query": examples["query"].tolist(),
                "texts": examples["text"].tolist(),
                "labels": examples["label"].astype(float).tolist(),
            }
            loss: Any = losses.BinaryCrossEntropyLoss(self.network)
        else:
            rows = listings(examples, "text", name)
            columns = {
                "query": [row.query for row in rows],
                "texts": [row.texts for row in rows],
                "labels": [row.targets for row in rows],
            }
            score = partial(self._list_scores, at_once=name in FROM_TEACHER)
            loss = ListLoss(
                self.network,
                score,
                list_loss(name, run.options.temperature, run.options.teacher_temperature),
            )
        run.train(
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
            self.network,
            arguments=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=loss,
        )

    def _list_scores(
        self, network: Any, inputs: list[list], targets: torch.Tensor, at_once: bool
    ) -> torch.Tensor:
        """Returns the logits of a batch of lists, in the shape of the targets.

        Without ``at_once``, the network reads as many pairs together as there are lists, as in
        the listwise losses of sentence-transformers: the same dropout, and less padding.
        """
        import torch

        pairs = [(query, text) for query, texts in zip(*inputs, strict=True) for text in texts]
        size = len(pairs) if at_once else len(targets)
        parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        scores = [network(self._batch(part))["scores"].view(-1) for part in parts]
        return spread(torch.cat(scores), targets)

    def _batch(self, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        """Returns the network's input for the pairs, on its device."""
        from sentence_transformers.util import batch_to_device

        network = self.network
        return batch_to_device(network.preprocess(pairs, prompt=_prompt(network)), network.device)

    def _cut(self, queries: list[str]) -> list[str]:
        """Truncates queries that leave no room for a token of the document."""
        network, prompt = self.network, _prompt(self.network) or ""
        if _reads_messages(network):  # sentence-transformers keeps the end of the template
            return queries
        tokenizer = network.tokenizer
        room = network.max_seq_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
        if prompt and len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) >= room:
            raise ValueError(
                f"the prompt {prompt!r:.200} of {str(self.model)!r} leaves no room for a query in "
                f"{network.max_seq_length} tokens: give another max_length"
            )
        distinct = list(dict.fromkeys(queries))
        cut = {query: prompt + query for query in distinct}
        while distinct:
            tokens = tokenizer(
                [cut[query] for query in distinct],
                add_special_tokens=False,
                return_offsets_mapping=tokenizer.is_fast,
                verbose=False,
            )
            long = {q: i for i, q in enumerate(distinct) if len(tokens["input_ids"][i]) > room}
            for query, i in long.items():
                if tokenizer.is_fast:
                    end = tokens["offset_mapping"][i][room][0]
                else:  # a tokenizer in Python has no offsets: about as many characters
                    end = len(cut[query]) * room // len(tokens["input_ids"][i])
                cut[query] = cut[query][:end]
            distinct = list(long)
        return [cut[query][len(prompt) :] for query in queries]


def _reads_messages(network: Any) -> bool:
    """Returns whether pairs are put into a chat template, and not read as two texts."""
    return "message" in network[0].modality_config


def _prompt(network: Any) -> str | None:
    """Returns the prompt that ``predict`` of sentence-transformers puts before each query."""
    return network.prompts.get(network.default_prompt_name) or None


def _known_prompt(network: Any) -> dict[str, str]:
    """Returns the prompt by its name; nothing if there is none, as for most models."""
    prompt = _prompt(network)
    return {"prompt": prompt} if prompt else {}


def _merge_outputs(model: Any, head: Any) -> None:
    """Makes one output of two: the second minus the first."""
    import torch

    for weight in ("weight", "bias"):
        two = getattr(head, weight)
        if two is not None:
            setattr(head, weight, torch.nn.Parameter(two.detach().diff(dim=0)))
    head.out_features = model.num_labels = model.config.num_labels = 1
    model.config.problem_type = None  # that of a classifier with several classes
