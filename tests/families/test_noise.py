"""Noise schedule and loss weights against sd-scripts' numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from families.noise import alphas_cumprod, min_snr_weights, signal_and_noise_scales

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
    assert np.allclose(min_snr_weights(min_snr["gamma"]).numpy(), min_snr["weight_epsilon"], rtol=5e-5, atol=0)
    below = (min_snr_weights(min_snr["gamma"]) < 1).nonzero().flatten()
    assert int(below.max()) == min_snr["last_t_with_weight_below_1_eps"]
    assert torch.equal(min_snr_weights(None), torch.ones(1000))


def test_weighted_losses_are_sd_scripts(loss: dict) -> None:
    for case in loss["cases"]:
        if case["v_prediction"]:
            continue
        weights = min_snr_weights(case["min_snr_gamma"])[torch.tensor(case["timesteps"])]
        assert np.allclose(weights.numpy() * np.array(case["per_sample_mse"]), case["weighted"], rtol=5e-5, atol=0)


def test_noised_latents_are_sd_scripts(loss: dict) -> None:
    signal, scale = signal_and_noise_scales()
    for case in loss["add_noise"] if isinstance(loss["add_noise"], list) else [loss["add_noise"]]:
        i = np.arange(1024, dtype=np.float64)
        latents, noise = torch.from_numpy(2 * np.sin(0.013 * i)).float(), torch.from_numpy(np.cos(0.07 * i)).float()
        steps = torch.tensor(case["t"]).reshape(-1).repeat_interleave(1024 // len(np.atleast_1d(case["t"])))
        noisy = signal[steps] * latents + scale[steps] * noise
        assert np.allclose(noisy[:8].numpy(), np.array(case["noisy_first8"]).flatten()[:8], rtol=1e-5, atol=1e-6)
        assert float(noisy.double().sum()) == pytest.approx(case["noisy_sum"], rel=1e-4)
