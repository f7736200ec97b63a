from importlib.util import find_spec

import pytest
import torch

from pyterrier_inpars.training.arguments import check_device, check_optimizer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestOptimizer:
    @pytest.mark.parametrize("name", ["adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit"])
    def test_bitsandbytes_needs_a_gpu(self, make, examples, name):
        with pytest.raises(ValueError, match=f"optim='{name}' .* device is 'cpu': .*'adamw_torch'"):
            make({"optim": name}).fit(examples)

    @pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
    def test_bitsandbytes_is_not_installed(self):
        with pytest.raises(ModuleNotFoundError, match="adamw_bnb_8bit.*pip install bitsandbytes"):
            check_optimizer("adamw_bnb_8bit", torch.device("cuda"))

    @pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adafactor"])
    def test_runs_on_a_cpu(self, make, examples, name):
        assert make({"optim": name}).fit(examples).train_loss > 0


class TestDevice:
    """Where transformers would train: ``cuda:0``, or the GPU of the process, or an XLA device."""

    @pytest.mark.parametrize(
        "device, trainer",
        [("cpu", "cpu"), ("cuda:0", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
        + [("xla", "xla:0"), ("mps:0", "mps")],
    )
    def test_the_same(self, device, trainer):
        check_device(torch.device(device), torch.device(trainer))

    @pytest.mark.parametrize(
        "device, trainer, remedy",
        [
            ("cpu", "xla:0", "give device='xla', or set USE_TORCH_XLA=0"),
            ("cuda:1", "cuda:0", "leave out device, and set CUDA_VISIBLE_DEVICES=1"),
        ],
    )
    def test_another(self, device, trainer, remedy):
        with pytest.raises(ValueError, match=f"the reranker is on {device}, .*{remedy}"):
            check_device(torch.device(device), torch.device(trainer))
