"""BiEncoder: encodes query and document separately, and scores them by their cosine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle, filterfalse, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._compute.xla import on_xla
from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars.rerankers._checkpoint import read_json
from pyterrier_inpars.rerankers._encoders import DocEncoder, QueryEncoder
from pyterrier_inpars.rerankers._sentence_transformers import (
    SentenceTransformersReranker,
    append_end_token,
)
from pyterrier_inpars.rerankers._vector_cache import VectorCache, weights_state
from pyterrier_inpars.training.examples import documents_of, groups, listings
from pyterrier_inpars.training.losses import FROM_TEACHER, IN_BATCH, in_batch, list_loss
from pyterrier_inpars.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from pyterrier_inpars.rerankers.base import LoadingOptions
    from pyterrier_inpars.training.trainer import TrainingRun

LAST_TOKEN = "lasttoken"
POOLING = ("mean", LAST_TOKEN, "cls", "max", "weightedmean", "mean_sqrt_len_tokens")
"""Ways of pooling, by their names in sentence-transformers."""
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of the prompt for documents, in sentence-transformers' order."""


class BiEncoder(SentenceTransformersReranker):
    """Bi-encoder: the score of a document is its cosine with the query, from -1 to 1.

    Query and document are encoded separately, as in Promptagator (Dai et al. 2022, arXiv
    2209.11755, section 3). Each distinct text of a frame is encoded once. If the model defines
    prompts for queries and documents, they are used in training and in scoring.

    A causal language model can be the encoder, too, as in RepLLaMA (Ma et al. 2023, arXiv
    2310.08319): the last token represents the text. The end token is appended to each text, unless
    the tokenizer or the checkpoint already decides how a text ends. Without training such a model
    ranks poorly.

    The losses of ``training``:

    - ``"in_batch"`` (the default) is the softmax cross-entropy of a query's positive against the
      other documents of the batch: its own negatives, and the positives and negatives of the other
      queries (sentence-transformers' ``MultipleNegativesRankingLoss``). It needs positives only;
      larger batches give more negatives. A batch spans all processes. No query has a document
      that is relevant to it among its negatives: queries with the same text, or with such a
      document, are in different batches, which are smaller if there is no other way to train on
      all examples. A negative that several queries of a batch share counts several times. If
      queries have different numbers of negatives, those with fewer repeat their own up to the
      largest number; those without any take negatives of other queries, which the loss includes
      anyway.
      With the option ``guide``, a second encoder, suspected positives are no negatives: documents
      that the guide scores above the query's positive, or within ``guide_margin`` of it (GISTEmbed,
      Solatorio 2024, arXiv 2402.16829; sentence-transformers' ``CachedGISTEmbedLoss``, for query
      to document only). The guide reads the texts as the student does: with the student's prompts,
      not with its own, and cut to the student's ``max_length``. Other prompts give a warning.
    - ``"margin_mse"``, ``"distillation"`` and ``"adr_mse"`` learn from the scores of a teacher in
      the column ``score``: the margin between a positive and a negative of its qid, the
      distribution over all documents of a qid, or their ranks. See
      :mod:`pyterrier_inpars.training.losses`. A list stays in one batch,
      ``per_device_train_batch_size`` counts lists, and lists of one document are dropped. Each
      distinct document of a batch is encoded once. ``in_batch_weight`` adds that share of the
      cross-entropy of each list's best document among all documents of the batch in its process
      (:func:`~pyterrier_inpars.training.losses.in_batch`).

    ``mini_batch_size`` bounds the memory of a batch of any size: that many texts are embedded at
    once, and embedded again for their gradients (gradient caching, Gao et al. 2021, arXiv
    2101.06983). The weights are the same up to rounding.

    ``adapter`` freezes the network and trains a linear layer on its vectors, of queries and
    documents alike. The layer is the identity at the start. All texts are encoded once, so that an
    epoch takes seconds; the layer needs a higher ``learning_rate``, such as 1e-3.

    On a TPU, one program is compiled per combination of the padded lengths of queries, positives
    and negatives in a batch, so texts of similar length are faster.

    Args:
        model: What ``SentenceTransformer`` loads: its own models, any encoder (mean pooling), or a
            causal language model (last token).
        max_length: Maximum number of tokens of a query or a document; ``None`` for the model's own
            limit.
        pooling: How the vectors of a text's tokens become one: ``"mean"``, ``"lasttoken"``,
            ``"cls"``, ``"max"``, ``"weightedmean"`` or ``"mean_sqrt_len_tokens"``, as in
            sentence-transformers' ``Pooling``; ``None`` for the model's own.
        query_prompt: Text before each query, such as ``"query: "``; ``None`` for the model's own.
        doc_prompt: Text before each document; ``None`` for the model's own.
        scale: Factor of the cosines in the loss, the inverse of a softmax temperature.
        training: See :class:`Reranker`.
        batch_size: Maximum number of texts encoded at once.
        text_field: Column with the text of the document, or several, such as ``["title", "text"]``,
            whose texts are joined by spaces.
        verbose: Whether to show progress bars and the libraries' own notices.
        vector_cache: Number of vectors to keep in memory, of queries and of documents each, so that
            several stages and calls encode a text once: 10,000 vectors of 768 numbers take 30 MB.
            Vectors of other weights or another ``max_length`` are dropped.
        **loading: See :class:`LoadingOptions`.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of range.
    """

    schematic = {"label": "BiEncoder", "help_url": None}

    ARTIFACT_FORMAT = "bi_encoder"
    _method = "bi_encoder"
    _losses = (IN_BATCH, *FROM_TEACHER)
    _default_loss = IN_BATCH

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        pooling: str | None = None,
        query_prompt: str | None = None,
        doc_prompt: str | None = None,
        scale: float = 20.0,
        training: TrainingOptions | Mapping[str, Any] | str | None = None,
        batch_size: int = 64,
        text_field: str | list[str] = "text",
        verbose: bool = False,
        vector_cache: int = 0,
        **loading: Unpack[LoadingOptions],
    ):
        super().__init__(
            model,
            max_length=max_length,
            training=training,
            batch_size=batch_size,
            text_field=text_field,
            verbose=verbose,
            **loading,
        )
        self.pooling = _check_pooling(pooling)
        self.query_prompt = _check_prompt("query_prompt", query_prompt)
        self.doc_prompt = _check_prompt("doc_prompt", doc_prompt)
        self.scale = scale
        self.vector_cache = positive_int("vector_cache", vector_cache, 0)
        self._caches = {"query": VectorCache(), "document": VectorCache()}

    def _load(self, device: torch.device) -> Any:
        from sentence_transformers import SentenceTransformer

        network = self._load_as(SentenceTransformer, device)
        self._own_prompts, self._own_pooling = network.prompts, _pooling_mode(network)
        self._is_new = read_json(self._name, "modules.json", self.revision) is None
        return network

    def _input_settings(self) -> tuple[Any, ...]:
        return (
            *super()._input_settings(),
            _check_pooling(self.pooling),
            _check_prompt("query_prompt", self.query_prompt),
            _check_prompt("doc_prompt", self.doc_prompt),
        )

    def _adapt(self, network: Any) -> None:
        super()._adapt(network)
        mode = self.pooling or self._own_pooling
        if self.pooling is not None and self._own_pooling is None:
            raise ValueError(
                f"{str(self.model)!r} does not pool the vectors of tokens: leave out pooling"
            )
        if mode != _pooling_mode(network):
            for part in _poolings(network):
                part.pooling_mode = mode
        if self._is_new and mode == LAST_TOKEN:
            append_end_token(network.tokenizer)
        network.prompts = dict(self._own_prompts)
        if self.query_prompt is not None:
            network.prompts["query"] = self.query_prompt
        if self.doc_prompt is not None:
            network.prompts |= dict.fromkeys(DOCUMENT_PROMPTS, self.doc_prompt)

    def _input_format(self, network: Any) -> dict[str, Any]:
        own = {"prompts": self._prompts(), "pooling": _pooling_mode(network)}
        return super()._input_format(network) | own

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        return (self._vectors("query", queries) * self._vectors("document", texts)).sum(axis=1)

    def encode(self, texts: list[str], task: str = "document") -> np.ndarray:
        """Returns the unit vectors of texts, by which `transform` scores.

        Args:
            texts: Documents or queries.
            task: ``"document"`` or ``"query"``: which prompt of the model is used, if it has any.

        Returns:
            Array of (texts, dimensions), float32.

        Raises:
            ValueError: The task is another.
        """
        if task not in ("document", "query"):
            raise ValueError(f"task must be 'document' or 'query', not {task!r}")
        if not texts:
            return np.empty((0, self.network.get_embedding_dimension()), dtype=np.float32)
        return self._vectors(task, texts)

    def query_encoder(self) -> QueryEncoder:
        """Returns a transformer that adds the vectors of queries, for dense retrieval.

        With :meth:`doc_encoder`, this is the interface of ``pyterrier_dr``'s encoders (extra
        ``dense``)::

            index = FlexIndex("my.flex")
            (encoder.doc_encoder() >> index).index(dataset.get_corpus_iter())
            dense = encoder.query_encoder() >> index.retriever()

        The score of a retrieved document is the cosine by which :meth:`transform` reranks. The
        transformer uses this object's network: after a ``fit``, it gives the vectors of the trained
        weights, and documents have to be indexed again.

        Returns:
            Stage that requires ``qid, query`` and adds ``query_vec``: arrays of (dimensions,),
            float32, of length 1.
        """
        return QueryEncoder(self)

    def doc_encoder(self) -> DocEncoder:
        """Returns a transformer that adds the vectors of documents, for an index of them.

        See :meth:`query_encoder`.

        Returns:
            Stage that requires ``docno`` and the text column and adds ``doc_vec``: arrays of
            (dimensions,), float32, of length 1.
        """
        return DocEncoder(self)

    def _vectors(self, task: str, texts: list[str]) -> np.ndarray:
        """Returns unit vectors, from the cache if there is one."""
        prompt = dict(zip(("query", "document"), self._prompts(), strict=True))[task]
        if not self.vector_cache:
            return self._encode(task, texts, prompt)
        return self._caches[task].vectors(
            texts,
            lambda missing: self._encode(task, missing, prompt),
            (weights_state(self.network), self._input_settings(), str(self.dtype), prompt),
            self.vector_cache,
        )

    def _encode(self, task: str, texts: list[str], prompt: str | None) -> np.ndarray:
        """Returns unit vectors of the texts, (texts, dimensions), encoding each distinct one once.

        They equal those of ``encode_query`` and ``encode_document``, which do not run on XLA.
        """
        from torch.nn.functional import normalize

        network = self.network
        codes, distinct = pd.factorize(pd.Series(texts))

        def forward(batch: dict[str, Any]) -> torch.Tensor:
            return normalize(network(batch, task=task)["sentence_embedding"].float())

        tokenize = partial(network.preprocess, prompt=prompt, task=task)
        poolings = _poolings(network)
        is_first = {part.pooling_mode for part in poolings} == {"cls"}
        # Without the tokens of the prompt, the first token is the one after it.
        is_first &= not prompt or all(part.include_prompt for part in poolings)
        counted = task == "document"
        return self._computed(distinct, tokenize, forward, is_first, counted)[codes]

    def _score_one(self) -> None:
        self._encode("document", ["a"], None)

    def _prompts(self) -> tuple[str | None, str | None]:
        """Returns the model's prompts for queries and for documents.

        ``encode_document`` looks for the same names, but stops at "document", which
        sentence-transformers adds to every model as an empty prompt.
        """
        known = self.network.prompts
        names = (known.get(name) for name in DOCUMENT_PROMPTS)
        return known.get("query") or None, next(filter(None, names), None)

    def _train(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        if not run.options.adapter:
            self._train_network(self.network, examples, run)
            return
        from pyterrier_inpars.rerankers._linear_adapter import linear_adapter

        with linear_adapter(self.network, self._frozen_vectors(examples)) as network:
            self._train_network(network, examples, run)

    def _frozen_vectors(self, examples: pd.DataFrame) -> dict[tuple[str, str], torch.Tensor]:
        """Returns the vectors of all queries and documents, by prompt and text."""
        import torch

        found: dict[tuple[str, str], torch.Tensor] = {}
        for task, prompt in zip(("query", "document"), self._prompts(), strict=True):
            texts = [*examples["query" if task == "query" else "text"].unique()]
            texts += [""] * on_xla(self.network.device)  # which fills batches there
            vectors = torch.from_numpy(self._encode(task, texts, prompt))
            found |= {
                (prompt or "", text): vector for text, vector in zip(texts, vectors, strict=True)
            }
        return found

    def _train_network(self, network: Any, examples: pd.DataFrame, run: TrainingRun) -> None:
        """Trains the reranker's network, or a linear layer on its vectors."""
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )

        from pyterrier_inpars.rerankers._in_batch import InBatchSampler

        parts: dict[str, Any]
        sampler: Any = "batch_sampler"
        if run.options.loss == IN_BATCH:
            columns = self._in_batch_columns(examples)
            names, sampler = [*columns], InBatchSampler
            parts = {"loss": self._in_batch_loss(network, run.options)}
        else:
            columns, parts = self._list_parts(network, examples, run.options)
            names = ["query", "document"]
        prompts = self._prompts_of(names)
        if "data_collator" in parts:
            parts["data_collator"].prompts = prompts
        run.train(
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
            network,
            arguments={"batch_sampler": sampler, "prompts": prompts},
            train_dataset=Dataset.from_dict(columns),
            **parts,
        )

    def _prompts_of(self, columns: list[str]) -> dict[str, str]:
        """Returns the prompts of the columns of a data set, all but ``query`` of documents."""
        query_prompt, document_prompt = self._prompts()
        prompts = {c: query_prompt if c == "query" else document_prompt for c in columns}
        return {column: prompt for column, prompt in prompts.items() if prompt}

    def _in_batch_loss(self, network: Any, options: TrainingOptions) -> Any:
        """Returns sentence-transformers' loss: plain, cached or guided, which is cached too."""
        from sentence_transformers.sentence_transformer import losses

        size = options.mini_batch_size
        if options.guide is not None:
            guide = BiEncoder(options.guide, dtype="float32", device=self.device)
            if guide._prompts() != self._prompts():
                warnings.warn(
                    f"the guide {str(options.guide)!r} has the prompts {guide._prompts()} for "
                    f"queries and documents, but reads the texts with those of the student, "
                    f"{self._prompts()}: its scores may be worse; give the student these prompts "
                    f"(query_prompt=, doc_prompt=), or another guide",
                    stacklevel=user_level(),
                )
            return losses.CachedGISTEmbedLoss(
                network,
                guide.network.requires_grad_(False),
                temperature=1 / self.scale,
                mini_batch_size=size or self.batch_size,
                margin_strategy="relative",
                margin=options.guide_margin,
                contrast_anchors=False,
                contrast_positives=False,
                gather_across_devices=True,
            )
        shared: dict[str, Any] = {"scale": self.scale, "gather_across_devices": True}
        if size is None:
            return losses.MultipleNegativesRankingLoss(network, **shared)
        return losses.CachedMultipleNegativesRankingLoss(network, mini_batch_size=size, **shared)

    def _list_parts(
        self, network: Any, examples: pd.DataFrame, options: TrainingOptions
    ) -> tuple[dict[str, list], dict[str, Any]]:
        """Returns the columns of the lists, and the loss and collator of a trainer."""
        from pyterrier_inpars.rerankers._vector_training import ListCollator, VectorListLoss

        rows = listings(examples, "text", str(options.loss))
        columns: dict[str, list] = {
            "query": [row.query for row in rows],
            "texts": [row.texts for row in rows],
            "label": [row.targets for row in rows],
        }
        longest = max(map(len, columns["texts"])) if on_xla(network.device) else None
        objective = self._objective(options)
        return columns, {
            "loss": VectorListLoss(network, objective, options.mini_batch_size),
            "data_collator": ListCollator(network.preprocess, longest=longest),
        }

    def _objective(self, options: TrainingOptions) -> Callable[..., torch.Tensor]:
        """Returns the loss of the vectors of queries and documents, see ``VectorListLoss``."""
        from torch.nn.functional import normalize

        name, weight = str(options.loss), options.in_batch_weight
        over_lists = list_loss(name, options.temperature, options.teacher_temperature)

        def objective(
            queries: torch.Tensor,
            documents: torch.Tensor,
            place: torch.Tensor,
            targets: torch.Tensor,
            list_query: torch.Tensor,
        ) -> torch.Tensor:
            scores = self.scale * normalize(queries) @ normalize(documents).T
            value = over_lists(scores.gather(1, place), targets)
            if weight:
                value = value + weight * in_batch(scores, place, targets, queries=list_query)
            return value

        return objective

    def _in_batch_columns(self, examples: pd.DataFrame) -> dict[str, list]:
        """Returns query, positive, and as many negatives per query as the largest number."""
        rows = groups(examples, "text")
        relevant = documents_of((row.query, row.positive) for row in rows)
        width = max(len(row.negatives) for row in rows)
        known = [text for row in rows for text in row.negatives]
        others, distinct = cycle(known), set(known)
        negatives = []
        for row in rows:
            texts: Iterator[str] = cycle(row.negatives) if row.negatives else others
            own = relevant[row.query]
            if not row.negatives and not distinct <= own:
                texts = filterfalse(own.__contains__, others)
            negatives.append(list(islice(texts, width)))
        columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
        for i in range(width):
            columns[f"negative_{i + 1}"] = [row[i] for row in negatives]
        return columns


def _check_pooling(pooling: str | None) -> str | None:
    if pooling is not None and pooling not in POOLING:
        raise ValueError(f"pooling must be one of {', '.join(POOLING)}, not {pooling!r:.200}")
    return pooling


def _check_prompt(name: str, prompt: str | None) -> str | None:
    if not isinstance(prompt, str | None):
        raise ValueError(f"{name} must be a string or None, not {prompt!r:.200}")
    return prompt


def _poolings(network: Any) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return [part for part in network.modules() if isinstance(part, Pooling)]


def _pooling_mode(network: Any) -> Any:
    """Returns how a network pools; ``None`` if it does not."""
    return next((part.pooling_mode for part in _poolings(network)), None)
