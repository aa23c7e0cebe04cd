"""Results rounded once, to nearest even, and never to what a file must not hold."""

from fractions import Fraction
from itertools import pairwise

from repro.tensorfile import TensorSpec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.rounding import Precision, fp8, is_finite, is_layer_weight, narrow_dtype

UNET, TE1 = "model.diffusion_model.", "conditioner.embedders.0.transformer.text_model."
TE2, VAE = "conditioner.embedders.1.model.", "first_stage_model."


def rounded(values: torch.Tensor, dtype: str) -> torch.Tensor:
    return values.to(narrow_dtype(dtype))


def all_halves() -> torch.Tensor:
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.float16)


@pytest.mark.parametrize(
    "dtype, value, expected",
    [
        ("F16", 1 + 2**-11, 1.0),  # ties
        ("F16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("F16", 1 + 2**-11 + 2**-23, 1 + 2**-10),
        ("F16", -1 - 3 * 2**-11, -1 - 2**-9),
        ("F16", 65519.996, 65504.0),
        ("F16", 2**-25, 0.0),
        ("F16", 3 * 2**-25, 2**-23),
        ("F16", 2**-25 * 1.25, 2**-24),
        ("BF16", 1 + 2**-8, 1.0),
        ("BF16", 1 + 3 * 2**-8, 1 + 2**-6),
        ("BF16", 1 + 2**-8 + 2**-23, 1 + 2**-7),
        ("BF16", (2 - 2**-7 + 2**-9) * 2.0**127, (2 - 2**-7) * 2.0**127),
        ("BF16", 70000.0, 70144.0),
        ("F32", 3.4028235e38, 3.4028235e38),
        ("F32", 1e-45, 1e-45),
        ("F8_E4M3", 1 + 2**-11, 1.0),  # the step before fp8
        ("F8_E4M3", 1.01, 1.0097656),
    ],
)
def test_to_nearest_even(dtype: str, value: float, expected: float) -> None:
    narrow = rounded(torch.tensor([0.0, value]), dtype)
    assert narrow.dtype == {"F32": torch.float32, "BF16": torch.bfloat16}.get(dtype, torch.float16)
    assert torch.equal(narrow.float(), torch.tensor([0.0, expected]))


@given(st.lists(st.floats(width=32, min_value=-65519, max_value=65519), min_size=1, max_size=8))
def test_float16_as_numpy_rounds(values: list[float]) -> None:
    narrow = rounded(torch.tensor(values), "F16")
    assert narrow.numpy().tobytes() == np.array(values, np.float32).astype(np.float16).tobytes()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 6])
def test_nan_and_inf_are_no_result(dtype: str, value: float, at: int) -> None:
    values = torch.ones(7)
    values[at] = value
    assert is_finite(rounded(torch.ones(7), dtype))
    assert not is_finite(rounded(values, dtype))


@pytest.mark.parametrize(
    "dtype, largest, beyond",
    [("F16", 65504.0, 65520.0), ("F8_E4M3", 65504.0, 65520.0), ("BF16", 3.3895314e38, 3.3961776e38)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_too_large_for_the_precision_is_no_result(dtype: str, largest: float, beyond: float, sign: int) -> None:
    narrow = rounded(torch.tensor([sign * largest]), dtype)
    assert is_finite(narrow) and narrow.float().item() == sign * float(np.float32(largest))
    assert not is_finite(rounded(torch.tensor([0.0, sign * beyond]), dtype))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3"])
def test_no_elements_are_finite_too(dtype: str) -> None:
    assert is_finite(rounded(torch.zeros(0), dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_finite_for_every_pattern_of_16_bits(dtype: torch.dtype) -> None:
    values = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)
    assert is_finite(values[torch.isfinite(values)])
    assert [is_finite(value[None]) for value in values[::37]] == torch.isfinite(values[::37]).tolist()
    assert not any(is_finite(value[None]) for value in values[~torch.isfinite(values)][::13])


# e4m3fn: a sign, four bits of exponent, three of fraction; no inf, and NaN only where all seven bits are set.
def fp8_value(code: int) -> Fraction:
    exponent, fraction = code >> 3 & 15, code & 7
    magnitude = Fraction(8 + fraction, 8) * Fraction(2) ** (exponent - 7) if exponent else Fraction(fraction, 8) / 2**6
    return -magnitude if code >> 7 else magnitude


POSITIVE = [fp8_value(code) for code in range(127)]


def nearest_code(value: Fraction) -> int:
    """The code of the magnitude next to a positive value, ties to the even code, above the largest the largest."""
    return min(range(127), key=lambda code: (abs(POSITIVE[code] - value), code & 1))


def test_the_table_of_fp8_is_torchs() -> None:
    codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8)
    assert codes.view(torch.float8_e4m3fn).float().tolist() == [float(fp8_value(code)) for code in codes.tolist()]
    assert sorted(POSITIVE) == POSITIVE and POSITIVE[-1] == 448


def test_every_half_becomes_the_nearest_fp8_or_the_largest() -> None:
    halves = all_halves()
    halves = halves[torch.isfinite(halves)]
    # Between the middles of neighbours the nearest is the same: exact at the middles, and compared as exact numbers between.
    middles = [(a + b) / 2 for a, b in pairwise(POSITIVE)]
    exact = np.array([float(middle) for middle in middles])
    assert [Fraction(value) for value in exact.tolist()] == middles
    magnitudes = halves.abs().double().numpy()
    codes = np.searchsorted(exact, magnitudes, side="left")
    at_middle = np.isin(magnitudes, exact)
    codes[at_middle] = [nearest_code(Fraction(value)) for value in magnitudes[at_middle].tolist()]
    expected = codes | np.where(np.signbit(halves.numpy()), 128, 0)
    assert at_middle.sum() > 200 and len(halves) == 2 * 0x7C00
    assert fp8(halves).view(torch.uint8).tolist() == expected.tolist()


@given(st.floats(width=16, min_value=0, allow_infinity=False))
def test_fp8_against_the_whole_table(value: float) -> None:
    assert fp8(torch.tensor([value], dtype=torch.float16)).view(torch.uint8).item() == nearest_code(Fraction(value))


def test_fp8_of_large_halves_is_the_largest() -> None:
    assert fp8(torch.tensor([448, 464, 465, 480, 65504, -65504], dtype=torch.float16)).float().tolist() == [448.0] * 5 + [-448.0]


LAYERS = {
    f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{UNET}input_blocks.3.0.op.weight": (320, 320, 3, 3),
    f"{UNET}input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    f"{UNET}input_blocks.4.0.emb_layers.1.weight": (640, 1280),
    f"{UNET}input_blocks.4.1.proj_in.weight": (640, 640),
    f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 2048),
    f"{UNET}middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    f"{UNET}output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
    f"{UNET}time_embed.0.weight": (1280, 320),
    f"{UNET}label_emb.0.0.weight": (1280, 2816),
    f"{UNET}out.2.weight": (4, 320, 3, 3),
    f"{TE1}encoder.layers.0.self_attn.q_proj.weight": (768, 768),
    f"{TE1}encoder.layers.0.mlp.fc1.weight": (3072, 768),
    f"{TE2}transformer.resblocks.0.attn.out_proj.weight": (1280, 1280),
    f"{TE2}transformer.resblocks.0.mlp.c_fc.weight": (5120, 1280),
    f"{VAE}quant_conv.weight": (8, 8, 1, 1),
    f"{VAE}decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    f"{VAE}encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
}
NO_LAYERS = {
    f"{UNET}input_blocks.0.0.bias": (320,),
    f"{UNET}input_blocks.1.0.in_layers.0.weight": (320,),
    f"{UNET}input_blocks.4.1.norm.weight": (640,),
    f"{UNET}middle_block.1.transformer_blocks.0.norm1.weight": (1280,),
    f"{UNET}out.0.bias": (320,),
    f"{TE1}embeddings.token_embedding.weight": (49408, 768),
    f"{TE1}embeddings.position_embedding.weight": (77, 768),
    f"{TE1}final_layer_norm.weight": (768,),
    f"{TE2}token_embedding.weight": (49408, 1280),
    f"{TE2}positional_embedding": (77, 1280),
    f"{TE2}text_projection": (1280, 1280),
    f"{TE2}logit_scale": (),
    f"{TE2}transformer.resblocks.0.attn.in_proj_weight": (3840, 1280),
    f"{TE2}transformer.resblocks.0.attn.in_proj_bias": (3840,),
    f"{TE2}transformer.resblocks.0.ln_1.weight": (1280,),
    f"{VAE}decoder.norm_out.weight": (128,),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_layers(name: str) -> None:
    spec = TensorSpec("F32", LAYERS[name])
    assert is_layer_weight(name, spec)
    assert Precision("fp8", fp8_layers_only=True).dtype_of(name, spec) == "F8_E4M3"


@pytest.mark.parametrize("name", NO_LAYERS)
def test_what_is_no_layers_weight(name: str) -> None:
    spec = TensorSpec("BF16", NO_LAYERS[name])
    assert not is_layer_weight(name, spec)
    assert Precision("fp8", fp8_layers_only=True).dtype_of(name, spec) == "F16"
    assert Precision("fp8").dtype_of(name, spec) == "F8_E4M3"


@pytest.mark.parametrize("precision, dtype", [("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16"), ("fp8", "F8_E4M3")])
def test_the_type_of_a_tensor_in_the_output(precision: str, dtype: str) -> None:
    for stored in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"):
        assert Precision(precision).dtype_of("any.bias", TensorSpec(stored, (3,))) == dtype
    for stored in ("I64", "I32", "U8", "BOOL"):
        assert Precision(precision).dtype_of("any.position_ids", TensorSpec(stored, (1, 77))) == stored
        assert Precision(precision, fp8_layers_only=True).dtype_of("any.weight", TensorSpec(stored, (3, 3))) == stored


def test_only_fp8_leaves_other_tensors_out() -> None:
    for precision, dtype in {"fp8": "F16", "bf16": "BF16"}.items():
        assert Precision(precision).dtype_of("vae.encoder.a.weight", TensorSpec("F32", (4, 4)), ("vae.encoder.",)) == dtype
    assert Precision("bf16", fp8_layers_only=True).dtype_of(f"{TE2}text_projection", TensorSpec("F32", (4, 4))) == "BF16"
