"""The precision of a merged file: float32 results rounded once, and never to what a file must not hold."""

from dataclasses import dataclass

from repro.tensorfile import TensorSpec, torch_dtypes

import torch

PRECISIONS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "fp8": "F8_E4M3"}
FP8, BEFORE_FP8 = "F8_E4M3", "F16"
LARGEST_FP8 = 448.0
# The bits of the exponent, all set in inf and NaN alone.
EXPONENT = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
}
# Weights that are looked up or multiplied bare, by the ends of their single-file names: no linear or convolution layer's.
NO_LAYER = ("embedding.weight", "positional_embedding", "in_proj_weight", "text_projection", ".gamma", ".beta")
LAYER_DIMENSIONS = (2, 4)


@dataclass(frozen=True)
class Precision:
    """`name` is fp32, fp16, bf16 or fp8 (e4m3fn). With `fp8_layers_only` fp8 is for weights of linear and convolution layers, and
    the rest fp16: programs that keep fp8 weights in memory cannot look up or normalise with them."""

    name: str
    fp8_layers_only: bool = False

    def dtype_of(self, tensor: str, spec: TensorSpec, beyond_fp8: tuple[str, ...] = ()) -> str:
        """The type of a tensor in the output; what is no float keeps its own, and names that begin so stay fp16 in fp8."""
        if not spec.is_float:
            return spec.dtype
        if self.name == "fp8" and (tensor.startswith(beyond_fp8) or (self.fp8_layers_only and not is_layer_weight(tensor, spec))):
            return BEFORE_FP8
        return PRECISIONS[self.name]


def is_layer_weight(tensor: str, spec: TensorSpec) -> bool:
    return len(spec.shape) in LAYER_DIMENSIONS and not tensor.endswith(NO_LAYER)


def narrow_dtype(dtype: str) -> torch.dtype:
    """What float32 is rounded to, to nearest even; for F8_E4M3 that is F16, from which `fp8` goes on."""
    return torch_dtypes()[BEFORE_FP8 if dtype == FP8 else dtype]


def is_finite(narrow: torch.Tensor) -> bool:
    """Whether no number of a rounded tensor is NaN or inf, as those are that its type could not hold."""
    bits, exponent = EXPONENT[narrow.dtype]
    return not narrow.numel() or (narrow.view(bits) & exponent).max().item() != exponent


def fp8(half: torch.Tensor) -> torch.Tensor:
    """F16 to F8_E4M3, nearest even. Clamped first: what a cast does beyond 448 differs between torch's releases."""
    return half.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn)
