"""MonoT5: a sequence-to-sequence model that judges whether a document is relevant to a query."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyterrier_inpars._compute.xla import full_batch, padded_length
from pyterrier_inpars._files import write_json
from pyterrier_inpars.rerankers._checkpoint import read_json
from pyterrier_inpars.rerankers._first_token import first_token
from pyterrier_inpars.rerankers.base import Reranker
from pyterrier_inpars.training.examples import balanced, check_negatives, listings
from pyterrier_inpars.training.losses import FROM_TEACHER, POINTWISE, list_loss, padded
from pyterrier_inpars.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding
    from typing_extensions import Unpack

    from pyterrier_inpars.rerankers.base import LoadingOptions
    from pyterrier_inpars.training.trainer import TrainingRun

SETTINGS_FILE = "inpars.json"
AT_ONCE = 1000
"""Number of pairs that are tokenized together."""
SPACE = "▁"
"""Prefix of a SentencePiece token at the start of a word."""


@dataclass(frozen=True)
class Settings:
    """Input and output format of a checkpoint, stored beside its weights in ``inpars.json``.

    Args:
        template: Input of the network, with ``{query}`` before ``{text}``.
        true: Word that means relevant; one token.
        false: Word that means not relevant; one token.
        max_length: Maximum number of tokens of the input; ``None`` for the model's own limit.

    Raises:
        ValueError: The template does not hold both placeholders in this order.
    """

    template: str
    true: str
    false: str
    max_length: int | None = None

    def __post_init__(self) -> None:
        placeholders = re.findall(r"\{(?:query|text)\}", self.template)
        if placeholders != ["{query}", "{text}"]:
            raise ValueError(
                f"template must hold {{query}}, and {{text}} after it, once each, not "
                f"{self.template!r}"
            )


MONOT5 = "Query: {query} Document: {text} Relevant:"
KINDS = {
    "T5": Settings(MONOT5, "true", "false"),
    "mT5": Settings(MONOT5, "yes", "no"),
    "FLAN-T5": Settings(
        "Is the following passage relevant to the query?\nQuery: {query}\nPassage: {text}",
        "yes",
        "no",
    ),
}
"""Templates and label words of the published models, by kind: monoT5 (arXiv 2003.06713), mMARCO
(arXiv 2108.13897) and the InPars Toolkit (arXiv 2307.04601)."""


def kind_of(config: Any) -> str | None:
    """Returns the kind of a model from its configuration; ``None`` for any other model.

    FLAN-T5 has the layers of T5 1.1: gated, with a separate output layer. The published
    configurations of FLAN-T5 contain the input length, ``n_positions``; those of T5 1.1 do not.
    """
    if config.model_type == "mt5":
        return "mT5"
    if config.model_type != "t5":
        return None
    gated = config.feed_forward_proj == "gated-gelu"
    return "FLAN-T5" if gated and hasattr(config, "n_positions") else "T5"


class MonoT5(Reranker):
    """Reranks by the log-probability of "true" against "false" as the first word of a T5's output.

    The template and the label words follow from the model's configuration, unless ``save`` has
    stored them beside the weights:

    - T5 reads "Query: ... Document: ... Relevant:" (Nogueira et al. 2020, arXiv 2003.06713).
    - mT5 reads the same, and its words are "yes" and "no" (Bonifacio et al. 2021, arXiv
      2108.13897).
    - FLAN-T5 reads "Is the following passage relevant to the query?", and its words are "yes" and
      "no", as in the InPars Toolkit (Abonizio et al. 2023, arXiv 2307.04601).

    Scores are natural logarithms, below 0, in the order of the log-odds of the two words. If the
    input is too long, the document is truncated, in training and in scoring, and then the query;
    the end of the template and the end token are always kept. Scores of a T5 and an mT5 equal those
    of ``pyterrier_t5.MonoT5ReRanker`` and ``mT5ReRanker`` at their ``batch_size=1``, for any batch
    size here.

    The losses of ``training``, see :mod:`pyterrier_inpars.training.losses`:

    - ``"pointwise"`` (the default, also called ``"binary"``): cross-entropy of the label word and
      the end token after it, of each pair on its own, as in the toolkit. Positives are repeated
      to the number of the negatives, so that half of the pairs are positives.
    - ``"listwise"``, ``"pairwise"``, ``"margin_mse"`` and ``"distillation"`` compare the log-odds
      of the two words between the documents of a qid. The last two learn from the scores of a
      teacher in the column ``score``. A list stays in one batch, ``per_device_train_batch_size``
      counts lists, and lists of one document are dropped.

    Args:
        model: Any T5, mT5 or FLAN-T5, such as ``castorini/monot5-base-msmarco-10k``; with
            ``template`` and ``labels``, any sequence-to-sequence model of transformers.
        template: Input of the network, with ``{query}`` before ``{text}``; ``None`` for the model's
            own.
        labels: Words that mean relevant and not relevant, one token each; ``None`` for the model's
            own.
        max_length: Maximum number of tokens of the input; ``None`` for the checkpoint's own limit,
            which is 512 in the published ones.
        training: See :class:`Reranker`.
        batch_size: Maximum number of pairs scored at once.
        text_field: Column with the text of the document, or several, such as ``["title", "text"]``,
            whose texts are joined by spaces.
        verbose: Whether to show progress bars and the libraries' own notices.
        **loading: See :class:`LoadingOptions`.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of range, the template does not have both placeholders in order,
            there are not two label words, or (on use) a word is not one token of the vocabulary,
            the template leaves no room for the query, or the model's type has no template.
    """

    schematic = {"label": "MonoT5", "help_url": None}

    ARTIFACT_FORMAT = "monot5"
    _method = "monot5"
    _default_loss = POINTWISE

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        template: str | None = None,
        labels: tuple[str, str] | None = None,
        max_length: int | None = None,
        training: TrainingOptions | Mapping[str, Any] | str | None = None,
        batch_size: int = 32,
        text_field: str | list[str] = "text",
        verbose: bool = False,
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
        two = labels is None or (len(labels) == 2 and len({*labels, ""}) == 3)
        if isinstance(labels, str) or not two:
            raise ValueError(f"labels must be two words, relevant and not relevant, not {labels!r}")
        if template is not None:
            Settings(template, "", "")  # checks it before a model is loaded
        self.template = template
        self.labels = labels

    def _load(self, device: torch.device) -> Any:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(
            self._name, padding_side="right", truncation_side="right", **self._source
        )
        self._saved = read_json(self._name, SETTINGS_FILE, self.revision) or {}
        network = AutoModelForSeq2SeqLM.from_pretrained(
            self._name, dtype=torch.float32, **self._source
        )
        return network.to(device)

    def _input_settings(self) -> tuple[Any, ...]:
        labels = self.labels if self.labels is None else tuple(self.labels)
        return (*super()._input_settings(), self.template, labels)

    def _adapt(self, network: Any) -> None:
        self._format = settings = self._resolved_settings(network.config)
        positions = getattr(network.config, "n_positions", None)
        self._limit = self.max_length or settings.max_length or positions or 512
        template = settings.template.replace("{query}", "").replace("{text}", "")
        if len(self._tokenizer(template)["input_ids"]) >= self._limit:
            raise ValueError(f"max_length={self._limit} leaves no room for a query in {template!r}")
        self._label_ids = [self._label(word) for word in (settings.true, settings.false)]
        # T5 accepts the trainer's number of targets but ignores it. If the trainer passed it, it
        # would sum the gradients of accumulated batches instead of averaging them.
        network.accepts_loss_kwargs = False

    def _input_format(self, network: Any) -> dict[str, Any]:
        return asdict(self._format) | {"max_length": self._limit}

    def _resolved_settings(self, config: Any) -> Settings:
        """Returns the given settings, completed by saved ones, then those of the model's kind."""
        given: dict[str, Any] = {} if self.template is None else {"template": self.template}
        if self.labels is not None:
            given["true"], given["false"] = self.labels
        kind = kind_of(config)
        settings = (asdict(KINDS[kind]) if kind else {}) | self._saved | given
        missing = {"template", "true", "false"} - settings.keys()
        if missing:
            raise ValueError(
                f"{str(self.model)!r} is a {config.model_type}, which has no known template: give "
                f"MonoT5 its template and labels"
            )
        return Settings(**settings)

    def _heads(self, network: Any) -> list[torch.nn.Module]:
        return [network.get_output_embeddings()]

    def _label(self, word: str) -> int:
        """Returns the single token of a word at the start of a text."""
        tokenizer: Any = self._tokenizer
        piece = tokenizer.convert_tokens_to_ids(SPACE + word.removeprefix(SPACE))
        if piece not in (None, tokenizer.unk_token_id):
            return piece
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(
                f"the label word {word!r} is {len(ids)} tokens of the vocabulary of "
                f"{str(self.model)!r}, {tokenizer.convert_ids_to_tokens(ids)}: it must be one"
            )
        return ids[0]

    def _rows(self, queries: list[str], texts: list[str]) -> list[list[int]]:
        """Returns the token ids of each pair.

        The input up to the end of the document and the rest are tokenized separately, as in
        ``pyterrier_t5``: only the first part is truncated.
        """
        opening, rest = self._format.template.split("{query}")
        middle, ending = rest.split("{text}")
        end = self._tokenizer(ending.strip())["input_ids"]
        starts = self._tokenizer(
            [opening + query + middle + text for query, text in zip(queries, texts, strict=True)],
            add_special_tokens=False,
            truncation=True,
            max_length=self._limit - len(end),
        )["input_ids"]
        return [start + end for start in starts]

    def _padded(self, rows: list[Any]) -> BatchEncoding:
        """Returns ``input_ids`` and ``attention_mask`` of rows of token ids, (rows, tokens)."""
        length = padded_length(max(map(len, rows)), self._limit, self.network.device)
        return self._tokenizer.pad(
            {"input_ids": rows}, padding="max_length", max_length=length, return_tensors="pt"
        )

    def _batch(self, queries: list[str], texts: list[str]) -> BatchEncoding:
        """Returns the network's input for the pairs."""
        return self._padded(self._rows(queries, texts))

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        network = self.network  # and its template and tokenizer
        ids: list[np.ndarray] = []  # a tenth of the memory of the tokenizer's lists
        for i in range(0, len(queries), AT_ONCE):
            rows = self._rows(queries[i : i + AT_ONCE], texts[i : i + AT_ONCE])
            ids += [np.array(row, dtype=np.int32) for row in rows]
        self._count_inputs([len(row) for row in ids], self._limit)

        with self._inference(), self._only_label_logits() as words:

            def forward(rows: list[int]) -> torch.Tensor:
                batch = self._padded([ids[r] for r in rows]).to(network.device)
                logits = self._first_logits(network, batch)[:, words].float()
                return logits[:, 0] - logits[:, 1]

            log_odds = self._in_batches([len(row) for row in ids], forward).astype(np.float64)
        # A log-softmax in float32 is 0 from log-odds of 17 on, where documents would tie.
        with np.errstate(invalid="ignore"):
            return -np.logaddexp(0.0, -log_odds)

    def _only_label_logits(self) -> AbstractContextManager[list[int]]:
        """Yields the columns of the logits of the two label words, the relevant one first."""
        if self._compile:  # replaced layers would be compiled again
            return nullcontext(self._label_ids)
        return first_token(self.network, self._label_ids)

    def _first_logits(self, network: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the logits of the first output token, (pairs, vocabulary)."""
        start = self.network.config.decoder_start_token_id
        start = batch["input_ids"].new_full((len(batch["input_ids"]), 1), start)
        return network(**batch, decoder_input_ids=start, use_cache=False).logits[:, 0]

    def _log_odds(self, network: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the log-odds of the relevant word against the other, (pairs,)."""
        logits = self._first_logits(network, batch)[:, self._label_ids].float()
        return logits[:, 0] - logits[:, 1]

    def _train(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        if run.options.loss not in FROM_TEACHER:
            check_negatives(examples)
        if run.options.loss == POINTWISE:
            self._train_on_pairs(examples, run)
        else:
            self._train_on_lists(examples, run)

    def _train_on_pairs(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        import torch
        from datasets import Dataset
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

        examples = balanced(examples)
        relevant, not_relevant = self._label_ids
        end = self._tokenizer.eos_token_id
        words = torch.tensor([[not_relevant, end], [relevant, end]])

        def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = self._batch([row["query"] for row in rows], [row["text"] for row in rows])
            return {**batch, "labels": words[[row["label"] for row in rows]]}

        queries, texts = examples["query"].tolist(), examples["text"].tolist()
        columns = {
            "query": queries,
            "text": texts,
            "label": examples["label"].astype(int).tolist(),
            "length": [len(q) + len(t) for q, t in zip(queries, texts, strict=True)],
        }
        run.train(
            Seq2SeqTrainer,
            Seq2SeqTrainingArguments,
            self.network,
            arguments={"remove_unused_columns": False},
            train_dataset=Dataset.from_dict(columns),
            data_collator=collate,
        )

    def _train_on_lists(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        import torch
        from datasets import Dataset
        from transformers import Seq2SeqTrainingArguments

        from pyterrier_inpars.rerankers._list_training import ListTrainer

        name = str(run.options.loss)
        lists = listings(examples, "text", name)
        targets = padded([row.targets for row in lists])
        longest = targets.shape[1]

        def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            pairs = [(row["query"], text) for row in rows for text in row["texts"]]
            pairs = full_batch(pairs, len(rows) * longest, self.network.device)
            batch = self._batch([query for query, _ in pairs], [text for _, text in pairs])
            labels = torch.tensor([row["targets"] for row in rows])
            return {**batch, "labels": labels}

        run.train(
            ListTrainer,
            Seq2SeqTrainingArguments,
            self.network,
            arguments={"remove_unused_columns": False},
            train_dataset=Dataset.from_list(
                [
                    {**row._asdict(), "targets": target, "length": row.length}
                    for row, target in zip(lists, targets.tolist(), strict=True)
                ]
            ),
            data_collator=collate,
            score=self._log_odds,
            loss=list_loss(name, run.options.temperature, run.options.teacher_temperature),
        )

    def _write(self, path: str) -> None:
        network = self.network
        # pyterrier_t5 reads the limit there, in the checkpoint.
        before = getattr(network.config, "n_positions", None)
        network.config.n_positions = self._limit
        network.save_pretrained(path)
        if before is None:
            vars(network.config).pop("n_positions", None)
        else:
            network.config.n_positions = before
        self._tokenizer.save_pretrained(path)
        write_json(Path(path) / SETTINGS_FILE, asdict(self._format) | {"max_length": self._limit})
