"""SDXL: load, text conditioning, training loss and sampling, all in float32 on the CPU.

Works on any diffusers folder of SDXL's classes, whatever its widths. Facts of the conditioning:
penultimate hidden states of both text encoders without final layer norm, pooled output of the
second one's first window, six size numbers as sinusoids inside the UNet (SDXL paper, section 2.2;
sd-scripts 48d368fa).
"""

from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from families.noise import TIMESTEPS, alphas_cumprod, min_snr_weights, signal_and_noise_scales
from families.tokens import WINDOW, token_windows


@dataclass
class Sdxl:
    """The parts of one SDXL model; weights float32, evaluation mode, no gradients."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    vae: AutoencoderKL


@dataclass(frozen=True)
class Sizes:
    """What SDXL is told about a picture, in pixels."""

    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    target_height: int
    target_width: int

    def time_ids(self) -> list[int]:
        return [
            self.original_height, self.original_width, self.crop_top, self.crop_left, self.target_height, self.target_width
        ]  # fmt: skip


def load_sdxl(folder: Path) -> Sdxl:
    """Load a diffusers folder.

    Raises:
        StageError: a component is missing or of another class.
    """
    folder = Path(folder)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        if not (folder / part).is_dir():
            raise StageError(f"{folder}: no folder '{part}'; expected a diffusers folder of an SDXL model")

    def model(cls: type, part: str) -> torch.nn.Module:
        options = {"torch_dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
        try:
            return cls.from_pretrained(folder / part, **options).eval().requires_grad_(False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StageError(f"{folder / part}: cannot be loaded as {cls.__name__}: {str(error).splitlines()[0]}") from error

    return Sdxl(
        unet=model(UNet2DConditionModel, "unet"),
        text_encoder=model(CLIPTextModel, "text_encoder"),
        text_encoder_2=model(CLIPTextModelWithProjection, "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
        vae=model(AutoencoderKL, "vae"),
    )


def _join_windows(hidden: torch.Tensor, windows: int) -> torch.Tensor:
    """[captions * windows, 77, c] -> [captions, 75 * windows + 2, c]: first BOS, the contents, last token."""
    hidden = hidden.reshape(-1, windows, WINDOW, hidden.shape[-1])
    contents = hidden[:, :, 1:-1].flatten(1, 2)
    return torch.cat([hidden[:, 0, :1], contents, hidden[:, -1, -1:]], dim=1)


def encode_captions(model: Sdxl, captions: list[str], max_token_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [captions, 75n + 2, c1 + c2] and pooled [captions, projection] of captions."""
    parts = []
    for tokenizer, encoder in ((model.tokenizer, model.text_encoder), (model.tokenizer_2, model.text_encoder_2)):
        ids = token_windows(tokenizer, captions, max_token_length)
        windows = ids.shape[1]
        output = encoder(ids.flatten(0, 1), output_hidden_states=True)
        parts.append(_join_windows(output.hidden_states[-2], windows))
    pooled = output.text_embeds[::windows]
    return torch.cat(parts, dim=-1), pooled


def denoising_losses(
    model: Sdxl,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    captions: list[str],
    sizes: list[Sizes],
    max_token_length: int,
    min_snr_gamma: float | None,
) -> torch.Tensor:
    """Weighted epsilon losses, float32 [images]: mean squared error over channels and pixels, times min-SNR.

    Args:
        latents: scaled VAE latents [images, 4, h, w]; noise: the same shape, with its offset if any.
        timesteps: int64 [images] in 0..999.
    """
    signal, scale = signal_and_noise_scales()
    broadcast = (-1, 1, 1, 1)
    noisy = signal[timesteps].view(broadcast) * latents + scale[timesteps].view(broadcast) * noise
    context, pooled = encode_captions(model, captions, max_token_length)
    time_ids = torch.tensor([s.time_ids() for s in sizes], dtype=torch.float32)
    predicted = model.unet(
        noisy, timesteps, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}, return_dict=False
    )[0]
    errors = (predicted - noise).square().mean(dim=(1, 2, 3))
    return errors * min_snr_weights(min_snr_gamma)[timesteps]


def euler_sigmas(steps: int) -> tuple[list[int], list[float]]:
    """Timesteps and noise levels of the Euler sampler, spaced as SDXL's own scheduler file says (`leading`,
    offset 1): diffusers' EulerDiscreteScheduler takes the same ones."""
    stride = TIMESTEPS // steps
    timesteps = [i * stride + 1 for i in reversed(range(steps))]
    kept = alphas_cumprod()
    return timesteps, [float(np.sqrt((1.0 - kept[t]) / kept[t])) for t in timesteps] + [0.0]


@torch.no_grad()
def sample_latents(
    model: Sdxl, prompt: str, negative_prompt: str, seed: int, sizes: Sizes, steps: int, guidance: float
) -> torch.Tensor:
    """One picture's latents [1, 4, h, w] by Euler steps with classifier-free guidance.

    The sampler is written out because diffusers' schedulers take float32 square roots in torch,
    which are not the same on every CPU. Noise depends on `seed` alone; a picture is computed by
    itself, so that no batch composition reaches its bits.
    """
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    shape = (1, model.unet.config.in_channels, sizes.target_height // factor, sizes.target_width // factor)
    context, pooled = encode_captions(model, [negative_prompt, prompt], WINDOW - 2)
    time_ids = torch.tensor([sizes.time_ids()] * 2, dtype=torch.float32)
    conditions = {"text_embeds": pooled, "time_ids": time_ids}
    timesteps, sigmas = euler_sigmas(steps)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * float(np.sqrt(sigmas[0] ** 2 + 1.0))
    for t, sigma, next_sigma in zip(timesteps, sigmas, sigmas[1:], strict=False):
        scaled = x * float(1.0 / np.sqrt(sigma**2 + 1.0))
        noise = model.unet(torch.cat([scaled, scaled]), t, context, added_cond_kwargs=conditions, return_dict=False)[0]
        unconditional, conditional = noise.chunk(2)
        x = x + (unconditional + guidance * (conditional - unconditional)) * (next_sigma - sigma)
    return x


@torch.no_grad()
def decode_picture(model: Sdxl, latents: torch.Tensor) -> Image.Image:
    """The RGB picture of latents [1, 4, h, w]."""
    pixels = model.vae.decode(latents / model.vae.config.scaling_factor, return_dict=False)[0]
    array = ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array, "RGB")
