"""Samplers on the cosine schedule against diffusers' scheduler, and on pictures whose answer is known."""

import math
from itertools import pairwise

from repro.params import FAMILY_SAMPLERS
from repro.randomness import seed_for

import pytest
import torch
from diffusers import DDPMWuerstchenScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from families.cascade_sampling import cascade_steps, sample_cascade
from families.cascade_schedule import signal_share

SAMPLERS = FAMILY_SAMPLERS["cascade"]
NOISE = torch.randn(1, 4, 24, 20, generator=torch.Generator().manual_seed(1))
PICTURE = torch.randn(1, 4, 24, 20, generator=torch.Generator().manual_seed(2))
DEVIATION = 0.4


def denoiser(scaled: torch.Tensor, time: float) -> torch.Tensor:
    """Depends on the picture, not linearly, and on the time (in the clamped range not, which diffusers gives another name)."""
    within = min(max(time, 0.0023), 0.9935)
    return torch.tanh(0.7 * scaled + 0.3 * scaled.roll(1, -1)) * (1 + 0.3 * math.sin(3 * within)) + 0.1


def known_denoiser(scaled: torch.Tensor, time: float) -> torch.Tensor:
    """The best guess of the noise where pictures are normal about PICTURE."""
    signal, scale = math.sqrt(signal_share(time)), math.sqrt(1 - signal_share(time))
    return (scaled - signal * PICTURE) * (scale / (signal**2 * DEVIATION**2 + scale**2))


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 60])
def test_ddpm_is_diffusers_scheduler(steps: int) -> None:
    """With fresh noise of our keys."""
    scheduler = DDPMWuerstchenScheduler()
    scheduler.set_timesteps(steps)
    x = NOISE
    for number, time in enumerate(scheduler.timesteps[:-1]):
        draw = torch.Generator().manual_seed(seed_for(9, "ancestral noise", number))
        x = scheduler.step(denoiser(x, float(time)), time[None], x, generator=draw).prev_sample
    found = sample_cascade(denoiser, NOISE, "ddpm", steps, 9)
    assert float((found - x).abs().max() / x.abs().max()) < 1e-4


@pytest.mark.parametrize(("sampler", "coarse"), [("euler", 0.4), ("dpmpp_2m", 0.2), ("ddpm", None)])
def test_steps_lead_to_the_known_pictures(sampler: str, coarse: float | None) -> None:
    """The exact flow takes standard normal noise to the pictures' distribution; the first level is all but noise."""
    for steps, limit in ((10, coarse), (150, 0.03)):
        made = sample_cascade(known_denoiser, NOISE, sampler, steps, 9)
        if coarse is not None:
            assert float((made - PICTURE - DEVIATION * NOISE).abs().max()) < limit
    assert float((made - PICTURE).std()) == pytest.approx(DEVIATION, rel=0.05)


def test_only_ddpm_draws_again_and_all_differ() -> None:
    pictures = {}
    for sampler in SAMPLERS:
        one, other = (sample_cascade(denoiser, NOISE, sampler, 6, seed) for seed in (9, 10))
        assert torch.equal(one, other) == (sampler != "ddpm")
        pictures[sampler] = one
    assert not torch.allclose(pictures["euler"], pictures["dpmpp_2m"], atol=1e-3)


@settings(max_examples=40)
@given(sampler=st.sampled_from(SAMPLERS), steps=st.integers(1, 999))
def test_every_table_goes_down_from_noise(sampler: str, steps: int) -> None:
    table = cascade_steps(sampler, steps)
    last = math.sqrt(1 / signal_share(0.0) - 1) if sampler == "ddpm" else 0.0
    sigmas = [*(step.sigma for step in table), last]
    assert len(table) <= steps and (len(table) == steps or steps > 100)
    assert table[0].sigma == pytest.approx(100, rel=1e-2)
    assert all(a > b for a, b in pairwise(sigmas[:-1])) and sigmas[-2] >= last
    for step, following in zip(table[:-1], sigmas[1:-1], strict=True):
        assert math.hypot(step.target, step.noise) == pytest.approx(following, rel=1e-9)
        assert math.sqrt(1 / signal_share(step.timestep) - 1) == pytest.approx(step.sigma, rel=1e-9)
    assert table[-1].noise == 0.0 and table[-1].target <= last + 1e-12
