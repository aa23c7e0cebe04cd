"""Samplers of diffusion models, as tables of steps and one loop that takes them; tables on SDXL's schedule.

The loop works on x = x_0 + sigma * noise, the picture with noise of level sigma upon it (Karras et al. 2022,
arXiv:2206.00364), where every sampler here goes along the same slope dx/dsigma, which is the noise that the model sees, from
one level to the next, and at most adds something to that:

- `euler`: nothing. `ddim` (Song et al. 2021, arXiv:2010.02502, eta 0) is the same step, written for x / sqrt(1 + sigma^2)
  in its paper (section 4.3), and so has the same table.
- `euler_ancestral`: it goes below the next level and adds fresh noise up to it.
- `dpmpp_2m`: DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2), which follows the change of the predicted
  picture since the step before; `dpmpp_2m_karras` the same on the noise levels of Karras et al. 2022, equation 5.

The steps are written out because diffusers' schedulers take float32 square roots in torch, which are not the same on every
CPU. Tables are Python floats, float64; a latent meets them as the factors of a product only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from repro.randomness import seed_for

import numpy as np
import torch

from families.noise import TIMESTEPS, Prediction, alphas_cumprod

# In place of a last signal share of 0, whose noise level would be infinite; diffusers takes the same.
LEAST_SIGNAL = 2.0**-24
KARRAS_RHO = 7.0
# Of the scaled picture [1, c, h, w] at a timestep: the model's noise or velocity, guidance applied.
Denoiser = Callable[[torch.Tensor, float], torch.Tensor]


def guided(predict: Denoiser, guidance: float) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), both halves as one batch.

    Args:
        predict: of [2, c, h, w], the picture twice: the first under the negative prompt, the second under the prompt.
    """

    def denoiser(scaled: torch.Tensor, timestep: float) -> torch.Tensor:
        unconditional, conditional = predict(torch.cat([scaled, scaled]), timestep).chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return denoiser


@dataclass(frozen=True)
class Step:
    """Ask the model at `timestep` and noise level `sigma`, then go down to `target`.

    noise: deviation of the fresh noise added after that; correction: the multiple added of the predicted picture's change
    since the step before.
    """

    timestep: float
    sigma: float
    target: float
    noise: float = 0.0
    correction: float = 0.0


def noise_levels(zero_terminal_snr: bool) -> np.ndarray:
    """sigma = sqrt((1 - abar) / abar) of each of the 1000 timesteps, float64."""
    kept = alphas_cumprod(zero_terminal_snr)
    if zero_terminal_snr:
        kept[-1] = LEAST_SIGNAL
    return np.sqrt((1.0 - kept) / kept)


def spaced_timesteps(steps: int, zero_terminal_snr: bool) -> list[int]:
    """Timesteps from the noisiest on, spaced as SDXL's own scheduler file says (`leading`, offset 1).

    On the zero-terminal schedule they are `trailing`, since pictures must start from the last timestep, where alone the
    model has learned to start from nothing (Lin et al. 2023, section 3.3).

    Args:
        steps: at most 999, since `leading` leaves out the first timestep.
    """
    if zero_terminal_snr:
        return [round(TIMESTEPS * (steps - i) / steps) - 1 for i in range(steps)]
    stride = TIMESTEPS // steps
    return [i * stride + 1 for i in reversed(range(steps))]


def straight_steps(timesteps: list[float], sigmas: list[float], last: float = 0.0) -> list[Step]:
    """From each level straight to the next, from the last one to the level `last`."""
    return [Step(t, sigma, target) for t, (sigma, target) in zip(timesteps, pairwise([*sigmas, last]), strict=True)]


def euler_steps(steps: int, zero_terminal_snr: bool) -> list[Step]:
    timesteps, sigmas = spaced_timesteps(steps, zero_terminal_snr), noise_levels(zero_terminal_snr)
    return straight_steps(timesteps, [float(sigmas[t]) for t in timesteps])


def euler_ancestral_steps(steps: int, zero_terminal_snr: bool) -> list[Step]:
    return [with_ancestral_noise(step) for step in euler_steps(steps, zero_terminal_snr)]


def with_ancestral_noise(step: Step) -> Step:
    """The part of the next level's variance that an ancestral DDPM step draws anew comes back as noise (k-diffusion, eta 1)."""
    level, lower = step.sigma**2, step.target**2
    variance = lower * (level - lower) / level
    return replace(step, target=math.sqrt(lower - variance), noise=math.sqrt(variance))


def dpmpp_2m_steps(steps: int, zero_terminal_snr: bool) -> list[Step]:
    return with_corrections(euler_steps(steps, zero_terminal_snr))


def dpmpp_2m_karras_steps(steps: int, zero_terminal_snr: bool) -> list[Step]:
    """Between the schedule's first and last noise level; the timestep of a level lies between whole ones, by log sigma."""
    levels = noise_levels(zero_terminal_snr).tolist()
    least, most = (level ** (1.0 / KARRAS_RHO) for level in (levels[0], levels[-1]))
    shares = [i / (steps - 1) for i in range(steps)] if steps > 1 else [0.0]
    sigmas = [(most + share * (least - most)) ** KARRAS_RHO for share in shares]
    # numpy's logarithm is chosen by the CPU, Python's is not.
    timesteps = np.interp([math.log(sigma) for sigma in sigmas], [math.log(level) for level in levels], range(TIMESTEPS))
    return with_corrections(straight_steps(timesteps.tolist(), sigmas))


def with_corrections(steps: list[Step]) -> list[Step]:
    """Second order: the predicted picture is followed as it changes in log sigma. The first step knows no change yet, and the
    last goes to the predicted picture itself."""
    corrected = steps[:1]
    for before, step in pairwise(steps):
        if step.target > 0.0:
            done, ahead = math.log(before.sigma / step.sigma), math.log(step.sigma / step.target)
            step = replace(step, correction=(1.0 - step.target / step.sigma) * ahead / (2.0 * done))
        corrected.append(step)
    return corrected


_TABLES = {
    "euler": euler_steps,
    "euler_ancestral": euler_ancestral_steps,
    "ddim": euler_steps,
    "dpmpp_2m": dpmpp_2m_steps,
    "dpmpp_2m_karras": dpmpp_2m_karras_steps,
}


def sampling_steps(sampler: str, steps: int, zero_terminal_snr: bool) -> list[Step]:
    """The table of a sampler of family sdxl in `repro.params.FAMILY_SAMPLERS`; at most 999 steps."""
    return _TABLES[sampler](steps, zero_terminal_snr)


def sample(denoiser: Denoiser, noise: torch.Tensor, table: list[Step], prediction: Prediction, seed: int) -> torch.Tensor:
    """The picture that the steps make of standard normal noise, of its shape and on its device.

    Args:
        seed: with the step's number the key of its fresh noise, which is drawn on the CPU.
    """
    x = noise * math.sqrt(table[0].sigma ** 2 + 1.0)
    predicted_before = None
    for number, step in enumerate(table):
        sigma = step.sigma
        output = denoiser(x * (1.0 / math.sqrt(sigma**2 + 1.0)), step.timestep)
        predicted = _predicted_picture(x, output, sigma, prediction)
        x = x + _slope(x, output, sigma, prediction) * (step.target - sigma)
        if step.correction:
            x = x + (predicted - predicted_before) * step.correction
        if step.noise:
            draw = torch.Generator().manual_seed(seed_for(seed, "ancestral noise", number))
            x = x + torch.randn(noise.shape, generator=draw).to(x.device) * step.noise
        predicted_before = predicted
    return x


def _slope(x: torch.Tensor, output: torch.Tensor, sigma: float, prediction: Prediction) -> torch.Tensor:
    """dx/dsigma: the noise in x."""
    if prediction == "epsilon":
        return output
    return output * (1.0 / math.sqrt(sigma**2 + 1.0)) + x * (sigma / (sigma**2 + 1.0))


def _predicted_picture(x: torch.Tensor, output: torch.Tensor, sigma: float, prediction: Prediction) -> torch.Tensor:
    """x_0, as the model predicts it."""
    if prediction == "epsilon":
        return x - output * sigma
    return x * (1.0 / (sigma**2 + 1.0)) - output * (sigma / math.sqrt(sigma**2 + 1.0))
