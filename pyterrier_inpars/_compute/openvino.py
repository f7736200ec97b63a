"""Encoders of transformers, computed by OpenVINO on a CPU."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pyterrier_inpars._compute.cpu_linear import replaced_forward
from pyterrier_inpars._quiet import quiet

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""OpenVINO's names of the precisions that it computes in on a CPU."""
ALIKE = {torch.float32: 0.9999, torch.bfloat16: 0.99}
"""Minimum cosine of OpenVINO's output with PyTorch's, of the first batch, by precision."""


class OpenVinoEncoders:
    """Encoders in OpenVINO's format, converted on first use. A copy or a pickle has none."""

    def __init__(self) -> None:
        self._state: Hashable = None
        self._converted: dict[int, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[type[OpenVinoEncoders], tuple[()]]:
        return (OpenVinoEncoders, ())

    @contextmanager
    def instead_of(
        self, encoders: Sequence[torch.nn.Module], dtype: torch.dtype, state: Hashable
    ) -> Iterator[None]:
        """Computes encoders with OpenVINO until the block ends, without gradients.

        Args:
            encoders: Encoders of transformers, in float32 on the CPU.
            dtype: Precision of the computation; inputs and outputs are in float32.
            state: What the output depends on besides the input. If it is another than before, the
                encoders are converted again.

        Raises:
            ModuleNotFoundError: OpenVINO is not installed.
            ValueError: OpenVINO does not compute in this precision; or (on use) its output is not
                that of PyTorch.
        """
        _check_installed()
        if dtype not in PRECISIONS:
            raise ValueError(
                f"backend='openvino' computes in float32 or bfloat16, not {dtype}: choose another "
                f"dtype, or backend='torch'"
            )
        if state != self._state:
            self._state, self._converted = state, {}
        forwards = {}
        for encoder in encoders:
            forwards[encoder] = _Deferred(self._converted, encoder, dtype)
        with replaced_forward(forwards):
            yield


class _Deferred:
    """The forward function of an encoder, which converts it on the first call."""

    def __init__(
        self,
        converted: dict[int, Callable[..., Any]],
        encoder: torch.nn.Module,
        dtype: torch.dtype,
    ):
        self.converted, self.key = converted, id(encoder)
        self.encoder, self.forward, self.dtype = encoder, encoder.forward, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(self.forward).bind_partial(*args).arguments | kwargs
        tensors = {name: value for name, value in given.items() if torch.is_tensor(value)}
        compute = self.converted.get(self.key)
        if compute is not None:
            return compute(tensors)
        try:
            compute = _converted(self.encoder, self.forward, tensors, self.dtype)
            found = compute(tensors)
        except Exception as error:  # a layer that OpenVINO does not know can raise anything
            raise self._unsupported("cannot compute") from error
        expected = self.forward(**tensors, return_dict=True)
        if not _alike(found[0], expected[0], ALIKE[self.dtype]):
            raise self._unsupported("computes other numbers than PyTorch for")
        self.converted[self.key] = compute
        return found

    def _unsupported(self, does: str) -> ValueError:
        return ValueError(f"OpenVINO {does} {type(self.encoder).__name__}: give backend='torch'")


def _alike(found: torch.Tensor, expected: torch.Tensor, least: float) -> bool:
    return found.shape == expected.shape and (  # NaN is not alike
        torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0).item() > least
    )


def _check_installed() -> None:
    try:
        import openvino  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "backend='openvino' needs OpenVINO: pip install 'pyterrier_inpars[openvino]'"
        ) from error


def _converted(
    encoder: torch.nn.Module,
    forward: Callable[..., Any],
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype,
) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Returns a function that computes an encoder with OpenVINO, for batches of any size.

    Args:
        encoder: Encoder with the weights.
        forward: Its own forward function.
        tensors: A batch, by the names of the arguments.
        dtype: Precision.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    names: list[str] = []
    kinds: list[type] = []

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            output = forward(**dict(zip(tensors, values, strict=True)), return_dict=True)
            found = {name: value for name, value in output.items() if torch.is_tensor(value)}
            names[:], kinds[:] = found, [type(output)]
            return tuple(found.values())

    # Two rows without the last token: the comparison with PyTorch then fails if the trace has a
    # number of rows or tokens as a constant.
    example = {
        name: torch.cat([value[:1]] * 2)[:, : max(2, value.shape[1] - 1)]
        for name, value in tensors.items()
    }
    # One token of padding: a trace would leave out a mask that is not needed.
    if "attention_mask" in example:
        example["attention_mask"][1, -1] = 0
    with quiet(), warnings.catch_warnings():
        for category in (torch.jit.TracerWarning, DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        # Not by openvino.convert_model, which reports each conversion to its maker.
        frontend = FrontEndManager().load_by_framework("pytorch")
        traced = TorchScriptPythonDecoder(Traced().eval(), example_input=tuple(example.values()))
        model = frontend.convert(frontend.load(traced))
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def compute(batch: dict[str, torch.Tensor]) -> Any:
        inputs = {place: batch[name].numpy() for place, name in enumerate(tensors)}
        outputs = request.infer(inputs, share_inputs=True)
        values = [torch.from_numpy(outputs[place]) for place in range(len(names))]
        return kinds[0](**dict(zip(names, values, strict=True)))

    return compute
