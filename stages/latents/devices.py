"""The device that a process encodes on, and what of it decides the latents' bits."""

from multiprocessing import current_process
from typing import Literal

from repro.errors import StageError
from repro.params import Precision

import torch

Device = Literal["cpu", "cuda"]
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_identity(device: Device) -> dict[str, str]:
    """What of the device decides bits: latents of two GPU models must not meet in one folder. The CPU's are the same on
    every machine that the pipeline runs on.

    Raises:
        StageError: torch sees no GPU, or GPUs of several models.
    """
    if device == "cpu":
        return {"device": device, "torch": torch.__version__.split("+")[0]}
    models = sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())})
    if not models:
        raise StageError("device: cuda, but torch sees no GPU here; set device: cpu, or install a torch with CUDA and its driver")
    if len(models) > 1:
        raise StageError(
            f"device: cuda, but there are GPUs of several models ({', '.join(models)}), whose latents differ in their last bits;"
            " choose those of one model with CUDA_VISIBLE_DEVICES"
        )
    return {"device": device, "gpu": models[0], "torch": torch.__version__}


def device_of_this_process(device: Device) -> torch.device:
    """The CPU, or this worker's GPU: its number among its parent's processes, wrapping round the number of GPUs; the first
    one where no worker was started."""
    if device == "cpu":
        return torch.device("cpu")
    number = current_process().name.rpartition("-")[2]  # SpawnProcess-3; MainProcess has none
    return torch.device("cuda", int(number) % torch.cuda.device_count() if number.isdecimal() else 0)


def at_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which convolutions and matrix products are done in `precision`; fp32 leaves all as it is."""
    return torch.autocast(device.type, HALF_TYPES.get(precision), enabled=precision in HALF_TYPES)
