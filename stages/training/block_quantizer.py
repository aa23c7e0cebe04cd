"""Block-wise dynamic 8-bit quantisation (Dettmers et al. 2022, arXiv 2110.02861): blocks of 256 numbers, each with its own scale.

A block is kept as the largest magnitude in it (float32) and for each number the code (uint8) nearest to number / magnitude.
The two code maps are bitsandbytes'. Its CUDA kernel searches the nearest code; its CPU kernel takes the code from 65,536
equal bins instead and so turns zero into 2e-5 of the block's magnitude. Here the nearest code is found exactly, from a
table over the bits of a float32: no two borders between codes share the upper 16 bits, so these name the lower of two
codes, and adding what is left of the border's lower 16 bits carries over into the next code beyond it.
"""

import importlib.metadata
import re

from repro.errors import StageError

import torch

from training.flat import BLOCK

FIRST_FAULTY, FIRST_MENDED = (0, 36, 0), (0, 41, 1)
LOWER_BITS = 16


def refuse_faulty_bitsandbytes() -> None:
    """Versions 0.36.0 to 0.41.0 made an unsigned code map of 524 entries, of which the first 256 were used (issue 659).

    Raises:
        StageError: such a version is installed.
    """
    installed = importlib.metadata.version("bitsandbytes")
    numbers = [int(number) for number in re.findall(r"\d+", installed)[:3]]
    if FIRST_FAULTY <= tuple(numbers + [0] * (3 - len(numbers))) < FIRST_MENDED:
        raise StageError(
            f"bitsandbytes {installed} is installed: 0.36.0 to 0.41.0 have a wrong code map for 8-bit optimizers;"
            " install the version of requirements.lock (any from 0.41.1 on is right)"
        )


def code_map(signed: bool) -> torch.Tensor:
    """bitsandbytes' dynamic 8-bit code, float32 [256], rising, from -0.993 (signed) or 0 to 1; 0 is in it exactly.

    Raises:
        StageError: the installed bitsandbytes is one with the wrong map.
    """
    refuse_faulty_bitsandbytes()
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=signed)


def rising_bits(values: torch.Tensor) -> torch.Tensor:
    """float32 -> int32 of the same shape, not negative, that rises with the value among values of one sign."""
    bits = values.view(torch.int32)
    return (bits >> 31).bitwise_xor_(bits)


def carry_table(code: torch.Tensor) -> torch.Tensor:
    """int32 [32768] such that (bits + table[bits >> 16]) >> 16 is the nearest code of a float32 with those rising bits.

    Nearest by the float32 midpoints of neighbouring codes, as in the CUDA kernel; a midpoint goes to the lower code.
    """
    borders = (code[1:] + code[:-1]) / 2
    upper = torch.arange(1 << 15, dtype=torch.int32)
    first_bits = upper << LOWER_BITS
    # Bits up to those of 1.0 are a positive number's own; others are a negative one's, inverted, or no ratio's (never read).
    positive = first_bits <= int(rising_bits(torch.ones(1)))
    first = torch.where(positive, first_bits, ~first_bits).view(torch.float32).nan_to_num()
    base = torch.bucketize(first, borders).int()
    lower_bits = torch.full_like(upper, (1 << LOWER_BITS) - 1)
    border_bits = rising_bits(borders)
    lower_bits[border_bits >> LOWER_BITS] = border_bits & ((1 << LOWER_BITS) - 1)
    return (base << LOWER_BITS) + ((1 << LOWER_BITS) - 1) - lower_bits - first_bits


class BlockQuantizer:
    """float32 blocks <-> (uint8 codes, float32 magnitude of each block), on the device of the tables.

    Args:
        signed: the map with both signs (momenta) or the one from 0 to 1 (mean squares).
    """

    def __init__(self, signed: bool, device: torch.device | str = "cpu"):
        code = code_map(signed)
        self.zero = int((code == 0).nonzero())
        self.code, self.carry = code.to(device), carry_table(code).to(device)

    def dequantise(self, codes: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
        """codes uint8 [n], magnitudes float32 [n / 256] -> float32 [n], a new tensor."""
        values = self.code.index_select(0, codes.int())
        values.view(-1, BLOCK).mul_(magnitudes.unsqueeze(1))
        return values

    def quantise(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [n] -> (codes int32 [n], magnitudes float32 [n / 256]); a value never changes its sign.

        A block of zeros gets the zero code and the magnitude 0.
        """
        blocks = values.view(-1, BLOCK)
        magnitudes = blocks.abs().amax(dim=1)
        scales = torch.where(magnitudes > 0, magnitudes, 1.0)
        bits = rising_bits((blocks / scales.unsqueeze(1)).flatten())
        return bits.add_(self.carry.index_select(0, bits >> LOWER_BITS)).bitwise_right_shift_(LOWER_BITS), magnitudes
