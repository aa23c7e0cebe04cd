"""Devices and precisions."""

import re
import subprocess
import sys

from repro.devices import (
    TORCH_TYPES,
    at_precision,
    device_identity,
    device_of_this_process,
    gpu_libraries,
    refuse_several_models,
    refuse_unfit_gpus,
)
from repro.errors import StageError

import pytest
import torch

CPU = torch.device("cpu")


def test_results_of_the_cpu_hang_on_no_machine() -> None:
    assert device_identity("cpu") == {"device": "cpu", "torch": torch.__version__.split("+")[0]}
    assert device_of_this_process("cpu") == CPU
    assert gpu_libraries("cpu") == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_results_of_a_gpu_hang_on_its_model_and_libraries() -> None:
    identity = device_identity("cuda")
    assert identity["gpu"] == torch.cuda.get_device_name(0) and identity["torch build"] == torch.__version__
    assert identity["CUDA"] == torch.version.cuda and identity["cuDNN"] == str(torch.backends.cudnn.version())
    assert re.fullmatch(rf"{torch.version.cuda.split('.')[0]}\.\d+\.\d+", identity["cuBLAS"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_gpu_says_so() -> None:
    with pytest.raises(StageError, match="torch sees no GPU here; set device: cpu"):
        device_identity("cuda")


def test_more_processes_than_gpus_are_refused() -> None:
    found = torch.cuda.device_count()
    refuse_unfit_gpus(found)
    with pytest.raises(
        StageError, match=rf"^device: cuda with runtime.processes {found + 1}, but torch .* finds {found} GPUs here"
    ):
        refuse_unfit_gpus(found + 1)


def test_gpus_of_several_models_are_refused() -> None:
    refuse_several_models([])
    refuse_several_models(["H200", "H200"])
    with pytest.raises(StageError, match=r"several models \(A100, H200\), whose results differ .* CUDA_VISIBLE_DEVICES"):
        refuse_several_models(["H200", "A100", "H200"])


@pytest.mark.parametrize("precision", TORCH_TYPES)
def test_products_are_done_in_the_precision(precision: str) -> None:
    one = torch.ones(2, 2)
    with at_precision(CPU, precision):
        assert (one @ one).dtype == TORCH_TYPES[precision]
    assert (one @ one).dtype == torch.float32


def test_stages_without_tensors_do_without_torch() -> None:
    code = "import sys; sys.path.insert(0, 'stages'); import repro, repro.params; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
