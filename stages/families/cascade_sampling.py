"""Sampling on Stable Cascade's cosine schedule: tables of its samplers, for stage C and stage B alike.

Levels lie at even times from 1 down, as diffusers' DDPMWuerstchenScheduler spaces them, and steps are those of
`families.samplers`:

- `ddpm`: the ancestral step is the DDPM step of that scheduler in terms of sigma. The last one goes to the schedule's last
  level, of signal share 0.9999, where the latents are left, again as the scheduler does.
- `euler` and `dpmpp_2m` go to the picture itself.

The model is told the time at which the signal has the level's share, as Stability AI's own sampler and the training do;
diffusers' pipeline tells it 1 at the first step, where the clamped share is that of 0.9936.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from families.cascade_schedule import signal_share, time_of_share
from families.samplers import Denoiser, Step, sample, straight_steps, with_ancestral_noise, with_corrections


def _noise_level(share: float) -> float:
    """sigma = sqrt((1 - abar) / abar)."""
    return math.sqrt((1.0 - share) / share)


def _straight(steps: int, last: float) -> list[Step]:
    """Of several times whose share is clamped to the same one, the level stands once."""
    shares = dict.fromkeys(signal_share((steps - number) / steps) for number in range(steps))
    return straight_steps([time_of_share(share) for share in shares], [_noise_level(share) for share in shares], last)


def euler_steps(steps: int) -> list[Step]:
    return _straight(steps, 0.0)


def dpmpp_2m_steps(steps: int) -> list[Step]:
    return with_corrections(euler_steps(steps))


def ddpm_steps(steps: int) -> list[Step]:
    table = [with_ancestral_noise(step) for step in _straight(steps, _noise_level(signal_share(0.0)))]
    return [*table[:-1], replace(table[-1], noise=0.0)]


_TABLES: dict[str, Callable[[int], list[Step]]] = {"euler": euler_steps, "dpmpp_2m": dpmpp_2m_steps, "ddpm": ddpm_steps}


def cascade_steps(sampler: str, steps: int) -> list[Step]:
    """The table of a sampler of family cascade in `repro.params.FAMILY_SAMPLERS`."""
    return _TABLES[sampler](steps)


def sample_cascade(denoiser: Denoiser, noise: torch.Tensor, sampler: str, steps: int, seed: int) -> torch.Tensor:
    """The latents that the steps make of standard normal noise, of its shape and on its device.

    Args:
        denoiser: the noise in latents at a time, guidance applied. seed: with the step's number the key of its fresh noise.
    """
    latents = sample(denoiser, noise, cascade_steps(sampler, steps), "epsilon", seed)
    return latents * math.sqrt(signal_share(0.0)) if sampler == "ddpm" else latents
