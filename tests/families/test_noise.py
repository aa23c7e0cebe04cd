"""Noise schedule and loss weights against sd-scripts' numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from families.noise import Prediction, alphas_cumprod, loss_weights, offset_noise, signal_and_noise_scales, velocity

pytestmark = pytest.mark.golden


@pytest.fixture
def min_snr(golden: Path) -> dict:
    return json.loads((golden / "train" / "min_snr.json").read_text())


@pytest.fixture
def loss(golden: Path) -> dict:
    return json.loads((golden / "train" / "loss.json").read_text())


def test_the_schedule_is_sd_scripts_up_to_its_float32(min_snr: dict) -> None:
    """Theirs is a float32 running product; ours is float64 until the end."""
    assert np.allclose(alphas_cumprod(), min_snr["alphas_cumprod"], rtol=2e-5, atol=0)


def test_min_snr_weights_are_sd_scripts(min_snr: dict) -> None:
    gamma = min_snr["gamma"]
    weights = loss_weights("epsilon", gamma, debiased=False)
    assert np.allclose(weights.numpy(), min_snr["weight_epsilon"], rtol=5e-5, atol=0)
    assert int((weights < 1).nonzero().max()) == min_snr["last_t_with_weight_below_1_eps"]
    assert np.allclose(loss_weights("v_prediction", gamma, debiased=False).numpy(), min_snr["weight_v"], rtol=5e-5, atol=0)


def test_debiased_weights_are_sd_scripts(min_snr: dict) -> None:
    weights = loss_weights("epsilon", None, debiased=True).numpy()
    assert np.allclose(weights, min_snr["debiased_epsilon"], rtol=5e-5, atol=0)
    expected = 1 / (np.minimum(np.array(min_snr["snr"]), 1000) + 1)
    assert np.allclose(loss_weights("v_prediction", None, debiased=True).numpy(), expected, rtol=5e-5, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_without_a_weighting_all_timesteps_weigh_the_same(prediction: Prediction) -> None:
    assert torch.equal(loss_weights(prediction, None, debiased=False), torch.ones(1000))


def test_weighted_losses_are_sd_scripts(loss: dict) -> None:
    for case in loss["cases"]:
        prediction = "v_prediction" if case["v_prediction"] else "epsilon"
        weights = loss_weights(prediction, case["min_snr_gamma"], debiased=False)[torch.tensor(case["timesteps"])]
        weighted = weights.numpy() * np.array(case["per_sample_mse"])
        assert np.allclose(weighted, case["weighted"], rtol=5e-5, atol=0)
        assert weighted.mean() == pytest.approx(case["loss"], rel=5e-5)


def test_noised_latents_and_velocities_are_sd_scripts(loss: dict) -> None:
    signal, scale = signal_and_noise_scales()
    for case in loss["add_noise"] if isinstance(loss["add_noise"], list) else [loss["add_noise"]]:
        i = np.arange(1024, dtype=np.float64)
        latents, noise = torch.from_numpy(2 * np.sin(0.013 * i)).float(), torch.from_numpy(np.cos(0.07 * i)).float()
        steps = torch.tensor(case["t"]).reshape(-1).repeat_interleave(1024 // len(np.atleast_1d(case["t"])))
        noisy = signal[steps] * latents + scale[steps] * noise
        assert np.allclose(noisy[:8].numpy(), np.array(case["noisy_first8"]).flatten()[:8], rtol=1e-5, atol=1e-6)
        assert float(noisy.double().sum()) == pytest.approx(case["noisy_sum"], rel=1e-4)
        speed = velocity(signal[steps], scale[steps], latents, noise)
        assert np.allclose(speed[:8].numpy(), np.array(case["velocity_first8"]).flatten()[:8], rtol=1e-5, atol=1e-6)


def test_the_zero_terminal_schedule_is_sd_scripts(golden: Path) -> None:
    """Theirs goes through float32 betas near 1, so its small last shares are no better than that."""
    reference = json.loads((golden / "train" / "zero_terminal_snr.json").read_text())
    kept = alphas_cumprod(zero_terminal_snr=True)
    assert np.allclose(kept, reference["alphas_cumprod"], rtol=1e-4, atol=1e-8)
    assert kept[0] == pytest.approx(alphas_cumprod()[0], rel=1e-12)
    assert kept[-1] == 0.0
    signal, scale = signal_and_noise_scales(zero_terminal_snr=True)
    assert (signal[-1], scale[-1]) == (0.0, 1.0)
    assert bool(torch.isfinite(signal).all() and torch.isfinite(scale).all())


@pytest.mark.parametrize("adaptive", [False, True])
def test_noise_offset_is_sd_scripts(golden: Path, adaptive: bool) -> None:
    reference = json.loads((golden / "train" / "noise_offset.json").read_text())
    noise, latents = (torch.tensor(reference[name]).view(2, 4, 4, 4) for name in ("noise", "latents"))
    draws = torch.tensor(reference["offset_draw"]).view(2, 4, 1, 1)
    scale = reference["adaptive_noise_scale"] if adaptive else 0.0
    ours = [offset_noise(*one, reference["noise_offset"], scale) for one in zip(noise, draws, latents, strict=True)]
    theirs = torch.tensor(reference["noise_with_adaptive" if adaptive else "noise_with_offset"]).view(2, 4, 4, 4)
    assert torch.allclose(torch.stack(ours), theirs, rtol=0, atol=1e-6)


def test_an_adaptive_offset_does_not_fall_below_zero() -> None:
    noise, draw = torch.zeros(2, 3, 3), torch.ones(2, 1, 1)
    latents = torch.tensor([0.5, -4.0]).view(2, 1, 1).expand(2, 3, 3)
    shifts = offset_noise(noise, draw, latents, 0.1, -0.05).mean(dim=(1, 2))
    assert torch.allclose(shifts, torch.tensor([0.1 - 0.025, 0.0]))
