"""MonoT5: a sequence-to-sequence model that says whether a document is relevant to a query."""

from __future__ import annotations

import json
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
from pyterrier_inpars.rerankers._first_token import first_token
from pyterrier_inpars.rerankers.base import Reranker, read_json
from pyterrier_inpars.training.examples import check_negatives
from pyterrier_inpars.training.losses import (
    FROM_TEACHER,
    POINTWISE,
    checked_loss,
    checked_temperature,
    listings,
    objective,
    padded,
    spread,
)
from pyterrier_inpars.training.trainer import Training

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding

SETTINGS_FILE = "inpars.json"
AT_ONCE = 1000
"""Pairs that are tokenised at once."""
SPACE = "▁"
"""What a piece of SentencePiece begins with where a word begins."""


@dataclass(frozen=True)
class Settings:
    """How a checkpoint was trained, kept beside its weights in ``inpars.json``.

    Args:
        template: the network's input, with ``{query}`` before ``{text}``.
        true: the word that means relevant; one token.
        false: the word that means not relevant; one token.
        max_length: most tokens of the input; ``None``: as many as the model was made for.

    Raises:
        ValueError: the template has not both places, in this order.
    """

    template: str
    true: str
    false: str
    max_length: int | None = None

    def __post_init__(self) -> None:
        places = re.findall(r"\{(?:query|text)\}", self.template)
        if places != ["{query}", "{text}"]:
            raise ValueError(
                f"template must hold {{query}}, and {{text}} after it, once each: {self.template!r}"
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
"""Templates and words of the published models, by kind: monoT5 (arXiv 2003.06713), mMARCO
(arXiv 2108.13897) and the InPars toolkit (arXiv 2307.04601)."""


def kind_of(config: Any) -> str | None:
    """Which of the kinds a model is, by its configuration; ``None`` for any other.

    FLAN-T5 has the layers of T5 1.1, gated and with an output layer of its own. But the published
    configurations of FLAN-T5 tell its length, ``n_positions``, and those of T5 1.1 do not.
    """
    if config.model_type == "mt5":
        return "mT5"
    if config.model_type != "t5":
        return None
    gated = config.feed_forward_proj == "gated-gelu"
    return "FLAN-T5" if gated and hasattr(config, "n_positions") else "T5"


class MonoT5(Reranker):
    """Reranks by the log-probability of "true" against "false" as a T5's first word.

    A T5 reads "Query: ... Document: ... Relevant:" (Nogueira et al. 2020, arXiv 2003.06713), and so
    does an mT5, whose words are "yes" and "no" (Bonifacio et al. 2021, arXiv 2108.13897). A FLAN-T5
    is asked "Is the following passage relevant to the query?" and says "yes" or "no", as in the
    InPars toolkit (Abonizio et al. 2023, arXiv 2307.04601). Which of them a model is, its
    configuration tells, unless ``save`` has put the template and the words beside its weights.

    Scores are natural logarithms, at most 0. Where the input is too long the document is cut, in
    training as in scoring, and where the query alone is too long it is cut too: what follows the
    document in the template and the end token always stand.

    Scores of a T5 and an mT5 are those of ``pyterrier_t5.MonoT5ReRanker`` and ``mT5ReRanker`` at
    their ``batch_size=1``, at any batch size.

    Args:
        model: any T5, mT5 or FLAN-T5, such as ``castorini/monot5-base-msmarco-10k``; with
            ``template`` and ``labels``, any sequence-to-sequence model of transformers.
        template: the network's input, with ``{query}`` before ``{text}``; ``None`` for the model's
            own.
        labels: the words that mean relevant and not relevant, one token each; ``None`` for the
            model's own.
        max_length: most tokens of the input; ``None`` for the checkpoint's own, which is 512 in the
            published ones.
        loss: ``"pointwise"``, the cross-entropy of the word that the label stands for and the end
            token after it, as in the toolkit; or one that compares the log-odds of the two words
            between documents: ``"listwise"``, the cross-entropy of the softmax over a positive and
            all negatives of its qid (Zhuang et al. 2022, "RankT5", arXiv 2210.10634);
            ``"pairwise"``, the logistic loss of the difference between a positive and a negative
            (RankNet, Burges et al. 2005); and with a teacher's scores in a column ``score``,
            ``"margin_mse"``, the squared error of that difference to the teacher's (Hofstätter et
            al. 2020, arXiv 2010.02666), or ``"distillation"``, the Kullback-Leibler divergence of
            the softmax over the documents of a qid from the teacher's. But for ``"pointwise"``, a
            list stays in one batch, ``per_device_train_batch_size`` counts lists, and those of one
            document, which teach nothing, are left out.
        temperature: of both softmaxes in ``"distillation"``; the others do not read it.

    The other parameters are those of :class:`Reranker`.

    Raises:
        ValueError: the template does not hold both places in order, there are not two words, there
            is no such loss, the temperature is not above 0, or
            (on use) a word is not one token of the model's, the template leaves no room for the
            query, or nothing tells what a model of this kind reads.
    """

    schematic = {"label": "MonoT5", "help_url": None}

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        template: str | None = None,
        labels: tuple[str, str] | None = None,
        max_length: int | None = None,
        loss: str = POINTWISE,
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
        two = labels is None or (len(labels) == 2 and len({*labels, ""}) == 3)
        if isinstance(labels, str) or not two:
            raise ValueError(f"labels must be two words, relevant and not relevant, not {labels!r}")
        if template is not None:
            Settings(template, "", "")  # an error now rather than after loading a model
        self.template = template
        self.labels = labels
        checked_loss(loss)
        self.loss = loss
        self.temperature = checked_temperature(temperature)

    def _load(self, device: torch.device) -> Any:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        name = os.fspath(self.model)
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._saved = read_json(name, SETTINGS_FILE) or {}
        return AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32).to(device)

    def _adapt(self, network: Any) -> None:
        self._settings = settings = self._settled(network.config)
        positions = getattr(network.config, "n_positions", None)
        self._limit = self.max_length or settings.max_length or positions or 512
        template = settings.template.replace("{query}", "").replace("{text}", "")
        if len(self._tokenizer(template)["input_ids"]) >= self._limit:
            raise ValueError(f"max_length={self._limit} leaves no room for a query in {template!r}")
        self._label_ids = [self._label(word) for word in (settings.true, settings.false)]
        # T5 takes the trainer's count of targets and ignores it: left to believe otherwise, the
        # trainer would add up the gradients of accumulated batches instead of taking their mean.
        network.accepts_loss_kwargs = False

    def _settled(self, config: Any) -> Settings:
        """The settings: those asked for, else those saved, else those of the model's kind."""
        given: dict[str, Any] = {} if self.template is None else {"template": self.template}
        if self.labels is not None:
            given["true"], given["false"] = self.labels
        kind = kind_of(config)
        settings = (asdict(KINDS[kind]) if kind else {}) | self._saved | given
        missing = {"template", "true", "false"} - settings.keys()
        if missing:
            raise ValueError(
                f"{str(self.model)!r} is a {config.model_type}, and nothing tells what it was "
                f"trained to read and say: give MonoT5 its template and labels"
            )
        return Settings(**settings)

    def _heads(self, network: Any) -> list[torch.nn.Module]:
        return [network.get_output_embeddings()]

    def _label(self, word: str) -> int:
        """The one token of a word, as it stands at the beginning of a text."""
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
        """The token ids that the network reads of each pair.

        The part before the end of the document and the part after it are tokenised apart, as
        ``pyterrier_t5`` does, so that the first can be cut and the second cannot.
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
        return [start + end for start in starts]

    def _padded(self, rows: list[Any]) -> BatchEncoding:
        """The network's input for rows: ``input_ids`` and ``attention_mask``, (rows, tokens)."""
        length = padded_length(max(map(len, rows)), self._limit, self.network.device)
        return self._tokenizer.pad(
            {"input_ids": rows}, padding="max_length", max_length=length, return_tensors="pt"
        )

    def _batch(self, queries: list[str], texts: list[str]) -> BatchEncoding:
        """The network's input for the pairs."""
        return self._padded(self._rows(queries, texts))

    def _score(self, queries: list[str], texts: list[str]) -> np.ndarray:
        ids: list[np.ndarray] = []  # of a tenth of the memory of the tokenizer's own
        for i in range(0, len(queries), AT_ONCE):
            rows = self._rows(queries[i : i + AT_ONCE], texts[i : i + AT_ONCE])
            ids += [np.array(row, dtype=np.int32) for row in rows]

        with self._only_what_scores_need() as words:

            def forward(rows: list[int]) -> torch.Tensor:
                batch = self._padded([ids[r] for r in rows]).to(self.network.device)
                logits = self._first_logits(self.network, batch)[:, words]
                return logits.log_softmax(dim=1)[:, 0]

            return self._in_batches([len(row) for row in ids], forward)

    def _only_what_scores_need(self) -> AbstractContextManager[list[int]]:
        """Gives the columns of the logits where the two words are, the relevant one first."""
        if self._compile:  # it would be compiled again
            return nullcontext(self._label_ids)
        return first_token(self.network, self._label_ids)

    def _first_logits(self, network: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits of the first word that is said, (pairs, words)."""
        start = self.network.config.decoder_start_token_id
        start = batch["input_ids"].new_full((len(batch["input_ids"]), 1), start)
        return network(**batch, decoder_input_ids=start, use_cache=False).logits[:, 0]

    def _train(self, examples: pd.DataFrame, training: Training) -> None:
        name = checked_loss(self.loss)
        if name not in FROM_TEACHER:
            check_negatives(examples)
        if name == POINTWISE:
            self._train_on_words(examples, training)
        else:
            self._train_on_lists(examples, name, training)

    def _train_on_words(self, examples: pd.DataFrame, training: Training) -> None:
        import torch
        from datasets import Dataset
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

        relevant, not_relevant = self._label_ids
        end = self._tokenizer.eos_token_id
        words = torch.tensor([[not_relevant, end], [relevant, end]])

        def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = self._batch([row["query"] for row in rows], [row["text"] for row in rows])
            return {**batch, "labels": words[[row["label"] for row in rows]]}

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

    def _train_on_lists(self, examples: pd.DataFrame, name: str, training: Training) -> None:
        import torch
        from datasets import Dataset
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

        first_logits, words = self._first_logits, self._label_ids
        loss = objective(name, self.temperature)
        lists = listings(examples, self.text_field, name)
        targets = padded([row.targets for row in lists])
        longest = targets.shape[1]

        class ListTrainer(Seq2SeqTrainer):
            def compute_loss(
                self,
                model: Any,
                inputs: Any,
                return_outputs: bool = False,
                num_items_in_batch: torch.Tensor | int | None = None,
            ) -> Any:
                inputs = dict(inputs)
                targets = inputs.pop("labels")
                logits = first_logits(model, inputs)[:, words].float()
                value = loss(spread(logits[:, 0] - logits[:, 1], targets), targets)
                return (value, {"logits": logits}) if return_outputs else value

        def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            pairs = [(row["query"], text) for row in rows for text in row["texts"]]
            pairs = full_batch(pairs, len(rows) * longest, self.network.device)
            batch = self._batch([query for query, _ in pairs], [text for _, text in pairs])
            labels = torch.tensor([row["targets"] for row in rows])
            return {**batch, "labels": labels}

        training.run(
            ListTrainer,
            Seq2SeqTrainingArguments,
            self.network,
            "monot5",
            arguments={"remove_unused_columns": False},
            train_dataset=Dataset.from_list(
                [
                    {**row._asdict(), "targets": target, "length": row.length}
                    for row, target in zip(lists, targets.tolist(), strict=True)
                ]
            ),
            data_collator=collate,
        )

    def _write(self, path: str) -> None:
        network = self.network
        network.config.n_positions = self._limit  # where pyterrier_t5 looks for the length
        network.save_pretrained(path)
        self._tokenizer.save_pretrained(path)
        settings = asdict(self._settings) | {"max_length": self._limit}
        (Path(path) / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
