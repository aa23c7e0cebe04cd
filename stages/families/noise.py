"""The DDPM noise schedule of SDXL and the loss weights that follow from it.

Tables are float64 with IEEE-exact operations only (numpy's sqrt, not torch's float32 one), cast at
the end, so that they are the same bits on every CPU.
"""

import numpy as np
import torch

TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


def alphas_cumprod() -> np.ndarray:
    """Signal share of each of the 1000 timesteps, float64; `scaled_linear` betas (SDXL's scheduler config)."""
    betas = np.linspace(np.sqrt(BETA_START), np.sqrt(BETA_END), TIMESTEPS, dtype=np.float64) ** 2
    return np.cumprod(1.0 - betas)


def signal_and_noise_scales() -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(abar) and sqrt(1 - abar) of each timestep, float32 [1000] each: x_t = signal * x_0 + noise * eps."""
    kept = alphas_cumprod()
    return torch.from_numpy(np.sqrt(kept)).float(), torch.from_numpy(np.sqrt(1.0 - kept)).float()


def min_snr_weights(gamma: float | None) -> torch.Tensor:
    """Loss weight of each timestep for an epsilon target, float32 [1000]: min(SNR, gamma) / SNR, or ones.

    Hang et al. 2023; as in sd-scripts 48d368fa `apply_snr_weight`.
    """
    kept = alphas_cumprod()
    snr = kept / (1.0 - kept)
    weights = np.ones_like(snr) if gamma is None else np.minimum(snr, gamma) / snr
    return torch.from_numpy(weights).float()
