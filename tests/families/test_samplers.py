"""Samplers against diffusers' schedulers on a denoiser that is no model, and what every table has."""

import math
from itertools import pairwise

from repro.params import FAMILY_SAMPLERS
from repro.randomness import seed_for

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from families.noise import Prediction
from families.samplers import noise_levels, sample, sampling_steps, spaced_timesteps

SAMPLERS = FAMILY_SAMPLERS["sdxl"]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
NOISE = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(1))
DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}
SCHEDULERS = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, DPM),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, DPM | {"use_karras_sigmas": True}),
}


def denoiser(scaled: torch.Tensor, timestep: float) -> torch.Tensor:
    """Depends on the picture, not linearly, and on the time."""
    return torch.tanh(0.7 * scaled + 0.3 * scaled.roll(1, -1)) * (1 + 0.3 * math.sin(timestep / 300)) + 0.1


def diffusers_picture(sampler: str, steps: int, prediction: Prediction, zero_terminal: bool, seed: int) -> torch.Tensor:
    """What diffusers' loop makes of the noise, with fresh noise of our keys."""
    kind, options = SCHEDULERS[sampler]
    spacing = {"timestep_spacing": "trailing"} if zero_terminal else {"timestep_spacing": "leading", "steps_offset": 1}
    made_for = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_terminal}
    scheduler = kind(**SCHEDULE, **options, **spacing, **made_for)
    if sampler == "dpmpp_2m":  # its own `leading` would divide by one more
        scheduler.set_timesteps(timesteps=spaced_timesteps(steps, zero_terminal))
    else:
        scheduler.set_timesteps(steps)
    x = NOISE * scheduler.init_noise_sigma
    for number, timestep in enumerate(scheduler.timesteps):
        output = denoiser(scheduler.scale_model_input(x, timestep), float(timestep))
        draw = torch.Generator().manual_seed(seed_for(seed, "ancestral noise", number))
        own_draw = {"generator": draw} if sampler == "euler_ancestral" else {}
        x = scheduler.step(output, timestep, x, **own_draw, return_dict=False)[0]
    return x


def our_picture(sampler: str, steps: int, prediction: Prediction, zero_terminal: bool, seed: int) -> torch.Tensor:
    return sample(denoiser, NOISE, sampling_steps(sampler, steps, zero_terminal), prediction, seed)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("prediction", "zero_terminal"), SCHEDULES)
@pytest.mark.parametrize("steps", [2, 5, 20])  # of others diffusers' `trailing` DDIM steps do not meet
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_are_those_of_diffusers(sampler: str, steps: int, prediction: Prediction, zero_terminal: bool) -> None:
    """Near: from a noise level of 4096 float32 loses digits, and diffusers rounds timesteps between whole ones."""
    arguments = (sampler, steps, prediction, zero_terminal, 9)
    limit = 2e-3 if zero_terminal else 1e-4 if sampler == "dpmpp_2m_karras" else 1e-5
    assert relative_error(our_picture(*arguments), diffusers_picture(*arguments)) < limit


def test_samplers_differ_where_they_must() -> None:
    pictures = {sampler: our_picture(sampler, 8, "epsilon", False, 9) for sampler in SAMPLERS}
    assert torch.equal(pictures["euler"], pictures["ddim"])
    distinct = [pictures[name] for name in SAMPLERS if name != "ddim"]
    assert all(relative_error(a, b) > 1e-3 for i, a in enumerate(distinct) for b in distinct[:i])


def test_only_the_ancestral_sampler_draws_again() -> None:
    """By its seed; the first noise is given."""
    for sampler in SAMPLERS:
        same = torch.equal(our_picture(sampler, 4, "epsilon", False, 9), our_picture(sampler, 4, "epsilon", False, 10))
        assert same == (sampler != "euler_ancestral")


@pytest.mark.parametrize("zero_terminal", [False, True])
@pytest.mark.parametrize("steps", [2, 7, 30])
def test_karras_levels_are_asked_for_at_diffusers_timesteps(steps: int, zero_terminal: bool) -> None:
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, **DPM, use_karras_sigmas=True, rescale_betas_zero_snr=zero_terminal)
    scheduler.set_timesteps(steps)
    table = sampling_steps("dpmpp_2m_karras", steps, zero_terminal)
    assert [step.sigma for step in table] == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-4)
    assert [step.timestep for step in table] == pytest.approx(scheduler.timesteps.tolist(), abs=0.51)


@settings(max_examples=40)
@given(sampler=st.sampled_from(SAMPLERS), steps=st.integers(1, 999), zero_terminal=st.booleans())
def test_every_table_goes_down_from_noise_to_a_picture(sampler: str, steps: int, zero_terminal: bool) -> None:
    table = sampling_steps(sampler, steps, zero_terminal)
    sigmas = [step.sigma for step in table] + [0.0]
    assert len(table) == steps
    assert all(a > b for a, b in pairwise(sigmas))
    assert all(a.timestep > b.timestep for a, b in pairwise(table))
    assert table[-1].timestep >= 0 and table[0].timestep <= 999
    levels = torch.from_numpy(noise_levels(zero_terminal))
    for step, following in zip(table, sigmas[1:], strict=True):
        assert math.hypot(step.target, step.noise) == pytest.approx(following, rel=1e-9)
        below, above = levels[math.floor(step.timestep)], levels[math.ceil(step.timestep)]
        assert below * (1 - 1e-9) <= step.sigma <= above * (1 + 1e-9)
        assert math.isfinite(step.correction)
    assert table[0].correction == table[-1].correction == table[-1].noise == 0


def test_a_zero_terminal_schedule_begins_with_its_last_timestep() -> None:
    for sampler in SAMPLERS:
        assert sampling_steps(sampler, 7, True)[0].timestep == 999
        assert sampling_steps(sampler, 7, True)[0].sigma == pytest.approx(4096)
