"""The DDPM noise schedule of SDXL, its zero-terminal form, what a model predicts, and the loss weights that follow.

Tables are float64 with IEEE-exact operations only (numpy's sqrt, not torch's float32 one), cast at
the end, so that they are the same bits on every CPU. Loss weights are those of sd-scripts 48d368fa.
"""

from typing import Literal

import numpy as np
import torch

TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
# SNR above which the debiased weight falls no further, as sd-scripts clamps it.
DEBIASED_MAX_SNR = 1000.0

Prediction = Literal["epsilon", "v_prediction"]


def alphas_cumprod(zero_terminal_snr: bool = False) -> np.ndarray:
    """Signal share of each of the 1000 timesteps, float64; `scaled_linear` betas (SDXL's scheduler config).

    With `zero_terminal_snr`, sqrt(abar) is shifted and stretched so that it starts where it did and ends in 0: Lin et al.
    2023, algorithm 1.
    """
    betas = np.linspace(np.sqrt(BETA_START), np.sqrt(BETA_END), TIMESTEPS, dtype=np.float64) ** 2
    kept = np.cumprod(1.0 - betas)
    if not zero_terminal_snr:
        return kept
    signal = np.sqrt(kept)
    return ((signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))) ** 2


def signal_and_noise_scales(zero_terminal_snr: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(abar) and sqrt(1 - abar) of each timestep, float32 [1000] each: x_t = signal * x_0 + noise * eps."""
    kept = alphas_cumprod(zero_terminal_snr)
    return torch.from_numpy(np.sqrt(kept)).float(), torch.from_numpy(np.sqrt(1.0 - kept)).float()


def velocity(signal: torch.Tensor, scale: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What a v-prediction model predicts: signal * eps - noise scale * x_0 (Salimans and Ho 2022, appendix D)."""
    return signal * noise - scale * latents


def loss_weights(prediction: Prediction, min_snr_gamma: float | None, debiased: bool) -> torch.Tensor:
    """Loss weight of each timestep, float32 [1000]: ones without both weightings.

    min-SNR (Hang et al. 2023): min(SNR, gamma) / SNR, for a velocity / (SNR + 1). Debiased (Yu et al. 2023):
    1 / sqrt(SNR), for a velocity 1 / (SNR + 1). The SNR is that of the schedule before any zero-terminal correction, which
    the reference also weighs by: the corrected one would give the last timestep no weight or an infinite one.
    """
    kept = alphas_cumprod()
    snr = kept / (1.0 - kept)
    weights = np.ones_like(snr)
    if min_snr_gamma is not None:
        weights = np.minimum(snr, min_snr_gamma) / (snr if prediction == "epsilon" else snr + 1.0)
    if debiased:
        snr = np.minimum(snr, DEBIASED_MAX_SNR)
        weights = weights * (1.0 / np.sqrt(snr) if prediction == "epsilon" else 1.0 / (snr + 1.0))
    return torch.from_numpy(weights).float()


def offset_noise(noise: torch.Tensor, draw: torch.Tensor, latents: torch.Tensor, offset: float, adaptive: float) -> torch.Tensor:
    """Noise [c, h, w] of one picture with a shift of its own for each channel.

    Args:
        draw: standard normal [c, 1, 1]; the shift is its multiple by `offset`, or where `adaptive` is not 0 by offset +
            adaptive * |mean of the channel of `latents`|, not below 0. latents: scaled, [c, h, w].
    """
    if not adaptive:
        return noise + offset * draw
    means = latents.double().mean(dim=(1, 2), keepdim=True).abs()
    return noise + (offset + adaptive * means).clamp(min=0.0).float() * draw
