"""From stage C's latents to pixels: Stable Cascade's stage B, a diffusion model under them, and stage A, which decodes.

A folder of diffusers' StableCascadeDecoderPipeline. Its own loop is not used: diffusers cannot reload the pipeline since
PaellaVQModel left its top level, and its scheduler takes float32 square roots in torch.
"""

from dataclasses import dataclass
from pathlib import Path

from repro.devices import at_precision
from repro.params import Precision, SampledPictures
from repro.randomness import seed_for

import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from families.cascade_sampling import sample_cascade
from families.cascade_text import encode_captions
from families.components import empty_component, load_component, load_tokenizer, moved
from families.picture_sizes import latent_dim_scale, stage_b_side
from families.samplers import Denoiser
from families.text_windows import length_needed

# By their fields of CascadeDecoder: class, and folder of the decoder's.
COMPONENTS = {
    "stage_b": (StableCascadeUNet, "decoder"),
    "stage_a": (PaellaVQModel, "vqgan"),
    "text_encoder": (CLIPTextModelWithProjection, "text_encoder"),
}


@dataclass
class CascadeDecoder:
    """Stage B with its text encoder, and stage A; `scale` is what a side of stage B's latents is of stage C's."""

    stage_b: StableCascadeUNet
    stage_a: PaellaVQModel
    text_encoder: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    scale: float

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self.stage_b, self.stage_a, self.text_encoder

    def latent_side(self, side: int) -> int:
        """A side of stage B's latents, from one of stage C's."""
        return stage_b_side(side, self.scale)


def load_decoder(folder: Path) -> CascadeDecoder:
    """Raises:
    StageError: a part is missing or of another class."""
    return CascadeDecoder(
        **{field: load_component(kind, folder / part) for field, (kind, part) in COMPONENTS.items()},
        tokenizer=load_tokenizer(folder / "tokenizer"),
        scale=latent_dim_scale(folder),
    )


def empty_decoder_modules(folder: Path) -> list[torch.nn.Module]:
    """What `CascadeDecoder.modules` gives, by the folder's configs, weights as torch's surrounding context makes them."""
    return [empty_component(kind, folder / part) for kind, part in COMPONENTS.values()]


def _denoiser(decoder: CascadeDecoder, effnet: torch.Tensor, pooled: torch.Tensor, guidance: float) -> Denoiser:
    """Stage B under the latents `effnet` [1, c, h, w]. With a guidance other than 1, classifier-free guidance against no
    latents and the negative prompt, both halves as one batch; `pooled` [n, c] is then of the negative prompt and the prompt,
    else of the prompt alone."""
    given = effnet if guidance == 1 else torch.cat([torch.zeros_like(effnet), effnet])

    def denoiser(scaled: torch.Tensor, time: float) -> torch.Tensor:
        times = moved(torch.full((len(given),), time), scaled.device)
        latents = scaled.expand(len(given), -1, -1, -1)
        noise = decoder.stage_b(latents, times, pooled.unsqueeze(1), effnet=given, return_dict=False)[0].float()
        return noise if guidance == 1 else noise[:1] + guidance * (noise[1:] - noise[:1])

    return denoiser


@torch.no_grad()
def sample_decoder(
    decoder: CascadeDecoder, latents: torch.Tensor, prompt: str, seed: int, settings: SampledPictures, precision: Precision
) -> torch.Tensor:
    """Stage B's latents [1, 4, h, w] under stage C's `latents` [1, c, h, w], by DDPM steps, on their device."""
    device, guidance = latents.device, settings.decoder.guidance
    prompts = [prompt] if guidance == 1 else [settings.negative_prompt, prompt]
    shape = (1, decoder.stage_b.config.in_channels, *map(decoder.latent_side, latents.shape[2:]))
    key = seed_for(seed, "stage B")
    noise = moved(torch.randn(shape, generator=torch.Generator().manual_seed(key)), device)
    with at_precision(device, precision):
        length = length_needed([decoder.tokenizer], prompts)
        _, pooled = encode_captions(decoder.tokenizer, decoder.text_encoder, prompts, length)
        denoiser = _denoiser(decoder, latents, pooled, guidance)
        return sample_cascade(denoiser, noise, "ddpm", settings.decoder.steps, key)


@torch.no_grad()
def decode_pixels(decoder: CascadeDecoder, latents: torch.Tensor) -> torch.Tensor:
    """Pixels [3, h, w] about in 0..1 of stage B's latents [1, 4, h, w], by stage A in float32, without its quantiser."""
    config = decoder.stage_a.config
    return decoder.stage_a.decode(latents * config.scale_factor, return_dict=False)[0][0]
