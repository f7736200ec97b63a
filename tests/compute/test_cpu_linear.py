"""oneDNN linear layers: packed weights, layers left unchanged, limited kernel caches."""

import os
import subprocess
import sys

import pytest
import torch

from pyterrier_inpars._compute import cpu_linear
from pyterrier_inpars._compute.cpu_linear import onednn_linear, pack_linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights(bias, dtype):
    """Products are equal, and a weight that two layers share stays with the other.

    In bfloat16 nothing is packed on a processor without bfloat16 instructions.
    """
    packs = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=bias, dtype=dtype)
    table = torch.nn.Embedding(80, 48, dtype=dtype)
    table.weight = layer.weight
    network = torch.nn.ModuleList([layer, table])
    rows = torch.randn(3, 7, 48, dtype=dtype)
    with torch.inference_mode():
        expected = layer(rows)
        pack_linear(network)
        assert (layer.weight is None) == packs and table.weight is not None
        if not packs:
            return
        for some in (rows, rows[:1, :1], rows.transpose(0, 1)):
            wanted = expected.transpose(0, 1) if some.shape[0] == 7 else expected[: len(some)]
            torch.testing.assert_close(layer(some), wanted[:, : some.shape[1]])


@pytest.mark.parametrize("intel", [False, True])
def test_float32_layers_for_a_while(monkeypatch, intel):
    """They compute the same, except on Intel by oneDNN, and keep their weights."""
    monkeypatch.setattr(cpu_linear, "is_intel", lambda: intel)
    network = torch.nn.Sequential(torch.nn.Linear(48, 80), torch.nn.Linear(80, 8, bias=False))
    rows = torch.randn(3, 7, 48)
    with torch.no_grad():
        expected = network(rows)
        with onednn_linear(network, keep=[network[1]]):
            assert [("forward" in vars(layer)) for layer in network] == [not intel, False]
            torch.testing.assert_close(network(rows), expected)
        assert torch.equal(network(rows), expected)


def test_other_dtypes_and_devices_are_not_packed():
    network = torch.nn.ModuleList(
        [torch.nn.Linear(4, 4, dtype=torch.float64), torch.nn.Linear(4, 4, device="meta")]
    )
    pack_linear(network)
    assert all(layer.weight is not None for layer in network)


def test_kernel_caches_are_limited():
    """Products of 1,000 sizes take less memory than with the default cache sizes."""
    program = """
import psutil, torch
from pyterrier_inpars._compute.cpu_linear import onednn_linear, pack_linear
layer = torch.nn.Linear(32, 48)
pack_linear(layer)
before = psutil.Process().memory_info().rss
with torch.inference_mode():
    for rows in range(1, 1001):
        layer(torch.randn(rows, 32))
print(psutil.Process().memory_info().rss - before)
"""

    def growth(**variables: str) -> int:
        # An earlier test may have set the variables in this process.
        environment = {k: v for k, v in os.environ.items() if k not in cpu_linear.CAPACITIES}
        command = [sys.executable, "-c", program]
        return int(subprocess.check_output(command, env=environment | variables))

    assert growth() < growth(**dict.fromkeys(cpu_linear.CAPACITIES, "1024")) * 2 / 3
