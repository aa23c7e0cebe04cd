"""Square roots that have the same bits on every machine: on a CPU numpy's, which are the CPU's correctly rounded instruction.

torch.sqrt on a CPU goes to MKL, whose result is an ulp off in a fifth of all float32 cases, other ones on other makes of CPU, and
in one of seventy float64 cases. On a GPU torch's float64 root is correctly rounded.
"""

import numpy as np
import torch


def square_root(values: torch.Tensor) -> torch.Tensor:
    """Square roots of float32 values, a new tensor: numpy's, which is the CPU's instruction; on a GPU through float64."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sqrt(values.numpy()))
    return values.double().sqrt_().float()


def square_root_(values: torch.Tensor) -> torch.Tensor:
    """Square roots of float64 values in their own place."""
    if values.device.type == "cpu":
        array = values.numpy()
        np.sqrt(array, out=array)
        return values
    return values.sqrt_()


def inverse_square_root(values: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(x), float32 -> float32, a new tensor. Root and quotient are float64's and rounded once: the reciprocal of
    `square_root` would be rounded twice, and have another last bit in a quarter of all cases."""
    return square_root_(values.double()).reciprocal_().float()
