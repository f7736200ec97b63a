"""What every reranker does alike: load, score, train and save around one neural network."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir_measures
import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._compute.devices import CPU_TOKENS, best_device, best_dtype, is_int8, quantize
from pyterrier_inpars._compute.onednn import onednn
from pyterrier_inpars._compute.xla import (
    full_batch,
    on_xla,
    padded_length,
    tie_weights,
    weights_on_cpu,
)
from pyterrier_inpars._stage import Stage, check_columns, check_strings, positive_int
from pyterrier_inpars.training.examples import check_examples, hold_out
from pyterrier_inpars.training.losses import DISTILLATION
from pyterrier_inpars.training.provenance import (
    TRAINING_FILE,
    fingerprint,
    first_weights,
    model_card,
    write_json,
)
from pyterrier_inpars.training.recipes import HELD_OUT, settings
from pyterrier_inpars.training.trainer import Training, main_process, quiet

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

CHARACTERS = 4
"""Characters of a token, about, where the tokens are not counted."""


class Reranker(Stage, pt.Estimator):
    """A neural network that scores a document for a query, and can be trained to.

    The network is loaded when it is first used. Its weights are kept in float32, which training
    needs; ``dtype`` is the precision of its matrix products (by autocast), in scoring and training.

    Note:
        PyTerrier rebuilds a transformer from its constructor's parameters now and then, and ``fit``
        does not change those: ``save`` a trained reranker and load it by its path.

    Args:
        model: name on the Hugging Face hub, or path of a folder such as ``save`` writes.
        max_length: most tokens of the network's input, at least 8, so that it holds something of
            query and document. ``None``: as many as the model is made for.
        training: fields of the Hugging Face ``TrainingArguments``, in place of the class's own; or
            the name of a recipe of ``recipes.RECIPES``, ``"inpars"`` or ``"inpars-light"``, which
            as ``"recipe"`` can also stand among the fields. Further keys: ``"effective_batch"``,
            the examples of a step on all devices together, which sets the gradient accumulation;
            ``"patience"``, how many measurements in a row may bring nothing better until training
            stops; ``"held_out"``, the share of the queries to measure on (0.1) where ``fit`` gets
            none to validate on; ``"overwrite_output_dir"``; and ``"lora"``, ``True`` or a dict of
            fields of ``peft.LoraConfig`` such as ``{"r": 16}`` (extra ``lora``): small matrices are
            trained beside the linear layers, and merged into them at the end; a head for scores is
            trained as without. LoRA wants a higher ``learning_rate``, often ten times as high,
            which is not set for you. Two fields that save memory: ``activation_checkpointing``
            (``gradient_checkpointing`` before transformers 5.23) computes the layers twice, to the
            same weights, but not on XLA; ``optim`` ``"adamw_bnb_8bit"`` keeps AdamW's states in a
            quarter of the memory, on a CUDA GPU with the package ``bitsandbytes``.
        output_dir: where the trainer writes checkpoints, ten a run unless ``training`` says
            otherwise. A training that was killed goes on from the last of them when it is started
            again with the same data and settings, to the same weights on a CPU in float32.
            ``None``: a temporary folder, removed after training.
        seed: decides the initial weights of a new head, the order of the examples and the dropout.
        batch_size: most rows that are scored at once; on a CPU they have 2,048 tokens at most.
        text_field: column with the text of the document.
        dtype: ``"auto"`` (bfloat16 where the processor computes in it, else float32),
            ``"float32"``, ``"bfloat16"``, ``"float16"``, a ``torch.dtype``, or ``"int8"``: weights
            of one byte, computed with as by ``"auto"``, except those of the layer that makes the
            scores. Such a reranker can neither be trained nor saved.
        compile: compile the network with ``torch.compile`` when it is first used, which takes a
            minute and a C++ compiler on a CPU.
        device: ``None`` for the best there is, or a name such as ``"cpu"``, ``"cuda"``, or
            ``"xla"`` for a TPU (package ``torch_xla``), which ``None`` means where the environment
            has ``PJRT_DEVICE=TPU``.
        verbose: shows progress bars and the libraries' own notices.

    Attributes:
        history: list of dict, the trainer's log of the last ``fit``: ``loss`` (mean since the entry
            before), ``learning_rate`` and ``step``, twenty entries a run; with a validation,
            ``eval_`` and the name of the measure.
        train_loss: float, mean training loss of the last ``fit``; ``None`` before it.
        provenance: dict, the account of the last ``fit``: ``settings`` (of the reranker, the
            trainer and the batches, fingerprints of examples and first weights), ``batches``
            (``steps``, ``effective_batch`` and how many examples were ``seen``), ``versions``,
            ``history``, ``loss``, and as ``before`` the same of the training before it; ``None``
            before it. ``save`` writes it.
    """

    loss: str

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
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
        self.model = model
        self.max_length = None if max_length is None else positive_int("max_length", max_length, 8)
        self.training = training
        self.output_dir = output_dir
        self.seed = seed
        self.batch_size = positive_int("batch_size", batch_size)
        self.text_field = text_field
        self.dtype = dtype
        self._compile = compile  # compile() is a method of every transformer
        self.device = device
        self.verbose = verbose
        self.history: list[dict[str, float]] = []
        self.train_loss: float | None = None
        self.provenance: dict[str, Any] | None = None
        self._network: Any = None

    def _load(self, device: torch.device) -> Any:
        """Loads the network in float32 onto the device."""
        raise NotImplementedError

    def _adapt(self, network: Any) -> None:
        """Sets what this reranker asks of a sentence-transformers network just loaded.

        Raises:
            ValueError: ``max_length`` is more than the network has positions.
        """
        if self.max_length is not None:
            positions = getattr(network.config, "max_position_embeddings", self.max_length)
            if 0 < positions < self.max_length:
                raise ValueError(
                    f"max_length={self.max_length} is more than the {positions} positions of "
                    f"{str(self.model)!r}"
                )
            network.max_seq_length = self.max_length
        pad_for_device(network)

    def _heads(self, network: Any) -> list[torch.nn.Module]:
        """The layers that make the scores, which are computed and kept in float32."""
        return []

    def _score(self, queries: list[str], texts: list[str]) -> ArrayLike:
        """Scores of the pairs, in their order; runs without gradients and under autocast."""
        raise NotImplementedError

    def _in_batches(
        self, lengths: Sequence[float], forward: Callable[[list[int]], torch.Tensor]
    ) -> np.ndarray:
        """What ``forward`` gives for the rows, float32, in their order.

        It is given row numbers by the batches of ``like_length``; some twice, where the device
        wants full batches.

        Args:
            lengths: of the rows, in tokens.
            forward: gives a tensor with a row for each row number.
        """
        device = self.network.device
        most = CPU_TOKENS if device.type == "cpu" else np.inf
        batches = like_length(lengths, self.batch_size, most)
        found = []
        for rows in pt.tqdm(
            batches, desc=type(self).__name__, unit="batch", disable=not self.verbose
        ):
            scores = forward(full_batch(rows, self.batch_size, device))
            # Cut here: on XLA the cut would be compiled, for each number of rows.
            found.append(scores.cpu()[: len(rows)].float().numpy())
        return np.concatenate(found)[np.argsort(np.concatenate(batches))]

    def _tokens(self, texts: Iterable[str]) -> list[float]:
        """About how many tokens a sentence-transformers network reads of each text."""
        limit = self.network.max_seq_length or np.inf
        return [min(len(text) / CHARACTERS, limit) for text in texts]

    def _train(self, examples: pd.DataFrame, training: Training) -> None:
        """Trains the network on checked examples."""
        raise NotImplementedError

    def _write(self, path: str) -> None:
        """Writes a sentence-transformers network and all it needs into an existing folder."""
        self.network.save_pretrained(path, create_model_card=False)

    @property
    def network(self) -> Any:
        """The network, loaded on first use.

        Raises:
            OSError: there is no such model, or it is of another kind.
        """
        if self._network is None:
            import torch

            with quiet(self.verbose), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)  # a head that the checkpoint lacks is drawn at random
                try:
                    network = self._load(best_device(self.device)).eval()
                except Exception as error:  # a damaged file can raise anything
                    raise cannot_load(type(self).__name__, self.model, error) from error
            if on_xla(network.device):
                tie_weights(network)
            for weight in network.parameters():
                # Mapped from a file, weights start anywhere, and products of unaligned ones differ
                # in their last bit: a checkpoint would not give the scores of what was saved.
                weight.data = weight.data.clone()
            self._adapt(network)
            for head in self._heads(network):
                keep_float32(head)
            if is_int8(self.dtype):
                quantize(network, best_dtype(self.dtype, network.device), self._heads(network))
            if self._compile and not on_xla(network.device):  # which compiles in any case
                network.compile(dynamic=True)  # for any number of rows and tokens
            self._network = network
        return self._network

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", self.text_field]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [c for c in columns if c not in ("score", "rank")] + ["score", "rank"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        import torch

        check_strings(inp, "qid", "query", self.text_field)
        with torch.no_grad(), self._precision():  # XLA does not take inference_mode
            scores = self._score(inp["query"].tolist(), inp[self.text_field].tolist())
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=pd.Series(scores, dtype="float64")))

    def _precision(self) -> AbstractContextManager:
        """What scores are computed under."""
        import torch

        device = self.network.device
        dtype = best_dtype(self.dtype, device)
        if dtype != torch.float32:
            return torch.autocast(device.type, dtype)
        if self._compile:  # it would be compiled again
            return nullcontext()
        return onednn(self.network, keep=self._heads(self.network))

    def fit(
        self,
        examples: pd.DataFrame,
        qrels: pd.DataFrame | None = None,
        validation: pd.DataFrame | None = None,
        validation_qrels: pd.DataFrame | None = None,
    ) -> Reranker:
        """Trains the network, from its present weights on, alone or as a pipeline's last stage.

        Args:
            examples: frame ``qid, query, docno, text, label``, one row a pair; ``label`` is 1 for a
                relevant document and 0 for a negative. ``loss="distillation"`` reads ``score``
                instead, and ``label`` only where ``training`` has queries held out.
            qrels: not read; the labels are in ``examples``.
            validation: frame ``qid, query, docno, text`` of results, which are reranked ten times
                a run, or as ``eval_strategy`` and ``eval_steps`` in ``training`` say. The weights
                with the best nDCG@10 are those kept, or with the best ``metric_for_best_model``,
                any measure of ``ir_measures``. ``None``: none, unless ``training`` has
                ``"patience"`` or ``"held_out"``; then a share of the queries of ``examples`` is not
                trained on, and their documents are reranked.
            validation_qrels: frame ``qid, docno, label``; ``None`` for the column ``label`` of
                ``validation``.

        Returns:
            This reranker; ``history``, ``train_loss`` and ``provenance`` tell how training went.

        Raises:
            pt.validate.InputValidationError: a column is missing.
            ValueError: no examples, none of the kind the loss needs, a label other than 0 and 1, an
                unknown recipe, batches that do not divide, a training in ``output_dir`` that was
                started with other data or settings, or a reranker in int8.
            FileExistsError: ``output_dir`` holds a finished training.
            TypeError: ``training`` has a field that there is not.
        """
        fields = settings(self.training)
        holds_out = validation is None and bool({"patience", "held_out"} & fields.keys())
        labelled = self.loss != DISTILLATION or holds_out
        needed = [*self._required_columns(), *["label"] * labelled]
        check_columns(examples, *needed, context=self)
        self._check_not_int8("trained")
        check_examples(examples, self.text_field, labelled)
        if holds_out:
            share = fields.get("held_out", HELD_OUT)
            examples, validation = hold_out(examples, share, self.seed)
        about = {"reranker": self._about(), "examples": fingerprint(examples, self.text_field)}
        measure = None
        if validation is not None:
            validation, judged = self._judged(validation, validation_qrels)
            about["validation"] = fingerprint(validation, self.text_field)
            about["validation_qrels"] = judged.astype(str).sort_values(["qid", "docno"]).to_csv()

            def measure(name: str) -> float:
                return self._measure(name, validation, judged)

        training = Training(
            fields=fields,
            output_dir=self.output_dir,
            seed=self.seed,
            dtype=best_dtype(self.dtype, self.network.device),
            verbose=self.verbose,
            about=about | {"first_weights": first_weights(self.network)},
            measure=measure,
        )
        with quiet(self.verbose):
            self._train(examples.reset_index(drop=True), training)
        self.history, self.train_loss = training.history, training.loss
        before = self._past()
        self.provenance = training.record | ({"before": before} if before else {})
        return self

    def _about(self) -> dict[str, Any]:
        """What of the constructor's parameters the trained weights depend on."""
        names = inspect.signature(type(self).__init__).parameters.keys()
        without = {"training", "output_dir", "batch_size", "compile", "device", "verbose"}
        told = {name: getattr(self, name) for name in names - {"self", "model", *without}}
        told["dtype"] = str(best_dtype(self.dtype, self.network.device)).removeprefix("torch.")
        return {"class": type(self).__name__, "model": self._base_name(), **told}

    def _base_name(self) -> str:
        """The model's name on the hub, or that of its folder alone."""
        name = os.fspath(self.model)
        return Path(name).resolve().name if os.path.isdir(name) else name

    def _past(self) -> dict[str, Any] | None:
        """The account of the training that made the present weights, if there is one."""
        return self.provenance or read_json(os.fspath(self.model), TRAINING_FILE)

    def _judged(
        self, validation: pd.DataFrame, qrels: pd.DataFrame | None
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The results to rerank in a validation, and their qrels."""
        pt.validate.columns(validation, includes=self._required_columns(), context=self)
        if qrels is None:
            qrels = validation
        if not {"qid", "docno", "label"} <= set(qrels.columns):
            raise ValueError(
                "validation needs labels: give validation_qrels with columns qid, docno, label, or "
                "a column label in validation"
            )
        qrels = qrels[["qid", "docno", "label"]]
        if not validation["qid"].isin(qrels["qid"][qrels["label"] > 0]).any():
            raise ValueError("no query of the validation has a relevant document in the qrels")
        return validation[self._required_columns()].reset_index(drop=True), qrels

    def _measure(self, name: str, results: pd.DataFrame, qrels: pd.DataFrame) -> float:
        """Mean of a measure, over the queries of the qrels, of the results as scored now."""
        with warnings.catch_warnings():
            # the head is new only until training is over
            warnings.filterwarnings("ignore", message=".*without a head for scores")
            reranked = self.transform(results)
        run = reranked.rename(columns={"qid": "query_id", "docno": "doc_id"})
        qrels = qrels.set_axis(["query_id", "doc_id", "relevance"], axis="columns")
        measure = ir_measures.parse_measure(name)
        return ir_measures.calc_aggregate([measure], qrels, run)[measure]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes a checkpoint, which this class loads by its path with the same scores.

        A trained one comes with the account of its training, ``inpars_training.json``, and a model
        card, ``README.md``. The folder is as the Hugging Face hub has it. Of several processes the
        first alone writes.

        Args:
            path: a folder; it and its parents are made where they do not exist.
            overwrite: write into the folder even if there is something in it.

        Returns:
            The folder.

        Raises:
            FileExistsError: there is something in the folder, and ``overwrite`` is not set.
            ValueError: the reranker is in int8.
        """
        self._check_not_int8("saved")
        path = Path(path)
        if not main_process():
            return path
        if path.exists() and any(path.iterdir()) and not overwrite:
            raise FileExistsError(f"{path} is not empty: give another path, or overwrite=True")
        path.mkdir(parents=True, exist_ok=True)
        with quiet(self.verbose), weights_on_cpu(self.network):
            self._write(str(path))
        record = self._past()
        if record is not None:
            write_json(path / TRAINING_FILE, record)
            card = model_card(record, type(self).__name__)
            (path / "README.md").write_text(card, encoding="utf-8")
        return path

    def _check_not_int8(self, done: str) -> None:
        if is_int8(self.dtype):
            raise ValueError(
                f"{self!r} cannot be {done}, for its weights are rounded to int8: train and save "
                f"with another dtype, then load what is saved with dtype='int8'"
            )


def like_length(lengths: Sequence[float], rows: int, tokens: float) -> list[list[int]]:
    """Row numbers by batches of like length, longest first, so that memory fails at once.

    Args:
        lengths: of the rows, in tokens.
        rows: most rows of a batch.
        tokens: most tokens of a batch whose rows are all padded to its longest; a row that has more
            is a batch.
    """
    order = np.argsort(-np.asarray(lengths, dtype=float), kind="stable").tolist()
    found: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, int(min(rows, tokens // max(1, lengths[order[start]]))))
        found.append(order[start : start + size])
        start += size
    return found


def cannot_load(who: str, model: str | os.PathLike[str], error: Exception) -> OSError:
    """The error for a model that is not there, or cannot be loaded by ``who``."""
    return OSError(
        f"{who} cannot load the model {str(model)!r}: give the name of a model on the Hugging Face "
        f"hub, or the path of a folder that holds config.json, the weights and the tokenizer. "
        f"{error}"
    )


def read_json(model: str, file: str) -> Any:
    """What a model's JSON file holds, in its folder or on the hub; ``None`` without the file."""
    from transformers.utils import cached_file

    path = cached_file(
        model,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


def pad_for_device(network: Any) -> None:
    """Has a sentence-transformers network pad its input to the lengths of ``padded_length``."""
    preprocess = network.preprocess

    def padded(*args: Any, **options: Any) -> Any:
        batch = preprocess(*args, **options)
        if "attention_mask" in batch:  # there is none without a transformer
            tokens = batch["attention_mask"].shape[1]
            length = padded_length(tokens, network.max_seq_length or np.inf, network.device)
            if length > tokens:
                parts = {k: batch[k] for k in network.tokenizer.model_input_names if k in batch}
                batch |= network.tokenizer.pad(
                    parts, padding="max_length", max_length=length, return_tensors="pt"
                )
        return batch

    network.preprocess = padded


def keep_float32(head: torch.nn.Module) -> None:
    """Has the layer that makes the scores compute in float32, under autocast too.

    Near 10, numbers in bfloat16 are 1/16 apart: whole groups of documents would tie.
    """
    head.register_forward_hook(_in_float32)


def _in_float32(head: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    import torch

    if output.dtype == torch.float32:
        return output
    with torch.autocast(output.device.type, enabled=False):
        return head.forward(args[0].float())
