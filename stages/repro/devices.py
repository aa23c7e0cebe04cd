"""The device that a process computes on, what of it decides bits, and torch's types for the recipe's precisions.

Not imported by `repro` itself: stages without tensors do without torch.
"""

import ctypes
from multiprocessing import current_process
from typing import Literal

from repro.errors import StageError
from repro.params import Precision

import torch

Device = Literal["cpu", "cuda"]
TORCH_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def gpu_models() -> list[str]:
    """The model of each GPU that torch sees, by number."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def refuse_several_models(models: list[str]) -> None:
    """Raises:
    StageError: the GPUs are of several models."""
    if len(set(models)) > 1:
        named = ", ".join(sorted(set(models)))
        raise StageError(
            f"device: cuda, but there are GPUs of several models ({named}), whose results differ in their last bits; choose those"
            " of one model with CUDA_VISIBLE_DEVICES"
        )


def refuse_unfit_gpus(processes: int) -> None:
    """Raises:
    StageError: this machine has fewer CUDA GPUs than processes, or the first ones are of several models."""
    models = gpu_models()
    if len(models) < processes:
        raise StageError(
            f"device: cuda with runtime.processes {processes}, but torch {torch.__version__} finds {len(models)} GPUs here; set"
            " runtime.processes to their number, or device: cpu"
        )
    refuse_several_models(models[:processes])


def _cublas_version() -> str:
    """The version of cuBLAS, which torch has loaded but does not tell."""
    library, number = ctypes.CDLL(f"libcublas.so.{torch.version.cuda.partition('.')[0]}"), ctypes.c_int()
    parts = []
    for part in range(3):  # major, minor, patch
        library.cublasGetProperty(part, ctypes.byref(number))
        parts.append(str(number.value))
    return ".".join(parts)


def gpu_libraries(device: Device) -> dict[str, str]:
    """What computes on a GPU: torch's build and its libraries. The CPU's bits are the same in all builds of a version."""
    if device == "cpu":
        return {}
    return {
        "torch build": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "cuBLAS": _cublas_version(),
    }


def device_identity(device: Device) -> dict[str, str]:
    """What of the device decides bits: results of two GPU models, or of two builds of the libraries that compute on them,
    must not meet in one folder. The CPU's are the same on every machine that the pipeline runs on.

    Raises:
        StageError: torch sees no GPU, or GPUs of several models.
    """
    identity = {"device": device, "torch": torch.__version__.split("+")[0]}
    if device == "cpu":
        return identity
    models = gpu_models()
    if not models:
        raise StageError("device: cuda, but torch sees no GPU here; set device: cpu, or install a torch with CUDA and its driver")
    refuse_several_models(models)
    return identity | {"gpu": models[0]} | gpu_libraries(device)


def device_of_this_process(device: Device) -> torch.device:
    """The CPU, or this worker's GPU: its number among its parent's processes, wrapping round the number of GPUs; the first
    one where no worker was started."""
    if device == "cpu":
        return torch.device("cpu")
    number = current_process().name.rpartition("-")[2]  # SpawnProcess-3; MainProcess has none
    return torch.device("cuda", int(number) % torch.cuda.device_count() if number.isdecimal() else 0)


def at_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which convolutions and matrix products are done in `precision`; fp32 leaves all as it is."""
    lower = precision != "fp32"
    return torch.autocast(device.type, TORCH_TYPES[precision] if lower else None, enabled=lower)
