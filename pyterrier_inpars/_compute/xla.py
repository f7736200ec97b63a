"""Support for TPUs and other torch_xla devices.

XLA traces operations, compiles the trace into a program when a result is needed, and caches the
program. Each combination of shapes needs a program of its own, which takes seconds to minutes to
compile. Batches are therefore padded to few shapes, and the trace ends after each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

Mixin: Any = object
"""Base of a trainer mixin, for type checkers: a ``transformers.Trainer`` has the other methods."""

SHORTEST = 32
"""Minimum number of tokens to which a batch is padded."""


def on_xla(device: torch.device) -> bool:
    """Whether ``device`` is a torch_xla device."""
    return device.type == "xla"


def padded_length(tokens: int, limit: float, device: torch.device) -> int:
    """Returns the length to which a batch is padded.

    On XLA this is the next power of two, at least ``SHORTEST`` and at most ``limit``: for a limit
    of 512, one of 32, 64, 128, 256 and 512. On other devices it is ``tokens``.

    Args:
        tokens: Length of the longest sequence in tokens, at most ``limit``.
        limit: Maximum input length of the network in tokens.
        device: Device of the batch.
    """
    if not on_xla(device):
        return tokens
    power = 1 << (max(tokens, SHORTEST) - 1).bit_length()
    return max(tokens, int(min(power, limit)))


def full_batch(rows: Sequence[Item], size: int, device: torch.device) -> list[Item]:
    """Returns the rows; on XLA, repeats the last row until there are ``size``."""
    missing = size - len(rows) if on_xla(device) else 0
    return [*rows, *[rows[-1]] * missing]


def tie_weights(network: torch.nn.Module) -> None:
    """Ties shared weights again, since moving a network to XLA gives each layer its own copy."""
    from transformers import PreTrainedModel

    for part in network.modules():
        if isinstance(part, PreTrainedModel):
            part.tie_weights()


@contextmanager
def weights_on_cpu(network: torch.nn.Module) -> Iterator[None]:
    """Replaces XLA weights by CPU copies until the block ends, since safetensors saves no others.

    Afterwards the network has its original tensors again, which an optimizer may refer to. Shared
    weights stay shared. A network that is not on XLA stays unchanged.
    """
    import torch

    copies: dict[int, torch.Tensor] = {}
    before = []
    for part in network.modules():
        kinds: list[dict[str, Any]] = [part._parameters, part._buffers]
        for tensors in kinds:
            before.append((tensors, dict(tensors)))
            for name, tensor in tensors.items():
                if tensor is None or not on_xla(tensor.device):
                    continue
                if id(tensor) not in copies:
                    copy = tensor.detach().cpu()
                    if isinstance(tensor, torch.nn.Parameter):
                        copy = torch.nn.Parameter(copy, tensor.requires_grad)
                    copies[id(tensor)] = copy
                tensors[name] = copies[id(tensor)]
    try:
        yield
    finally:
        for tensors, own in before:
            tensors.update(own)


class XlaTrainerMixin(Mixin):
    """Trains on XLA, as a mixin of a ``transformers.Trainer``.

    Attributes:
        autocast_dtype: ``torch.dtype`` of the matrix products; accelerate has no autocast for a
            TPU.
    """

    autocast_dtype: Any = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Trains under autocast.

        Raises:
            ValueError: Activation checkpointing is set, which does not run on XLA.
        """
        import torch
        from accelerate.utils import convert_outputs_to_fp32

        for name in ("activation_checkpointing", "gradient_checkpointing"):
            if getattr(self.args, name, False):
                raise ValueError(f"{name} does not run on XLA: leave it out of training")
        if self.autocast_dtype not in (None, torch.float32):
            forward = torch.autocast("xla", self.autocast_dtype)(self.model.forward)
            self.model.forward = convert_outputs_to_fp32(forward)
        return super().train(*args, **options)

    def training_step(self, *args: Any, **options: Any) -> Any:
        """Runs a step whose dropout follows the CPU's generator, which checkpoints contain."""
        import torch
        import torch_xla

        # XLA's own generator counts how often it ran, so it cannot resume.
        torch_xla.manual_seed(int(torch.randint(2**31, ())))
        loss = super().training_step(*args, **options)
        # Without it, the accumulated batches of a step form one program per sequence of lengths.
        torch_xla.sync()
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the weights from the CPU, in a file that sentence-transformers reads."""
        if self.args.should_save:
            with weights_on_cpu(self.model):
                self._save(output_dir)
