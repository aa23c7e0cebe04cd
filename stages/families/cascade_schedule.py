"""The continuous cosine noise schedule of Stable Cascade, its noise condition and its loss weights.

Formulas of Stability AI's GDF classes as sd-scripts trained by them (branch stable-cascade, 235a1ea2,
`library/stable_cascade.py`). A picture's time t lies in 0..1: 0 is the picture, 1 is noise. Scalars are Python floats,
computed one by one and cast at the end, so that they are the same bits on every CPU.
"""

import math
from bisect import bisect_left

from repro.randomness import Stream

import numpy as np
import torch

from families.components import moved

OFFSET = 0.008
# Share of the signal's variance at time 0 before it is scaled to 1.
FIRST_SHARE = math.cos(OFFSET / (1.0 + OFFSET) * math.pi / 2.0) ** 2
# The reference clamps in float32: its 0.9999 is a little less than 0.9999, and log SNR ends at 9.21007 in place of 9.21024.
LEAST_SHARE, MOST_SHARE = float(np.float32(1e-4)), float(np.float32(0.9999))
LEAST_TIME = 0.001

# Buckets of the adaptive weight: 299 edges over log SNR -10..10.
ADAPTIVE_BUCKETS = 300
ADAPTIVE_LIMIT = 10.0
ADAPTIVE_KEPT = 0.99
LEAST_WEIGHT, MOST_WEIGHT = 1e-7, 1e7
_EDGES = np.linspace(-ADAPTIVE_LIMIT, ADAPTIVE_LIMIT, ADAPTIVE_BUCKETS - 1).astype(np.float32).tolist()


def draw_timestep(draws: Stream) -> float:
    """A time of training in 0.001..1, even but for the last thousandth, which is drawn as 1."""
    return min(max(1.0 - draws.uniform() + LEAST_TIME, LEAST_TIME), 1.0)


def signal_share(time: float) -> float:
    """abar, the signal's share of the variance at a time: x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
    share = math.cos((OFFSET + time) / (1.0 + OFFSET) * math.pi / 2.0) ** 2 / FIRST_SHARE
    return min(max(share, LEAST_SHARE), MOST_SHARE)


def time_of_share(share: float) -> float:
    """The time at which the signal has this share; inverse of `signal_share`. The models are told it as the noise condition."""
    return math.acos(math.sqrt(share * FIRST_SHARE)) / (math.pi / 2.0) * (1.0 + OFFSET) - OFFSET


def log_snr(share: float) -> float:
    """Natural logarithm of the signal-to-noise ratio abar / (1 - abar)."""
    return math.log(share / (1.0 - share))


def signal_and_noise_scales(times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(abar) and sqrt(1 - abar) of times [n] on the CPU, float32 [n] each."""
    shares = [signal_share(time) for time in times.tolist()]
    return torch.tensor([math.sqrt(s) for s in shares]), torch.tensor([math.sqrt(1.0 - s) for s in shares])


def noise_conditions(times: torch.Tensor) -> torch.Tensor:
    """What the model is told of the noise at times [n] on the CPU, float32 [n]: the time itself but at the clamped ends."""
    return torch.tensor([time_of_share(signal_share(time)) for time in times.tolist()])


class P2Weights:
    """1 / (1 + SNR) (Choi et al. 2022, arXiv:2204.00227, with k = gamma = 1)."""

    state = None

    def __init__(self, device: torch.device):
        self._device = device

    def of(self, timesteps: torch.Tensor) -> torch.Tensor:
        """float32 [n] of times [n]."""
        return moved(torch.tensor([1.0 - signal_share(time) for time in timesteps.tolist()]), self._device)


class AdaptiveWeights:
    """The inverse of what losses have been at like noise: 1 / L of the bucket of log SNR in which the picture's lies, and
    L follows 0.99 L + 0.01 loss. Of pictures of one micro-batch in one bucket the last one counts, as in the reference.

    state: L of each of the 300 buckets, float32 [300], ones at first.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self.state = torch.ones(ADAPTIVE_BUCKETS)

    def of(self, timesteps: torch.Tensor) -> torch.Tensor:
        """float32 [n] of times [n]."""
        return moved((1.0 / self.state[_buckets(timesteps)]).clamp(LEAST_WEIGHT, MOST_WEIGHT), self._device)

    def follow(self, timesteps: torch.Tensor, losses: torch.Tensor) -> None:
        """Take in the unweighted losses [n] of the pictures of one micro-batch."""
        before = self.state.clone()
        for bucket, loss in zip(_buckets(timesteps), losses.float(), strict=True):
            self.state[bucket] = before[bucket] * ADAPTIVE_KEPT + loss * (1.0 - ADAPTIVE_KEPT)


def _buckets(times: torch.Tensor) -> list[int]:
    """The bucket of each time's log SNR: how many edges lie below it."""
    return [bisect_left(_EDGES, log_snr(signal_share(time))) for time in times.tolist()]
