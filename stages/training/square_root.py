"""The correctly rounded square root of float32 tensors, the same bits on every machine.

torch.sqrt on a CPU goes to MKL, whose float32 result is an ulp off in a fifth of all cases, other ones on other makes of CPU.
"""

import numpy as np
import torch


def square_root(values: torch.Tensor) -> torch.Tensor:
    """Square roots of float32 values, a new tensor: numpy's, which is the CPU's instruction; on a GPU through float64."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sqrt(values.numpy()))
    return values.double().sqrt_().float()
