"""Training options: what to minimize, how long, where to write, and how to validate."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ir_measures import Measure

from pyterrier_inpars._arguments import finite, positive_int
from pyterrier_inpars._measures import as_measure
from pyterrier_inpars.training._names import check_names
from pyterrier_inpars.training.lora import lora_config
from pyterrier_inpars.training.losses import ALIASES, IN_BATCH, LOSSES
from pyterrier_inpars.training.recipes import RECIPES, recipe_arguments

RENAMED = {"overwrite_output_dir": "overwrite"}
"""Options of other versions, and their present names."""

SENTENCE_TRANSFORMERS = ("batch_sampler", "learning_rate_mapping", "router_mapping")
"""Arguments that the trainers of sentence-transformers take beside ``TrainingArguments``."""

OF_A_RECIPE = {"loss", "teacher_temperature", "in_batch_weight"}
"""Options that a recipe may set, beside ``TrainingArguments``; their defaults are ``None``."""
OF_A_BI_ENCODER = {"in_batch_weight", "guide", "guide_margin", "mini_batch_size", "adapter"}
"""Options of ``BiEncoder``."""
WITHOUT_ADAPTER = {"eval_steps", "eval_strategy", "guide", "lora", "output_dir", "patience"}
"""Options that a linear layer on frozen vectors does not have."""

_DEVICE = "the reranker decides the device: give the reranker device='cpu'"
_VALIDATION = "a validation reranks results in batches of the reranker's batch_size"
_COLUMNS = "the columns of the data set are internal: leave it out"
_WHOLE_WEIGHTS = "each device keeps all weights: train on several GPUs with torchrun"
REFUSED = {
    "auto_find_batch_size": "it would change the effective batch: give per_device_train_batch_size",
    "batch_eval_metrics": _VALIDATION,
    "data_seed": "seed decides the order of the examples: give seed",
    "dataloader_drop_last": "every epoch uses every example: leave it out",
    "deepspeed": _WHOLE_WEIGHTS,
    "do_eval": "a validation needs fit(validation=), held_out or patience",
    "do_predict": "fit() trains only: score results with the trained reranker",
    "eval_accumulation_steps": _VALIDATION,
    "fsdp": _WHOLE_WEIGHTS,
    "include_for_metrics": _VALIDATION,
    "label_names": _COLUMNS,
    "label_smoothing_factor": "the losses use the labels unchanged: leave it out",
    "length_column_name": _COLUMNS,
    "multi_dataset_batch_sampler": "there is one data set: leave it out",
    "per_device_eval_batch_size": _VALIDATION,
    "prediction_loss_only": _VALIDATION,
    "prompts": "training has the prompts of scoring: a BiEncoder takes query_prompt and "
    "doc_prompt, a CrossEncoder has the default prompt of its checkpoint",
    "remove_unused_columns": _COLUMNS,
    "resume_from_checkpoint": "a run resumes from the last checkpoint in output_dir: give that",
    "use_cpu": _DEVICE,
}
"""Fields of ``TrainingArguments`` that a reranker cannot honor, and what to do instead."""


_above_0, _at_least_0 = partial(finite, above=0), partial(finite, least=0)


def _max_steps(name: str, value: Any) -> None:
    if value != -1:  # transformers' default: num_train_epochs decides
        positive_int(name, value)


def _measure(name: str, value: object) -> Measure:
    try:
        return as_measure(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "adam_beta1": _at_least_0,
    "adam_beta2": _at_least_0,
    "adam_epsilon": _at_least_0,
    "eval_steps": _above_0,
    "gradient_accumulation_steps": positive_int,
    "learning_rate": _at_least_0,
    "logging_steps": _above_0,
    "max_grad_norm": _at_least_0,
    "max_steps": _max_steps,
    "metric_for_best_model": _measure,
    "num_train_epochs": _above_0,
    "per_device_train_batch_size": positive_int,
    "save_steps": _above_0,
    "warmup_steps": _at_least_0,
    "weight_decay": _at_least_0,
}
"""Checks of the usual arguments, which need no import of transformers."""

CHOICES = {
    "eval_strategy": "IntervalStrategy",
    "logging_strategy": "IntervalStrategy",
    "lr_scheduler_type": "SchedulerType",
    "save_strategy": "SaveStrategy",
}
"""Arguments with named choices, and the enumerations of ``transformers.trainer_utils``."""


@dataclass(frozen=True, init=False, repr=False)
class TrainingOptions:
    """Options of a training run: those of this package, and any ``TrainingArguments`` field.

    A reranker takes them as ``training=``, in any of three forms::

        MonoT5(model, training=TrainingOptions(loss="listwise", learning_rate=1e-4))
        MonoT5(model, training={"loss": "listwise", "learning_rate": 1e-4})
        MonoT5(model, training="inpars")  # a published recipe

    Options that are not given have the defaults of the reranker's class
    (``training.recipes.DEFAULTS``). Names and values are checked when the options are
    constructed; a field that a reranker cannot honor raises an error with the reason.

    Args:
        loss: Training loss; ``None`` for the default of the class. ``MonoT5`` and ``CrossEncoder``
            take ``"pointwise"`` (also called ``"binary"``), ``"pairwise"``, ``"listwise"``,
            ``"lambda_loss"``, ``"margin_mse"``, ``"distillation"`` and ``"adr_mse"``; ``BiEncoder``
            takes ``"in_batch"``, ``"margin_mse"``, ``"distillation"`` and ``"adr_mse"``. See the
            class.
        temperature: Temperature of both softmax distributions in ``"distillation"``, above 0. The
            other losses ignore it. The scores of a ``BiEncoder`` are its cosines multiplied by its
            ``scale``: at the default of 20, a temperature of 1 is one of 0.05 over cosines.
        teacher_temperature: Temperature of the teacher's distribution in ``"distillation"``, if it
            is another one; ``None`` for ``temperature``.
        in_batch_weight: Weight of the in-batch cross-entropy that a ``BiEncoder`` adds to a loss
            over lists; ``None`` for 0.
        guide: Bi-encoder, by its name on the hub or its path, whose scores keep suspected positives
            from being negatives in ``"in_batch"``.
        guide_margin: Share of the guide's score of the positive, at least 0: documents that the
            guide scores above the positive's score less this share of it are left out.
        mini_batch_size: Number of texts that a ``BiEncoder`` embeds at once in training, by
            gradient caching: it bounds the memory of a batch of any size. ``None`` for no caching.
        adapter: Whether a ``BiEncoder`` trains a linear layer on its frozen vectors in place of its
            network. It writes no checkpoints, and is not validated during training.
        recipe: Published settings: ``"inpars"`` (MonoT5), ``"inpars-light"`` (CrossEncoder),
            ``"gpl"`` or ``"cadet"`` (BiEncoder), see ``training.recipes.RECIPES``. Options given
            beside it take precedence.
        output_dir: Folder for checkpoints. One is written ten times per run, unless
            ``save_strategy`` or ``save_steps`` say otherwise, and the last one is kept. An
            interrupted run that is started again with the same data and settings resumes from the
            last checkpoint, and on a CPU in float32 ends with the same weights.
            ``None``: a temporary folder, removed after training.
        seed: Seed of the weights of a new head, of the order of the examples and of dropout.
        effective_batch: Examples per optimizer step on all devices together; sets the gradient
            accumulation.
        patience: Number of consecutive validations without improvement after which training stops.
            Without ``fit(validation=)`` it holds out queries, see ``held_out``.
        held_out: Share of the queries to validate on, if ``fit`` gets no ``validation``: at least 0
            and below 1. Queries of one source document stay together. 0 trains on all queries,
            without a validation. ``None`` is 0.1 with ``patience``, and what the recipe says; else
            it is 0.1, or about 200 queries if that is less, each with its first 20 negatives, and 0
            for fewer than 200 source documents. With ``None`` and without ``patience``,
            ``eval_strategy`` or ``eval_steps``, the network is validated only before and after
            training.
        lora: ``True`` or a dict of fields of ``peft.LoraConfig``, such as ``{"r": 16}``: trains
            low-rank matrices that are added to the linear layers (LoRA, Hu et al. 2021, arXiv
            2106.09685), and merges them at the end. Needs the extra ``lora``. A scoring head is
            trained in full.
            LoRA needs a higher ``learning_rate``, often ten times as high, which is not set for
            you.
        overwrite: Whether checkpoints of an earlier training in ``output_dir`` are removed.
        **arguments: Further fields of ``transformers.TrainingArguments``, such as
            ``learning_rate``, ``num_train_epochs`` or ``weight_decay``. Two save memory:
            ``activation_checkpointing=True`` (``gradient_checkpointing`` before transformers 5.23)
            computes layers twice, with the same weights, but not on XLA; ``optim="adamw_bnb_8bit"``
            stores the optimizer state in a quarter of the memory, on a CUDA GPU with the package
            ``bitsandbytes``.

    Attributes:
        arguments: Dict of the given fields of ``TrainingArguments``.

    Raises:
        TypeError: An option is unknown.
        ValueError: A value is out of range, or the field cannot be honored; the error names both.
        ModuleNotFoundError: ``lora`` is a dict, and peft is not installed.
    """

    loss: str | None
    temperature: float
    teacher_temperature: float | None
    in_batch_weight: float | None
    guide: str | os.PathLike[str] | None
    guide_margin: float
    mini_batch_size: int | None
    adapter: bool
    recipe: str | None
    output_dir: str | os.PathLike[str] | None
    seed: int
    effective_batch: int | None
    patience: int | None
    held_out: float | None
    lora: bool | dict[str, Any] | None
    overwrite: bool
    arguments: dict[str, Any]

    def __init__(
        self,
        *,
        loss: str | None = None,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
        in_batch_weight: float | None = None,
        guide: str | os.PathLike[str] | None = None,
        guide_margin: float = 0.0,
        mini_batch_size: int | None = None,
        adapter: bool = False,
        recipe: str | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        seed: int = 0,
        effective_batch: int | None = None,
        patience: int | None = None,
        held_out: float | None = None,
        lora: bool | dict[str, Any] | None = None,
        overwrite: bool = False,
        **arguments: Any,
    ):
        values = {name: value for name, value in locals().items() if name in OWN_OPTIONS}
        values["loss"] = ALIASES.get(loss, loss) if isinstance(loss, str) else loss
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen
        object.__setattr__(self, "arguments", arguments)
        self._check()

    @classmethod
    def of(cls, training: str | Mapping[str, Any] | TrainingOptions | None) -> TrainingOptions:
        """Returns the options that a ``training=`` parameter stands for.

        Args:
            training: Options, a dict of them, the name of a recipe, or ``None`` for the defaults.

        Raises:
            TypeError: It is none of these, or see the class.
            ValueError: See the class.
        """
        if isinstance(training, TrainingOptions):
            return training
        if isinstance(training, str):
            return cls(recipe=training)
        if not isinstance(training, Mapping | None):
            raise TypeError(
                f"training must be TrainingOptions, a dict of them or the name of a recipe, "
                f"not {training!r:.200}"
            )
        return cls(**(training or {}))

    def given(self) -> dict[str, Any]:
        """Returns the options that differ from their defaults, ``arguments`` among them."""
        own = {name: getattr(self, name) for name in OWN_OPTIONS}
        return {n: v for n, v in own.items() if v != OWN_OPTIONS[n]} | self.arguments

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.given().items())})"

    def for_reranker(
        self, method: str, losses: Collection[str], default_loss: str
    ) -> TrainingOptions:
        """Returns the options of a reranker class, with the loss of the recipe or its default.

        Args:
            method: Key of ``recipes.DEFAULTS``.
            losses: Losses that the class can minimize.
            default_loss: One of them.

        Raises:
            TypeError: An option belongs to other classes.
            ValueError: The loss or the recipe is for other classes, or an option for another loss.
        """
        recipe = recipe_arguments(self.recipe, method)
        own = {name: recipe[name] for name in OF_A_RECIPE & recipe.keys()}
        given = {"loss": default_loss} | own | self.given()
        loss = given["loss"]
        if loss not in losses:
            raise ValueError(f"loss must be one of {', '.join(losses)}, not {loss!r}")
        for name in OF_A_BI_ENCODER & given.keys():
            if method != "bi_encoder":
                raise TypeError(f"{name} is for BiEncoder only: leave it out")
        if given.get("guide") is not None and loss != IN_BATCH:
            raise ValueError(f"guide is for loss={IN_BATCH!r}, not for {loss!r}: leave it out")
        if given.get("in_batch_weight") and loss == IN_BATCH:
            raise ValueError(f"in_batch_weight is for losses over lists, not for {loss!r}")
        for name in self.arguments:
            if method == "monot5" and name in SENTENCE_TRANSFORMERS:
                raise TypeError(f"{name} is for BiEncoder and CrossEncoder only: leave it out")
        return TrainingOptions(**given)

    def loss_settings(self) -> dict[str, Any]:
        """Returns the options of the loss for provenance: loss, temperature and those given."""
        names = ["teacher_temperature", "in_batch_weight", "guide", "guide_margin", "adapter"]
        given = {name: value for name, value in self.given().items() if name in names}
        if "guide" in given:
            given["guide"] = os.path.basename(os.fspath(given["guide"]))
        return {"loss": self.loss, "temperature": self.temperature} | given

    def _check(self) -> None:
        if self.loss is not None and not isinstance(self.loss, str):
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        _above_0("temperature", self.temperature)
        if self.teacher_temperature is not None:
            _above_0("teacher_temperature", self.teacher_temperature)
        if self.in_batch_weight is not None:
            _at_least_0("in_batch_weight", self.in_batch_weight)
        _at_least_0("guide_margin", self.guide_margin)
        if not isinstance(self.guide, str | os.PathLike | None):
            raise TypeError(f"guide must be the name or path of a model, not {self.guide!r:.200}")
        if self.recipe is not None and self.recipe not in [*RECIPES]:
            known = ", ".join(RECIPES)
            raise ValueError(f"there is no recipe {self.recipe!r}: it must be one of {known}")
        if not isinstance(self.output_dir, str | os.PathLike | None):
            raise TypeError(f"output_dir must be a path or None, not {self.output_dir!r}")
        positive_int("seed", self.seed, 0)
        for name in ("effective_batch", "mini_batch_size", "patience"):
            if getattr(self, name) is not None:
                positive_int(name, getattr(self, name))
        if self.held_out is not None:
            finite("held_out", self.held_out, least=0, below=1)
        if self.lora is not True:  # whose fields need no check
            lora_config(self.lora)
        if not isinstance(self.adapter, bool):
            raise TypeError(f"adapter must be True or False, not {self.adapter!r:.200}")
        for name in WITHOUT_ADAPTER & self.given().keys() if self.adapter else ():
            raise ValueError(f"adapter=True trains on frozen vectors, without {name}: leave it out")
        if not isinstance(self.overwrite, bool):
            raise TypeError(f"overwrite must be True or False, not {self.overwrite!r}")
        self._check_arguments()

    def _check_arguments(self) -> None:
        for name, value in self.arguments.items():
            if name in RENAMED:
                new = RENAMED[name]
                raise TypeError(f"{name} is now called {new}: give training={{{new!r}: {value!r}}}")
            if name in REFUSED and value:
                raise ValueError(f"training cannot honor {name}={value!r}: {REFUSED[name]}")
            if name in CHECKS:
                CHECKS[name](name, value)
            if name == "metric_for_best_model":
                self.arguments[name] = str(as_measure(value))  # a trainer takes a name
        other = self.arguments.keys() - CHECKS.keys() - REFUSED.keys() - {*SENTENCE_TRANSFORMERS}
        if not other:
            return
        from transformers import TrainingArguments, trainer_utils

        fields = [field.name for field in dataclasses.fields(TrainingArguments)]
        whose = "pyterrier_inpars.TrainingOptions and transformers.TrainingArguments"
        check_names("training", sorted(other), [*OWN_OPTIONS, *fields], whose)
        for name in other & CHOICES.keys():
            try:
                getattr(trainer_utils, CHOICES[name])(self.arguments[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


def validates_during(options: TrainingOptions, by_default: bool) -> bool:
    """Returns whether a run validates during training, and not only before and after it.

    Args:
        options: Options of the run.
        by_default: Whether the run only holds out queries because nothing else is said.
    """
    asked = {"eval_strategy", "eval_steps"} & options.arguments.keys()
    wanted = options.arguments.get("eval_strategy") != "no" and bool(asked or not by_default)
    return wanted and not options.adapter


OWN_OPTIONS: dict[str, Any] = {
    parameter.name: parameter.default
    for parameter in inspect.signature(TrainingOptions.__init__).parameters.values()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}
"""Defaults of the options that are this package's own."""
