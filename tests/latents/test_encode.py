"""Posteriors, precisions and the shards' types."""

from pathlib import Path

from repro.devices import device_of_this_process
from repro.numerics import fix_torch

import pytest
import torch
from diffusers import AutoencoderKL
from small_sdxl import write_small_sdxl

from latents.encode import BEYOND_FP16, NOT_FINITE, load_vae, posterior, why_lost

PIXELS = torch.randint(0, 256, (48, 64, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("encode") / "base", seed=1) / "vae"


@pytest.fixture(scope="module")
def vae(vae_folder: Path) -> AutoencoderKL:
    fix_torch()
    return load_vae(vae_folder)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def test_mean_and_deviation_are_those_of_diffusers(vae: AutoencoderKL) -> None:
    with torch.no_grad():
        expected = vae.encode(PIXELS.permute(2, 0, 1)[None].float() / 127.5 - 1.0).latent_dist
    mean, deviation = posterior(vae, PIXELS)
    assert torch.equal(mean, expected.mean[0]) and torch.equal(deviation, expected.std[0])
    assert mean.dtype == torch.float32 and mean.shape == (4, 12, 16)


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.1), ("fp16", 0.01)])
def test_half_precisions_are_near(vae: AutoencoderKL, precision: str, limit: float) -> None:
    for half, exact in zip(posterior(vae, PIXELS, precision), posterior(vae, PIXELS), strict=True):
        assert half.dtype == torch.float32
        assert 0 < relative_error(half, exact) < limit
    assert relative_error(posterior(vae, PIXELS, "bf16")[0], posterior(vae, PIXELS, "fp16")[0]) > 0


def test_reasons_to_lose_an_image() -> None:
    fine, large, broken = torch.ones(3), torch.tensor([1.0, 70_000.0]), torch.tensor([1.0, float("nan")])
    for exact, reason in [((fine, fine), None), ((fine, large), BEYOND_FP16), ((broken, fine), NOT_FINITE)]:
        assert why_lost(exact, [latents.half() for latents in exact]) == reason
    assert why_lost((large, fine), (large, fine)) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.1), ("fp16", 0.01)])
def test_the_gpu_gives_the_same_twice_and_is_near_the_cpu(
    vae: AutoencoderKL, vae_folder: Path, precision: str, limit: float
) -> None:
    there = load_vae(vae_folder, device_of_this_process("cuda"))
    first, again = posterior(there, PIXELS, precision), posterior(there, PIXELS, precision)
    assert all(map(torch.equal, first, again))
    for found, exact in zip(first, posterior(vae, PIXELS), strict=True):
        assert relative_error(found, exact) < limit
