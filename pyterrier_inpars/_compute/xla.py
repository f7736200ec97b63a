"""What a TPU, or any other device of torch_xla, asks for.

XLA notes what is to be computed, compiles a program for it when a result is wanted, and keeps the
programs. A program is for one set of shapes and takes seconds to minutes to compile, so batches
come in few shapes, and what is compiled together ends with the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

SHORTEST = 32
"""The fewest tokens that a batch is padded to."""


def on_xla(device: torch.device) -> bool:
    """Whether the device is one of torch_xla."""
    return device.type == "xla"


def padded_length(tokens: int, limit: float, device: torch.device) -> int:
    """How many tokens wide a batch is made whose longest row has ``tokens``.

    As many, but on XLA the next power of two from ``SHORTEST`` on, or the limit if that is less:
    one of 32, 64, 128, 256 and 512 where the limit is 512.

    Args:
        tokens: of the longest row, at most ``limit``.
        limit: most tokens of the network's input.
        device: where the batch goes.
    """
    if not on_xla(device):
        return tokens
    power = 1 << (max(tokens, SHORTEST) - 1).bit_length()
    return max(tokens, int(min(power, limit)))


def full_batch(rows: Sequence[Item], size: int, device: torch.device) -> list[Item]:
    """The rows, and on XLA the last of them again until there are ``size``."""
    missing = size - len(rows) if on_xla(device) else 0
    return [*rows, *[rows[-1]] * missing]


def tie_weights(network: torch.nn.Module) -> None:
    """Has a network's layers share weights again: moved to XLA, each of them gets its own."""
    from transformers import PreTrainedModel

    for part in network.modules():
        if isinstance(part, PreTrainedModel):
            part.tie_weights()


@contextmanager
def weights_on_cpu(network: torch.nn.Module) -> Iterator[None]:
    """Has the weights of a network on the CPU for a while: safetensors saves no others.

    Then it has its own again, the very tensors that an optimiser may know. What is shared is shared
    on the CPU too. A network that is not on XLA stays as it is.
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


def xla_trainer(trainer_class: Any, dtype: torch.dtype) -> type:
    """The subclass of a ``transformers.Trainer`` that trains on XLA.

    Args:
        trainer_class: the class.
        dtype: of the matrix products; accelerate has no autocast for a TPU.
    """
    import torch
    import torch_xla
    from accelerate.utils import convert_outputs_to_fp32

    class Trainer(trainer_class):
        def train(self, *args: Any, **options: Any) -> Any:
            for name in ("activation_checkpointing", "gradient_checkpointing"):
                if getattr(self.args, name, False):
                    raise ValueError(f"{name} does not run on XLA: leave it out of training")
            if dtype != torch.float32:
                forward = torch.autocast("xla", dtype)(self.model.forward)
                self.model.forward = convert_outputs_to_fp32(forward)
            return super().train(*args, **options)

        def training_step(self, *args: Any, **options: Any) -> Any:
            # The dropout's seed comes from the CPU's generator, whose state a checkpoint holds:
            # XLA's own counts how often it was run.
            torch_xla.manual_seed(int(torch.randint(2**31, ())))
            loss = super().training_step(*args, **options)
            # Or the accumulated batches of a step are one program, for any sequence of lengths.
            torch_xla.sync()
            return loss

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            # transformers would write a file that sentence-transformers does not read.
            if self.args.should_save:
                with weights_on_cpu(self.model):
                    self._save(output_dir)

    return Trainer
