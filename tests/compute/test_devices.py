"""Choice of device and dtype."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyterrier_inpars._compute import devices
from pyterrier_inpars._compute.devices import best_device, best_dtype


@pytest.fixture
def torch_xla(tmp_path, monkeypatch):
    """An importable stand-in for torch_xla."""
    (tmp_path / "torch_xla.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("torch_xla", None)


class TestDevice:
    @pytest.mark.parametrize("name", ["cpu", "cuda:1", "mps"])
    def test_requested(self, name, monkeypatch, torch_xla):
        monkeypatch.setenv("PJRT_DEVICE", "TPU")
        assert best_device(name) == best_device(torch.device(name)) == torch.device(name)

    def test_tpu(self, monkeypatch, torch_xla):
        monkeypatch.setenv("PJRT_DEVICE", "TPU")
        assert best_device() == torch.device("xla")
        assert "torch_xla" in sys.modules

    @pytest.mark.parametrize("set_up_for", [None, "CPU", "CUDA", ""])
    def test_no_tpu(self, monkeypatch, torch_xla, set_up_for):
        """An installed torch_xla alone selects no XLA device and is not imported."""
        monkeypatch.delenv("PJRT_DEVICE", raising=False)
        if set_up_for is not None:
            monkeypatch.setenv("PJRT_DEVICE", set_up_for)
        assert best_device().type != "xla"
        assert "torch_xla" not in sys.modules

    def test_tpu_without_torch_xla(self, monkeypatch):
        monkeypatch.setenv("PJRT_DEVICE", "TPU")
        assert best_device().type != "xla"
        with pytest.raises(ModuleNotFoundError, match="device='xla' needs torch_xla.*pip install"):
            best_device("xla")
        with pytest.raises(ModuleNotFoundError, match="torch==2.9.0 torch_xla==2.9.0$"):
            best_device("xla")

    def test_callers_that_do_not_run_on_xla(self, monkeypatch, torch_xla):
        monkeypatch.setenv("PJRT_DEVICE", "TPU")
        assert best_device(xla=False).type != "xla"
        with pytest.raises(ValueError, match="device='xla' is for training and reranking"):
            best_device("xla", xla=False)
        assert "torch_xla" not in sys.modules

    def test_one_gpu_per_process(self, monkeypatch):
        monkeypatch.delenv("PJRT_DEVICE", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert best_device() == best_device("cuda") == torch.device("cuda", 0)
        monkeypatch.setenv("LOCAL_RANK", "3")
        assert best_device() == best_device("cuda") == torch.device("cuda", 3)
        assert best_device("cuda:1") == torch.device("cuda", 1)

    def test_import_is_light(self):
        code = (
            "import pyterrier_inpars._compute.devices, pyterrier_inpars._compute.xla, sys; "
            "print(*sys.modules)"
        )
        root = Path(__file__).resolve().parents[2]
        modules = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True
        )
        assert not {"torch", "transformers", "torch_xla"} & set(modules.stdout.split())


class TestDtype:
    @pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
    def test_older_torch(self, monkeypatch):
        """`auto` is the same in a PyTorch version without get_capabilities."""
        expected = best_dtype("auto", torch.device("cpu"))
        monkeypatch.delattr(torch.cpu, "get_capabilities")
        assert best_dtype("auto", torch.device("cpu")) == expected

    @pytest.mark.parametrize("intel", [False, True])
    @pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16", "avx512f"])
    def test_cpu(self, monkeypatch, name, intel):
        """Intel's processors compute faster in bfloat16 with AMX only."""
        can = {"avx2": True, "amx_bf16": False, name: True}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
        monkeypatch.setattr(devices, "is_intel", lambda: intel)
        slower = {"avx512f", *["avx512_bf16"] * intel}
        expected = torch.float32 if name in slower else torch.bfloat16
        assert best_dtype("auto", torch.device("cpu")) == expected

    @pytest.mark.parametrize("dtype", ["auto", "int8"])
    def test_xla(self, monkeypatch, dtype):
        """bfloat16 on a TPU, float32 on the CPU device of XLA."""
        monkeypatch.setenv("PJRT_DEVICE", "TPU")
        assert best_dtype(dtype, torch.device("xla")) == torch.bfloat16
        monkeypatch.setenv("PJRT_DEVICE", "CPU")
        assert best_dtype(dtype, torch.device("xla")) == torch.float32

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_requested(self, dtype):
        for device in ("xla", "cpu"):
            assert best_dtype(dtype, torch.device(device)) == getattr(torch, dtype)
