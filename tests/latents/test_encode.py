"""The encoders of both families, precisions and the shards' types."""

from pathlib import Path

from repro.devices import device_of_this_process
from repro.numerics import fix_torch

import pytest
import torch
from diffusers import AutoencoderKL
from small_cascade import write_small_cascade
from small_sdxl import write_small_sdxl

from families.effnet import load_effnet, normalised
from latents.encode import BEYOND_FP16, NOT_FINITE, why_lost
from latents.encoders import PictureEncoder, load_encoder

FAMILIES = ["sdxl", "cascade"]
PIXELS = torch.randint(0, 256, (48, 64, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{family: folder of its encoder}."""
    made = tmp_path_factory.mktemp("encode")
    return {"sdxl": write_small_sdxl(made / "sdxl", 1) / "vae", "cascade": write_small_cascade(made / "cascade", 1) / "effnet"}


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, PictureEncoder]:
    fix_torch()
    return {family: load_encoder(family, folder) for family, folder in folders.items()}


def test_a_name_that_is_no_familys_has_no_encoder(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        with pytest.raises(KeyError, match="third"):
            load_encoder("third", folder)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def test_mean_and_deviation_are_those_of_diffusers(encoders: dict[str, PictureEncoder], folders: dict[str, Path]) -> None:
    encoder = encoders["sdxl"]
    vae = AutoencoderKL.from_pretrained(folders["sdxl"], torch_dtype=torch.float32)
    with torch.no_grad():
        expected = vae.encode(PIXELS.permute(2, 0, 1)[None].float() / 127.5 - 1.0).latent_dist
    mean, deviation = encoder.encode(PIXELS, "fp32")
    assert encoder.tensors == ("mean", "std")
    assert torch.equal(mean, expected.mean[0]) and torch.equal(deviation, expected.std[0])
    assert mean.dtype == torch.float32 and mean.shape == (encoder.channels, 48 // encoder.stride, 64 // encoder.stride)


def test_latents_are_those_of_the_image_encoder(encoders: dict[str, PictureEncoder], folders: dict[str, Path]) -> None:
    """With the statistics of its batch norms, not the picture's own, and nothing drawn."""
    encoder, network = encoders["cascade"], load_effnet(folders["cascade"])
    with torch.no_grad():
        expected = network.eval()(normalised(PIXELS)[None])
        of_its_own = network.train()(normalised(PIXELS)[None])
    (latents,) = encoder.encode(PIXELS, "fp32")
    assert encoder.tensors == ("mean",)
    assert torch.equal(latents, expected[0]) and not torch.equal(latents, of_its_own[0])
    assert latents.dtype == torch.float32 and latents.shape == (encoder.channels, 48 // encoder.stride, 64 // encoder.stride)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.1), ("fp16", 0.01)])
def test_half_precisions_are_near(encoders: dict[str, PictureEncoder], family: str, precision: str, limit: float) -> None:
    encoder = encoders[family]
    for half, exact in zip(encoder.encode(PIXELS, precision), encoder.encode(PIXELS, "fp32"), strict=True):
        assert half.dtype == torch.float32
        assert 0 < relative_error(half, exact) < limit
    assert relative_error(encoder.encode(PIXELS, "bf16")[0], encoder.encode(PIXELS, "fp16")[0]) > 0


def test_reasons_to_lose_an_image() -> None:
    fine, large, broken = torch.ones(3), torch.tensor([1.0, 70_000.0]), torch.tensor([1.0, float("nan")])
    for exact, reason in [((fine, fine), None), ((fine, large), BEYOND_FP16), ((broken, fine), NOT_FINITE)]:
        assert why_lost(exact, [latents.half() for latents in exact]) == reason
    assert why_lost((large, fine), (large, fine)) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.1), ("fp16", 0.01)])
def test_the_gpu_gives_the_same_twice_and_is_near_the_cpu(
    encoders: dict[str, PictureEncoder], folders: dict[str, Path], family: str, precision: str, limit: float
) -> None:
    there = load_encoder(family, folders[family], device_of_this_process("cuda"))
    first, again = there.encode(PIXELS, precision), there.encode(PIXELS, precision)
    assert all(map(torch.equal, first, again))
    for found, exact in zip(first, encoders[family].encode(PIXELS, "fp32"), strict=True):
        assert relative_error(found, exact) < limit
