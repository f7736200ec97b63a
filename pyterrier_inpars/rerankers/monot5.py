"""MonoT5: a sequence-to-sequence model that says whether a document is relevant to a query."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_inpars.rerankers._base import Reranker, keep_float32
from pyterrier_inpars.training import Training, check_negatives

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding

SETTINGS_FILE = "inpars.json"


@dataclass(frozen=True)
class Settings:
    """How a checkpoint was trained, kept beside its weights in ``inpars.json``.

    Args:
        template: the network's input, with ``{query}`` before ``{text}``.
        true: the word that means relevant; one token.
        false: the word that means not relevant; one token.
        max_length: most tokens of the input; ``None``: as many as the model was made for.
    """

    template: str = "Query: {query} Document: {text} Relevant:"
    true: str = "true"
    false: str = "false"
    max_length: int | None = None

    @classmethod
    def of(cls, model: str) -> Settings:
        """The settings saved with a model; the default ones where there are none."""
        from transformers.utils import cached_file

        path = cached_file(
            model,
            SETTINGS_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return cls(**json.loads(Path(path).read_text())) if path else cls()


class MonoT5(Reranker):
    """Reranks by the log-probability of "true" against "false" as a T5's first word.

    The network reads "Query: ... Document: ... Relevant:" (Nogueira et al. 2020, arXiv 2003.06713).
    Scores are natural logarithms, at most 0. Where the input is too long the document is cut, in
    training as in scoring, and where the query alone is too long it is cut too: "Relevant:" and the
    end token always stand. Trained with the cross-entropy of the word that the label stands for, as
    the InPars toolkit does (Abonizio et al. 2023, arXiv 2307.04601).

    Scores are those of ``pyterrier_t5.MonoT5ReRanker`` at its ``batch_size=1``, at any batch size.

    Args:
        model: any T5, such as ``castorini/monot5-base-msmarco-10k``. Template, label words and
            length are those that ``save`` has put beside its weights, or else monoT5's own.
        max_length: most tokens of the input; ``None`` for the checkpoint's own, which is 512 in the
            published ones.

    The other parameters are those of :class:`Reranker`.
    """

    schematic = {"label": "MonoT5", "help_url": None}

    def _load(self, device: torch.device) -> Any:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        name = os.fspath(self.model)
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._settings = Settings.of(name)
        return AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32).to(device)

    def _adapt(self, network: Any) -> None:
        """Reads the settings.

        Raises:
            ValueError: a label word is not one token of the model's vocabulary.
        """
        settings = self._settings
        positions = getattr(network.config, "n_positions", None)
        self._limit = self.max_length or settings.max_length or positions or 512
        self._labels = [self._label(word) for word in (settings.true, settings.false)]
        keep_float32(network.lm_head)
        # T5 takes the trainer's count of targets and ignores it: left to believe otherwise, the
        # trainer would add up the gradients of accumulated batches instead of taking their mean.
        network.accepts_loss_kwargs = False

    def _label(self, word: str) -> int:
        ids = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self._tokenizer.unk_token_id:
            raise ValueError(
                f"the label word {word!r} is {len(ids)} tokens of the vocabulary of "
                f"{str(self.model)!r}, {self._tokenizer.convert_ids_to_tokens(ids)}: it must be one"
            )
        return ids[0]

    def _batch(self, queries: list[str], texts: list[str]) -> BatchEncoding:
        """The network's input for the pairs: ``input_ids`` and ``attention_mask``, (pairs, tokens).

        The part before the end of the document and the part after it are tokenised apart, as
        ``pyterrier_t5`` does, so that the first can be cut and the second cannot; the rows are
        padded when they are whole.
        """
        opening, rest = self._settings.template.split("{query}")
        middle, ending = rest.split("{text}")
        end = self._tokenizer(ending.strip())["input_ids"]
        starts = self._tokenizer(
            [opening + query + middle + text for query, text in zip(queries, texts, strict=True)],
            add_special_tokens=False,
            truncation=True,
            max_length=self._limit - len(end),
        )["input_ids"]
        return self._tokenizer.pad({"input_ids": [s + end for s in starts]}, return_tensors="pt")

    def _score(self, queries: list[str], texts: list[str]) -> list[float]:
        scores = [0.0] * len(queries)
        for rows in self._batches([len(q) + len(t) for q, t in zip(queries, texts, strict=True)]):
            batch = self._batch([queries[r] for r in rows], [texts[r] for r in rows])
            batch = batch.to(self.network.device)
            start = self.network.config.decoder_start_token_id
            start = batch["input_ids"].new_full((len(rows), 1), start)
            logits = self.network(**batch, decoder_input_ids=start, use_cache=False).logits
            log_probs = logits[:, 0, self._labels].log_softmax(dim=1)[:, 0]
            for row, log_prob in zip(rows, log_probs.tolist(), strict=True):
                scores[row] = log_prob
        return scores

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Row numbers by batches of like length, longest first, so that memory fails at once."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        starts = range(0, len(order), self.batch_size)
        for i in pt.tqdm(starts, desc="MonoT5", unit="batch", disable=not self.verbose):
            yield order[i : i + self.batch_size]

    def _train(self, examples: pd.DataFrame, training: Training) -> None:
        from datasets import Dataset
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

        check_negatives(examples)
        words = self._tokenizer([self._settings.false, self._settings.true], return_tensors="pt")

        def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = self._batch([row["query"] for row in rows], [row["text"] for row in rows])
            return {**batch, "labels": words["input_ids"][[row["label"] for row in rows]]}

        queries, texts = examples["query"].tolist(), examples[self.text_field].tolist()
        columns = {
            "query": queries,
            "text": texts,
            "label": examples["label"].astype(int).tolist(),
            "length": [len(q) + len(t) for q, t in zip(queries, texts, strict=True)],
        }
        training.run(
            Seq2SeqTrainer,
            Seq2SeqTrainingArguments,
            self.network,
            "monot5",
            arguments={"remove_unused_columns": False},
            train_dataset=Dataset.from_dict(columns),
            data_collator=collate,
        )

    def _write(self, path: str) -> None:
        network = self.network
        network.config.n_positions = self._limit  # where pyterrier_t5 looks for the length
        network.save_pretrained(path)
        self._tokenizer.save_pretrained(path)
        settings = asdict(self._settings) | {"max_length": self._limit}
        (Path(path) / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
