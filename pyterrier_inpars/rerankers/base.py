"""What all rerankers share: loading, scoring, training and saving a neural network."""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_inpars._arguments import positive_int
from pyterrier_inpars._compute.batches import batches_of_similar_length
from pyterrier_inpars._compute.cpu_linear import onednn_linear
from pyterrier_inpars._compute.devices import CPU_TOKENS, best_device, best_dtype, is_int8, quantize
from pyterrier_inpars._compute.memory_limit import MemoryLimit, is_out_of_memory
from pyterrier_inpars._compute.xla import full_batch, on_xla, tie_weights, weights_on_cpu
from pyterrier_inpars._files import write_json, write_text
from pyterrier_inpars._hub import resolved
from pyterrier_inpars._progress import Progress
from pyterrier_inpars._quiet import quiet
from pyterrier_inpars._stack_level import user_level
from pyterrier_inpars._stage import Stage, check_columns, check_strings, fields_of, joined_text
from pyterrier_inpars.rerankers._artifact import RerankerArtifact, other_artifact
from pyterrier_inpars.rerankers._checkpoint import (
    cannot_load,
    check_source,
    read_json,
    replaced_checkpoint,
)
from pyterrier_inpars.rerankers._display import reranker_html
from pyterrier_inpars.training._finite import NotFiniteError, check_weights
from pyterrier_inpars.training._names import check_names
from pyterrier_inpars.training.examples import (
    NEGATIVES,
    check_examples,
    default_share,
    graded_qrels,
    hold_out,
    with_labels,
)
from pyterrier_inpars.training.lora import lora_config
from pyterrier_inpars.training.losses import FROM_TEACHER, LOSSES, UNLABELLED
from pyterrier_inpars.training.model_selection import (
    FIRST_STAGE,
    START,
    Validation,
    verdict_frame,
)
from pyterrier_inpars.training.options import OWN_OPTIONS, TrainingOptions, validates_during
from pyterrier_inpars.training.provenance import (
    TRAINING_FILE,
    fingerprint,
    is_provenance,
    model_card,
    training_log,
    weights_fingerprint,
)
from pyterrier_inpars.training.recipes import HELD_OUT, recipe_arguments

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from pyterrier_inpars.training.trainer import TrainingRun

MANY_TRUNCATED = (10, 0.2)
"""Number and share of inputs that reach the model's own limit from which there is a warning."""
NOT_FINITE = (
    "load it with another dtype, such as 'float32', or train it again with a lower learning_rate"
)
"""What to do about a network that computes NaN or infinite numbers."""
TORCH, OPENVINO = "torch", "openvino"
"""Backends that compute scores."""


class LoadingOptions(TypedDict, total=False):
    """How a reranker loads and runs its network; keyword parameters of every reranker.

    Attributes:
        revision: Branch, tag or commit of the model on the hub; ``None`` for its main branch.
        trust_remote_code: Whether code from the model's repository is executed; ``False`` by
            default. Set it only for repositories that you trust.
        dtype: Precision of the matrix products: ``"auto"`` (the default; bfloat16 where the
            processor computes faster in it, else float32), ``"float32"``, ``"bfloat16"``,
            ``"float16"``, a ``torch.dtype``, or ``"int8"``: 8-bit weights, computed with as by
            ``"auto"``, except those of the scoring head. A reranker in int8 can neither be trained
            nor saved.
        compile: Whether the network is compiled with ``torch.compile`` on first use, which takes a
            minute, and a C++ compiler on a CPU.
        device: Name such as ``"cpu"``, ``"cuda"``, or ``"xla"`` for a TPU (package
            ``torch_xla``); ``None`` for the best one available, which is a TPU if the environment
            has ``PJRT_DEVICE=TPU``.
        backend: ``"torch"`` (the default), or ``"openvino"`` to score with OpenVINO on a CPU
            (extra ``openvino``; encoders of ``CrossEncoder`` and ``BiEncoder``, in float32 or
            bfloat16). Float32 scores are equal up to rounding. The encoder is converted on first
            use and after each training; this takes some seconds. Training uses PyTorch.
    """

    revision: str | None
    trust_remote_code: bool
    dtype: str | torch.dtype
    compile: bool
    device: str | None
    backend: str


LOADING_DEFAULTS: dict[str, Any] = {
    "revision": None,
    "trust_remote_code": False,
    "dtype": "auto",
    "compile": False,
    "device": None,
    "backend": TORCH,
}


class Reranker(Stage, pt.Estimator, RerankerArtifact):
    """A neural network that scores a document for a query, and can be trained.

    The network is loaded on first use. Its weights are kept in float32, which training needs;
    ``dtype`` is the precision of the matrix products in scoring and in training, by autocast. For
    scoring in bfloat16, `CrossEncoder` and `BiEncoder` convert a copy of the weights instead.

    Requires ``qid, query, docno, text``. Returns the rows and columns of the input, in their order,
    with ``score`` (float64) and ``rank`` (from 0).

    Note:
        PyTerrier may rebuild a transformer from its constructor's parameters, which ``fit`` does
        not change: ``save`` a trained reranker, and load it by its path.

        A reranker can be pickled and copied, also after use. The copy loads the model again; a
        trained reranker takes its weights along. The ``repr`` of trained weights ends with ``@``
        and the first eight digits of their fingerprint, which also tells apart the rows of
        ``pt.Experiment``. A name on the hub shows no fingerprint, also of trained weights: to know
        it, a ``repr`` would have to download them. ``revision`` is shown.

        A reranker is a ``pt.Artifact``: ``to_hf``, ``to_zenodo`` and ``build_package`` share its
        present weights, and ``pt.Artifact.from_hf`` or ``load`` makes the reranker again.

    Args:
        model: Name on the Hugging Face hub, or path of a folder such as ``save`` writes.
        max_length: Maximum number of tokens of the network's input, at least 8, so that query and
            document both fit. ``None`` for the model's own limit.
        training: Options of ``fit``: ``TrainingOptions``, a dict of them, or the name of a recipe.
            They are checked at once.
        batch_size: Maximum number of rows scored at once. On a CPU a batch also has at most 1,024
            tokens.
        text_field: Column with the text of the document, or several, such as ``["title", "text"]``,
            whose texts are joined by spaces.
        verbose: Whether to show progress bars and the libraries' own notices.
        **loading: ``revision``, ``trust_remote_code``, ``dtype``, ``compile``, ``device`` and
            ``backend``; see :class:`LoadingOptions`.

    Attributes:
        history: Log of the last ``fit``, list of dict: ``loss`` (mean since the previous entry),
            ``learning_rate`` and ``step``, twenty entries per run; with a validation also ``eval_``
            and the name of the measure.
        train_loss: Mean training loss of the last ``fit``, float; ``None`` before it.
        inputs: Number of inputs scored so far: documents, or pairs of query and document.
        truncated: Number of those that have as many tokens as ``max_length`` allows. Nearly all of
            them were longer and lost their end. A warning says so once if ``max_length`` is the
            model's own and they are many.
        provenance: Dict that describes the last ``fit``: ``settings`` (of reranker, trainer and
            batches, fingerprints of examples and initial weights), ``queries`` (their number),
            ``batches`` (``steps``, ``effective_batch`` and the number of examples ``seen``),
            ``versions``, ``history``, ``loss``, ``verdict`` (whether it helped), ``weights`` (a
            fingerprint of the trained ones), and in ``before`` the same of an earlier training;
            ``None`` before it. ``save`` writes it.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of range.
    """

    _counters = ("inputs", "truncated")
    _folder: str | None = None
    """Folder with the checkpoint of a copy, while it is loaded."""
    _method: str
    """Key of ``recipes.DEFAULTS``."""
    _losses: Sequence[str] = LOSSES
    _backends: tuple[str, ...] = (TORCH,)
    _default_loss: str

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        training: TrainingOptions | Mapping[str, Any] | str | None = None,
        batch_size: int = 32,
        text_field: str | list[str] = "text",
        verbose: bool = False,
        **loading: Unpack[LoadingOptions],
    ):
        self._check_loading(loading)
        self.model = model
        self.max_length = None if max_length is None else positive_int("max_length", max_length, 8)
        self.training = training
        self.batch_size = positive_int("batch_size", batch_size)
        self.text_field = text_field
        self.verbose = verbose
        options: dict[str, Any] = LOADING_DEFAULTS | dict(loading)
        check_source(options["revision"], options["trust_remote_code"])
        self.revision: str | None = options["revision"]
        self.trust_remote_code: bool = options["trust_remote_code"]
        self.dtype: str | torch.dtype = options["dtype"]
        self._compile: bool = options["compile"]  # compile() is a method of every transformer
        self.device: str | None = options["device"]
        self.backend: str = options["backend"]
        self._check_backend()
        self.history: list[dict[str, float]] = []
        self.train_loss: float | None = None
        self.provenance: dict[str, Any] | None = None
        self.inputs = self.truncated = 0
        self._warned_of_truncation = False
        self._memory = MemoryLimit(type(self).__name__)
        self._network: Any = None
        self._checkpoint: tuple[Any, dict[str, bytes]] | None = None  # of a copy of a trained one
        self._applied: dict[str, Any] = {}  # parameters that the network was loaded with
        self.training_options  # noqa: B018  (checks them)

    def _check_loading(self, loading: Mapping[str, Any]) -> None:
        """Checks the names of the options, and says where moved ones are now."""
        own = [*inspect.signature(type(self).__init__).parameters][1:-1]
        for name, value in loading.items():
            if name in OWN_OPTIONS:
                raise TypeError(
                    f"{name} is a training option: give training={{{name!r}: {value!r}}}"
                )
        known = [*own, *LOADING_DEFAULTS]
        check_names(type(self).__name__, loading, known, ", ".join(known))

    def _check_backend(self) -> None:
        """Checks that this class computes with the backend, and with the other options."""
        if self.backend not in self._backends:
            known = " or ".join(map(repr, self._backends))
            raise ValueError(
                f"backend of {type(self).__name__} must be {known}, not {self.backend!r:.200}"
            )
        if self.backend != TORCH and (self._compile or is_int8(self.dtype)):
            other = "compile=True" if self._compile else "dtype='int8'"
            raise ValueError(f"{other} is for backend='torch', not for {self.backend!r}")

    @property
    def loading(self) -> dict[str, Any]:
        """The loading options that differ from their defaults."""
        now = {name: getattr(self, name) for name in LOADING_DEFAULTS} | {"compile": self._compile}
        return {name: value for name, value in now.items() if value != LOADING_DEFAULTS[name]}

    @property
    def training_options(self) -> TrainingOptions:
        """The checked ``training``, with the default loss of the class if none is given.

        Raises:
            TypeError: An option is unknown.
            ValueError: A value is out of range, or for another class.
        """
        options = TrainingOptions.of(self.training)
        return options.for_reranker(self._method, self._losses, self._default_loss)

    @property
    def _name(self) -> str:
        """Name on the hub or path that the network is loaded from."""
        return self._folder or resolved(self.model)

    @property
    def _origin(self) -> tuple[Any, ...]:
        """The parameters that decide which model is loaded."""
        return (self.model, self.revision, self.trust_remote_code)

    @property
    def _source(self) -> dict[str, Any]:
        """Arguments of every ``from_pretrained`` call."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def _load(self, device: torch.device) -> Any:
        """Loads the network in float32 onto the device."""
        raise NotImplementedError

    def _adapt(self, network: Any) -> None:
        """Applies the parameters of the input, to a network just loaded and when they change."""

    def _heads(self, network: Any) -> list[torch.nn.Module]:
        """Returns the scoring head, which is computed and kept in float32."""
        return []

    def _score(self, queries: list[str], texts: list[str]) -> ArrayLike:
        """Returns the scores of pairs, in order; the network runs in `_inference`."""
        raise NotImplementedError

    def _train(self, examples: pd.DataFrame, run: TrainingRun) -> None:
        """Trains the network on checked examples ``qid, query, docno, text``."""
        raise NotImplementedError

    def _write(self, path: str) -> None:
        """Writes the network and all it needs into an existing folder."""
        raise NotImplementedError

    @property
    def network(self) -> Any:
        """The network, loaded on first use.

        Parameters that were changed since, as by ``pt.GridScan``, are applied. The trained weights
        stay, unless ``model`` or ``revision`` is another, or ``dtype`` no longer ``"int8"``.

        Raises:
            OSError: There is no such model, or it is of another kind.
            MemoryError: Its weights do not fit into the memory of the device.
        """
        int8, source = is_int8(self.dtype), self._origin
        before = self._applied
        if not before or before["source"] != source or (before["int8"] and not int8):
            with self._checkpoint_of_copy() as is_copy:
                self._network = self._prepared(self._loaded())
            if (before or self._checkpoint) and not is_copy:  # no longer the trained weights
                self.history, self.train_loss, self.provenance = [], None, None
            self._checkpoint = None
        else:
            if before["device"] != self.device:
                self._on_device(self._network.to(best_device(self.device)))
            if before["input"] != self._input_settings():
                self._adapt(self._network)
            if int8 and not before["int8"]:
                self._quantize(self._network)
            if before["compile"] != self._compile:
                self._set_compiled(self._network)
        self._applied = {
            "source": source,
            "device": self.device,
            "compile": self._compile,
            "input": self._input_settings(),
            "int8": int8,
        }
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        """Returns the parameters, and the checkpoint of a trained network.

        A loaded network cannot be pickled. A copy loads its model again on first use.
        """
        trained = self._network is not None and self.network is not None and self.provenance
        state = vars(self) | {"_network": None, "_applied": {}}
        if trained:
            self._check_not_int8("copied")
            with tempfile.TemporaryDirectory() as name:
                with quiet(self.verbose), weights_on_cpu(self.network):
                    self._write(name)
                folder = Path(name)
                files = [path for path in folder.rglob("*") if path.is_file()]
                contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
            state["_checkpoint"] = (self._origin, contents)
        return state

    @contextmanager
    def _checkpoint_of_copy(self) -> Iterator[bool]:
        """Has a copy load its own checkpoint; yields whether it has one."""
        if self._checkpoint is None or self._checkpoint[0] != self._origin:
            yield False
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self._checkpoint[1].items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._folder = folder
            try:
                yield True
            finally:
                del self._folder

    def __repr__(self) -> str:
        """Returns the constructor call, and of trained weights ``@`` and a short fingerprint."""
        weights = self._trained_weights()
        return super().__repr__() + (f"@{weights[:8]}" if weights else "")

    def _repr_html_(self) -> str:
        options = {"model": str(self.model), "max_length": self.max_length}
        options |= {name: str(value) for name, value in self.loading.items()}
        otherwise = "not known of a name on the hub"
        if self.path is not pt.Artifact.NO_PATH:
            otherwise = "not by this package"
        return reranker_html(self, options, self._known_provenance() or otherwise)

    def _trained_weights(self) -> str:
        """Returns the fingerprint of trained weights, or an empty string; loads no network."""
        provenance = self._known_provenance()
        return (provenance or {}).get("weights", "") if has_trained_weights(provenance) else ""

    def _known_provenance(self) -> dict[str, Any] | None:
        """Returns what is known of the last training without loading or downloading anything."""
        origin = self._applied.get("source")
        if self._checkpoint is not None:
            origin = self._checkpoint[0]
        if self.provenance is not None and origin == self._origin:
            return self.provenance
        try:
            text = Path(self.model, TRAINING_FILE).expanduser().read_text(encoding="utf-8")
            found = json.loads(text)
        except (OSError, ValueError):
            return None
        return found if is_provenance(found) else None

    def _input_settings(self) -> tuple[Any, ...]:
        """Returns the parameters that ``_adapt`` applies, after a check."""
        if self.max_length is not None:
            positive_int("max_length", self.max_length, 8)
        return (self.max_length,)

    def _loaded(self) -> Any:
        import torch

        device = best_device(self.device)
        with quiet(self.verbose), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training_options.seed)  # for a new head
            try:
                # Weights to be quantized need not fit on the device in float32.
                return self._load(torch.device("cpu") if is_int8(self.dtype) else device).eval()
            except Exception as error:  # a damaged file can raise anything
                if is_out_of_memory(error):
                    raise MemoryError(
                        f"{type(self).__name__}: {str(self.model)!r} does not fit into the memory "
                        f"of {str(device)!r}: its weights are loaded in float32, 4 GB per billion "
                        f"parameters: choose a smaller model, dtype='int8' (to score), another "
                        f"device, or free the memory that other programs use"
                    ) from error
                raise cannot_load(type(self).__name__, self.model, error) from error

    def _prepared(self, network: Any) -> Any:
        self._on_device(network)
        for weight in network.parameters():
            # Mapped from a file, weights may be unaligned, and products of unaligned ones differ
            # in the last bit: a checkpoint would not give the scores of what was saved.
            weight.data = weight.data.clone()
        self._adapt(network)
        for head in self._heads(network):
            keep_float32(head)
        if is_int8(self.dtype):
            self._quantize(network)
            self._on_device(network.to(best_device(self.device)))
        if self._compile:
            self._set_compiled(network)
        return network

    def set_parameter(self, name: str, value: Any) -> None:
        """Sets a parameter of the constructor; the next use of the network applies it."""
        super().set_parameter("_compile" if name == "compile" else name, value)

    def _on_device(self, network: Any) -> None:
        if on_xla(network.device):
            tie_weights(network)

    def _set_compiled(self, network: Any) -> None:
        network._compiled_call_impl = None
        if self._compile and not on_xla(network.device):  # XLA compiles in any case
            network.compile(dynamic=True)  # for any number of rows and tokens

    def _quantize(self, network: Any) -> None:
        dtype = best_dtype(self.dtype, best_device(self.device))
        quantize(network, dtype, self._heads(network))

    def scores_fingerprint(self) -> str:
        """Returns a SHA-256 of what the scores of a pair depend on, for caches of scores.

        These are the weights, the class, the precision and the format of the input: ``max_length``,
        ``text_field``, prompts, pooling, template and label words as they are in effect, given or
        stored with the model. A loaded checkpoint has the fingerprint of the reranker that was
        saved. Batches, device, backend and ``compile`` change scores in the last digits only, and
        are left out. Of each weight, the first 1,024 numbers are read. Loads the network.
        """
        network = self.network
        known = {
            "class": type(self).__name__,
            "weights": weights_fingerprint(network),
            "dtype": self._precision_name(network),
            "text_field": fields_of(self.text_field),
            "input": self._input_format(network),
        }
        return sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _precision_name(self, network: Any) -> str:
        """Returns the precision that scores are computed in, for a fingerprint."""
        return "int8" if is_int8(self.dtype) else str(best_dtype(self.dtype, network.device))

    def _input_format(self, network: Any) -> dict[str, Any]:
        """Returns what the network's input depends on beside query and text, for JSON."""
        raise NotImplementedError

    def _required_columns(self) -> list[str]:
        return ["qid", "query", "docno", *fields_of(self.text_field)]

    def _output_columns(self, columns: list[str]) -> list[str]:
        return [c for c in columns if c not in ("score", "rank")] + ["score", "rank"]

    def _transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        check_strings(inp, "qid", "query")
        queries, texts = inp["query"].tolist(), joined_text(inp, self.text_field)
        scores = np.asarray(self._score(queries, texts))
        if not np.isfinite(scores).all():
            first = (~np.isfinite(scores)).argmax()
            qid, docno = inp.iloc[first][["qid", "docno"]]
            raise NotFiniteError(
                f"{self._described()} computed the score {scores[first]} for qid {qid!r}, docno "
                f"{docno!r}: {NOT_FINITE}"
            )
        out = inp.drop(columns=["score", "rank"], errors="ignore")
        return pt.model.add_ranks(out.assign(score=pd.Series(scores, dtype="float64")))

    def _described(self) -> str:
        """Returns model and dtype, for errors."""
        dtype = str(best_dtype(self.dtype, self.network.device)).removeprefix("torch.")
        return f"{type(self).__name__} {str(self.model)!r} in {dtype}"

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Runs the network without gradients, with its backend and in its precision."""
        import torch

        self._check_backend()  # parameters may have changed since the constructor
        with torch.no_grad(), self._precision():  # XLA does not support inference_mode
            yield

    def _precision(self) -> AbstractContextManager:
        """Returns the context of the precision that scores are computed in."""
        import torch

        device = self.network.device
        dtype = best_dtype(self.dtype, device)
        if dtype != torch.float32:
            return torch.autocast(device.type, dtype)
        if self._compile:  # replaced layers would be compiled again
            return nullcontext()
        return onednn_linear(self.network, keep=self._heads(self.network))

    def _in_batches(
        self,
        lengths: Sequence[float],
        forward: Callable[[list[int]], torch.Tensor],
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Computes rows in batches of similar length.

        Args:
            lengths: Tokens of each row.
            forward: Returns a tensor with one row per given row number. Row numbers may repeat, if
                the device needs full batches.
            progress: Bar that counts the rows; ``None`` for one of these rows alone.

        Returns:
            The outputs of all rows, float32, in order.
        """
        device = self.network.device
        most = CPU_TOKENS if device.type == "cpu" else np.inf
        batches = batches_of_similar_length(lengths, self.batch_size, most)
        found: list[np.ndarray] = []

        def compute(rows: list[int]) -> np.ndarray:
            scores = forward(full_batch(rows, self._memory.capped(self.batch_size), device))
            # Sliced on the CPU: XLA would compile a slice for each number of rows.
            return scores.cpu()[: len(rows)].float().numpy()

        def longest(row: int) -> str:
            return f"an input of about {lengths[row]:,.0f} tokens"

        with self._progress(len(lengths)) if progress is None else nullcontext(progress) as bar:
            for rows in batches:
                found += [scores for _, scores in self._memory.run(rows, compute, longest)]
                bar.update(len(rows))
        self._warn_if_truncated()
        return np.concatenate(found)[np.argsort(np.concatenate(batches))]

    def _progress(self, rows: int) -> Progress:
        """Returns a bar for the scoring of rows."""
        return Progress(title=type(self).__name__, total=rows, unit="inputs", verbose=self.verbose)

    def _count_inputs(self, lengths: ArrayLike, limit: float | None) -> None:
        """Counts inputs of the network, and those that have as many tokens as the limit.

        Args:
            lengths: Number of tokens of each input.
            limit: Maximum number of tokens; ``None`` for no limit.
        """
        lengths = np.asarray(lengths)
        self.inputs += len(lengths)
        self.truncated += 0 if limit is None else int((lengths >= limit).sum())

    def _warn_if_truncated(self) -> None:
        least, share = MANY_TRUNCATED
        many = self.truncated >= max(least, share * self.inputs)
        if many and self.max_length is None and not self._warned_of_truncation:
            self._warned_of_truncation = True
            cut = self.truncated / self.inputs
            warnings.warn(
                f"{self.truncated:,} of {self.inputs:,} inputs ({cut:.0%}) reach the limit of "
                f"{str(self.model)!r}, so the end of their documents was cut: split long documents "
                "into passages (datasets.Passages), or set max_length",
                stacklevel=user_level(),
            )

    def fit(
        self,
        examples: pd.DataFrame,
        qrels: pd.DataFrame | None = None,
        validation: pd.DataFrame | None = None,
        validation_qrels: pd.DataFrame | None = None,
    ) -> Reranker:
        """Trains the network from its present weights, alone or as a pipeline's last stage.

        A training that ends early, by an error or an interrupt, leaves the weights as they were.

        Args:
            examples: Frame ``qid, query, docno, text, label``, one row per pair; ``label`` is 1 for
                a relevant document and 0 for a negative. Losses that learn from a teacher also read
                ``score``; ``"distillation"`` and ``"adr_mse"`` read ``label`` only if queries are
                held out.
            qrels: Frame ``qid, docno, label``, from which the labels of ``examples`` are taken: 1
                for pairs with a label above 0, and 0 for all others. ``None`` for the column
                ``label`` of ``examples``.
            validation: Frame ``qid, query, docno, text`` of results, which are reranked before
                training, ten times per run, or as ``eval_strategy`` and ``eval_steps`` in
                ``training`` say, and after it. The weights with the best nDCG@10 are kept, or with
                the best ``metric_for_best_model``, any measure of ``ir_measures``: the trained
                ones, those before training, or an average of the two. If it has ``score``, the
                verdict also compares that first stage. ``None``: a share of the queries of
                ``examples`` is held out, see ``held_out`` of :class:`TrainingOptions`, and their
                documents are reranked.
            validation_qrels: Frame ``qid, docno, label`` with ``validation``; ``None`` for the
                column ``label`` of ``validation``. Queries without results in ``validation`` are
                ignored.

        Returns:
            This reranker; ``history``, ``train_loss``, ``verdict`` and ``provenance`` describe the
            training. One line on standard error says whether it helped, or a warning that it did
            not, or that there was no validation.

        Raises:
            pt.validate.InputValidationError: A column is missing.
            ValueError: There are no examples, or none of a kind that the loss needs; a label is not
                0 or 1; there are ``validation_qrels`` without ``validation``; the batches do not
                divide; ``output_dir`` holds a training with other data or settings; the training
                diverges (a loss or a weight is NaN or infinite, in which case nothing is saved); or
                the reranker is in int8.
            MemoryError: A training batch does not fit into memory.
            FileExistsError: ``output_dir`` holds a finished training.
            ModuleNotFoundError: A package that ``training`` needs is not installed.
        """
        options = self.training_options
        if validation is None and validation_qrels is not None:
            raise ValueError(
                "validation_qrels need validation: give the results that they judge, or leave "
                "both out"
            )
        lora_config(options.lora)  # a missing package is reported before the network is loaded
        share, why = self._held_out(options) if validation is None else (0.0, "")
        by_default = share is None
        labelled = options.loss not in UNLABELLED or bool(share)
        check_columns(examples, *self._required_columns(), context=self)
        if labelled or qrels is not None:
            examples = self._labelled(examples, qrels)
        self._check_not_int8("trained")
        check_examples(self._with_text(examples), "text", labelled)
        if share is None:
            share, why = default_share(examples)
        baseline: str | None = FIRST_STAGE
        if share:
            baseline = "teacher" if options.loss in FROM_TEACHER else None
            most = NEGATIVES if by_default else None
            examples, validation = hold_out(examples, share, options.seed, most)
        settings = {
            "reranker": self._settings(),
            "examples": fingerprint(self._with_text(examples)),
        }
        checked = None
        if validation is not None:
            checked, of_validation = self._validation(validation, validation_qrels, baseline)
            settings |= of_validation
        self._run(
            self._with_text(examples).reset_index(drop=True),
            options,
            settings,
            validation=checked,
            during=checked is not None and validates_during(options, by_default),
            not_validated=why,
        )
        self._report(warns=by_default)
        return self

    def _held_out(self, options: TrainingOptions) -> tuple[float | None, str]:
        """Returns the share of the queries to validate on, ``None`` to decide; if 0, also why."""
        if options.held_out is not None:
            return options.held_out, f"held_out={options.held_out:g}"
        if options.patience is not None:
            return HELD_OUT, ""
        share = recipe_arguments(options.recipe, self._method).get("held_out")
        return share, f"the recipe {options.recipe!r} trains on all examples"

    @property
    def _is_trained(self) -> bool:
        """Whether a ``fit`` of this object changed the weights, and did not keep its start."""
        return has_trained_weights(self.provenance)

    def _report(self, warns: bool) -> None:
        """Says whether training helped, and with ``warns`` also if that is not known."""
        verdict = (self.provenance or {})["verdict"]
        if not is_main_process():
            return
        if verdict["helped"]:
            pt.tqdm.write(verdict["summary"], file=sys.stderr)
        elif warns or verdict["helped"] is False:
            warnings.warn(verdict["summary"], stacklevel=3)

    def _with_text(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the frame with the texts of the documents in the column ``text``."""
        return frame.assign(text=joined_text(frame, self.text_field))

    def _labelled(self, examples: pd.DataFrame, qrels: pd.DataFrame | None) -> pd.DataFrame:
        if qrels is not None:
            return with_labels(examples, qrels)
        try:
            check_columns(examples, "label", context=self)
        except pt.validate.InputValidationError as error:
            raise pt.validate.InputValidationError(
                "the examples have no labels: give fit(results, qrels), or a column label "
                "(1 for relevant documents, 0 for negatives).",
                error.modes,
            ) from None
        return examples

    def _run(
        self,
        examples: pd.DataFrame,
        options: TrainingOptions,
        settings: dict[str, Any],
        **validation: Any,
    ) -> None:
        from pyterrier_inpars.training.trainer import TrainingRun

        run = TrainingRun(
            options=options,
            method=self._method,
            dtype=best_dtype(self.dtype, self.network.device),
            verbose=self.verbose,
            settings=settings | {"first_weights": weights_fingerprint(self.network)},
            **validation,
        )
        earlier = self._last_provenance()  # before the training, which an error would lose
        with quiet(self.verbose):
            self._train(examples, run)
        self.history, self.train_loss = run.history, run.loss
        self.provenance = run.provenance | ({"before": earlier} if earlier else {})
        self.provenance["queries"] = int(examples["qid"].nunique())
        self.provenance["weights"] = weights_fingerprint(self.network)

    def _settings(self) -> dict[str, Any]:
        """Returns the parameters and options that the trained weights depend on."""
        names = inspect.signature(type(self).__init__).parameters.keys()
        without = {"self", "model", "training", "batch_size", "verbose", "loading"}
        settings = {name: getattr(self, name) for name in names if name not in without}
        options = self.training_options
        settings |= options.loss_settings() | {"seed": options.seed}
        settings["dtype"] = str(best_dtype(self.dtype, self.network.device)).removeprefix("torch.")
        if self.revision is not None:
            settings["revision"] = self.revision
        return {"class": type(self).__name__, "model": self._base_name(), **settings}

    def _base_name(self) -> str:
        """Returns the model's name on the hub, or the name of its folder without the path."""
        name = os.fspath(self.model)
        return Path(name).resolve().name if os.path.isdir(name) else name

    def _last_provenance(self) -> dict[str, Any] | None:
        """Returns the provenance of the training that made the present weights, if there is one.

        Raises:
            ValueError: The file is damaged.
        """
        if self.provenance is not None:
            return self.provenance
        try:
            found = read_json(self._name, TRAINING_FILE, self.revision)
        except ValueError:
            found = "not JSON"
        if found is not None and not is_provenance(found):
            raise ValueError(
                f"{TRAINING_FILE} of {str(self.model)!r} does not describe a training: delete or "
                "restore the file"
            )
        return found

    def _validation(
        self, results: pd.DataFrame, qrels: pd.DataFrame | None, baseline: str | None
    ) -> tuple[Validation, dict[str, Any]]:
        """Returns a checked validation, and its settings.

        Args:
            results: Results to rerank.
            qrels: Frame ``qid, docno, label``; ``None`` for the results.
            baseline: Name of the system whose scores the results have, if they have any; ``None``
                to ignore them.
        """
        pt.validate.columns(results, includes=self._required_columns(), context=self)
        if qrels is None:
            qrels = results
        if not {"qid", "docno", "label"} <= set(qrels.columns):
            raise ValueError(
                "validation needs labels: give validation_qrels with columns qid, docno, label, or "
                "a column label in validation"
            )
        qrels = graded_qrels(qrels)
        qrels = qrels.loc[qrels["qid"].isin(results["qid"]), ["qid", "docno", "label"]]
        if not results["qid"].isin(qrels["qid"][qrels["label"] > 0]).any():
            raise ValueError("no query of the validation has a relevant document in the qrels")
        baselines = {}
        if baseline is not None and "score" in results:
            scores = pd.to_numeric(results["score"], errors="coerce").to_numpy(dtype=float)
            baselines = {baseline: scores} if np.isfinite(scores).all() else {}
        results = results[self._required_columns()].reset_index(drop=True)
        settings = {
            "validation": fingerprint(self._with_text(results)),
            "validation_qrels": qrels.astype(str).sort_values(["qid", "docno"]).to_csv(),
        }
        return Validation(results, qrels, self._reranked, baselines), settings

    def _reranked(self, results: pd.DataFrame) -> pd.DataFrame:
        """Returns the results with the present scores."""
        with warnings.catch_warnings():
            # the head is new only until training ends
            warnings.filterwarnings("ignore", message=".*without a scoring head")
            return self.transform(results)

    @property
    def verdict(self) -> pd.DataFrame | None:
        """Whether the training of the present weights helped; ``None`` if they are not trained.

        A row per system: ``"start"`` (the weights before training), ``"trained"``, the averages of
        the two, and where the validation has scores, the ``"first stage"`` (of results) with its
        score fusion, or the ``"teacher"`` (of examples). Columns: ``system``; the measure, such as
        ``nDCG@10``; ``queries``, their number; ``p`` of a paired t-test against the start, NaN
        where no query differs; and ``kept``. Without a validation there is one row, with NaN for
        the value.
        """
        known = (self._last_provenance() or {}).get("verdict")
        return None if known is None else verdict_frame(known)

    @property
    def training_log(self) -> pd.DataFrame | None:
        """Loss and validation of the last training by step; ``None`` if there was none.

        A saved reranker has it, too. Columns, NaN where a step has no value: ``step`` (0 is before
        training); ``loss``, the mean since the previous row that has one; ``learning_rate``; and
        with a validation the measure, such as ``nDCG@10``. The validation at step 0 and after the
        last step is always there, values between them if ``fit`` validates during training.
        """
        provenance = self._last_provenance()
        return None if provenance is None else training_log(provenance)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes a checkpoint, which this class loads by its path with the same scores.

        The folder has the layout of the Hugging Face hub, for transformers or
        sentence-transformers, and is an artifact of PyTerrier: ``pt.Artifact.load(path)`` makes the
        reranker, too. A trained reranker also writes its provenance, ``inpars_training.json``, and
        a model card with its verdict, ``README.md``. If several processes train together, only the
        first one writes.

        Args:
            path: Folder. It and its parents are created if missing.
            overwrite: Whether to write into a folder that is not empty. A checkpoint in it, of
                whatever class, is replaced once the new one is complete; other files stay.

        Returns:
            The folder.

        Raises:
            FileExistsError: The folder is not empty, and ``overwrite`` is not set; it holds an
                artifact of another type, such as an index or synthetic queries; or it is a file.
            ValueError: The reranker is in int8, or a weight is NaN or infinite.
        """
        self._check_not_int8("saved")
        path = Path(path).expanduser()
        if not is_main_process():
            return path
        if other := other_artifact(path):
            raise FileExistsError(f"{path} holds an artifact of type {other!r}: give another path")
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file: give the path of a folder")
        if path.exists() and any(path.iterdir()) and not overwrite:
            raise FileExistsError(f"{path} is not empty: give another path, or overwrite=True")
        network, provenance = self.network, self._last_provenance()
        check_weights(network, self._described(), f"nothing was saved; {NOT_FINITE}")
        with replaced_checkpoint(path) as folder:
            with quiet(self.verbose), weights_on_cpu(network):
                self._write(str(folder))
            self._write_metadata(folder)
            if provenance is not None:
                write_json(folder / TRAINING_FILE, provenance)
                write_text(folder / "README.md", model_card(provenance, type(self).__name__))
        return path

    def _check_not_int8(self, done: str) -> None:
        if is_int8(self.dtype):
            raise ValueError(
                f"{self!r} cannot be {done}, because its weights are rounded to int8: train and "
                f"save with another dtype, then load the folder with dtype='int8'"
            )


def has_trained_weights(provenance: dict[str, Any] | None) -> bool:
    """Returns whether the last training, or one before it, did not keep its start."""
    while provenance is not None and provenance.get("verdict", {}).get("kept") == START:
        provenance = provenance.get("before")
    return provenance is not None


def is_main_process() -> bool:
    """Returns whether this is the only process, or the first of those that train together."""
    import torch

    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def keep_float32(head: torch.nn.Module) -> None:
    """Makes the scoring head compute in float32, also under autocast.

    Near 10, numbers in bfloat16 are 1/16 apart: whole groups of documents would tie.
    """
    head.register_forward_hook(_in_float32)


def _in_float32(head: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    import torch

    if output.dtype == torch.float32:
        return output
    with torch.autocast(output.device.type, enabled=False):
        return head.forward(args[0].float())
