"""SDXL: load, text conditioning, training loss and sampling, on the CPU or a GPU.

Works on any diffusers folder of SDXL's classes, whatever its widths. Facts of the conditioning:
penultimate hidden states of both text encoders without final layer norm, pooled output of the
second one's first window, six size numbers as sinusoids inside the UNet (SDXL paper, section 2.2;
sd-scripts 48d368fa).
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from repro.devices import at_precision
from repro.errors import StageError
from repro.params import Precision, SampledPictures, Train
from repro.randomness import Stream

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from families import noise
from families.components import (
    checkpoint_text_encoder,
    empty_component,
    load_component,
    load_tokenizer,
    moved,
    prepare_device,
)
from families.family import Batch, Group, Modules, Sizes, refuse_not_finite
from families.noise import TIMESTEPS, Prediction, signal_and_noise_scales, velocity
from families.pixels import to_picture
from families.samplers import guided, sample, sampling_steps
from families.text_cache import Encoded, TextCache, encode_training_captions
from families.text_windows import join_windows, length_needed
from families.tokens import token_windows

SCHEDULER_CONFIG = Path("scheduler", "scheduler_config.json")
GROUPS: dict[str, Group] = {"text_encoder": "text", "text_encoder_2": "text", "unet": "unet"}
# lycoris-lora 4.1.3's classes (`LycorisNetworkKohya`) with convolutions on.
LOKR_CLASSES = {
    "Attention": "unet_attention",
    "FeedForward": "unet_feed_forward",
    "ResnetBlock2D": "unet_resnet",
    "Downsample2D": "unet_resnet",
    "Upsample2D": "unet_resnet",
    "Transformer2DModel": "unet_projection",
    "CLIPAttention": "text_attention",
    "CLIPMLP": "text_mlp",
}
COMPONENTS: dict[str, type] = {
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "vae": AutoencoderKL,
}
TOKENIZERS = ("tokenizer", "tokenizer_2")


@dataclass
class Sdxl:
    """The parts of one SDXL model in evaluation mode, weights float32 without gradients unless who trains changes that.

    `precision` is what the UNet and text encoders compute in (the VAE always in float32, in which alone SDXL's is finite).
    `prediction` and `zero_terminal_snr` are what the model was made to predict, and its schedule; `scales` are that one's
    signal and noise scale of each timestep, on the CPU. With a `text_cache`, which needs text encoders that do not change, the
    losses encode captions one at a time and without gradients.
    """

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    vae: AutoencoderKL
    device: torch.device
    precision: Precision
    prediction: Prediction
    zero_terminal_snr: bool
    text_cache: TextCache | None = None
    scales: tuple[torch.Tensor, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.scales = signal_and_noise_scales(self.zero_terminal_snr)

    def autocast(self) -> torch.autocast:
        """The context in which the UNet and the text encoders run."""
        return at_precision(self.device, self.precision)


class TimestepWeights:
    """SDXL's loss weights: a table of the timesteps, which no loss changes."""

    state = None

    def __init__(self, table: torch.Tensor, device: torch.device):
        self._table, self._device = table, device

    def of(self, timesteps: torch.Tensor) -> torch.Tensor:
        return moved(self._table[timesteps], self._device)


def loss_weights(model: Sdxl, settings: Train, device: torch.device) -> TimestepWeights:
    """The weights of `min_snr_gamma` or `debiased` for what the model predicts, ones without both."""
    return TimestepWeights(noise.loss_weights(model.prediction, settings.min_snr_gamma, settings.debiased), device)


def draw_timestep(draws: Stream) -> int:
    """0..999, all alike."""
    return draws.below(TIMESTEPS)


def time_ids(sizes: Sizes) -> list[int]:
    """The six numbers that the UNet is told."""
    return [
        sizes.original_height, sizes.original_width, sizes.crop_top, sizes.crop_left, sizes.target_height, sizes.target_width
    ]  # fmt: skip


def load(folder: Path, device: str = "cpu", precision: Precision = "fp32", draws: bool = True) -> Sdxl:
    """Load a diffusers folder; what it predicts and its schedule are read from its scheduler config.

    All of it is loaded also without `draws`: the VAE, which only draws, is small.

    Raises:
        StageError: a component is missing or of another class, or there is no such device.
    """
    folder = Path(folder)
    for part in (*COMPONENTS, *TOKENIZERS):
        if not (folder / part).is_dir():
            raise StageError(f"{folder}: no folder '{part}'; expected a diffusers folder of an SDXL model")
    modules = {part: load_component(kind, folder / part) for part, kind in COMPONENTS.items()}
    model = assemble(folder, modules, precision)
    move_to(model, torch.device(device))
    return model


def empty_modules(folder: Path) -> dict[str, torch.nn.Module]:
    """UNet, text encoders and VAE by a diffusers folder's configs, weights as torch's surrounding context makes them."""
    return {part: empty_component(kind, folder / part) for part, kind in COMPONENTS.items()}


def empty_drawing_modules(folder: Path) -> list[torch.nn.Module]:
    """None: the VAE is among those that training holds."""
    return []


def assemble(folder: Path, modules: Modules, precision: Precision) -> Sdxl:
    """A model of these modules with the folder's tokenizers and schedule, on the CPU.

    Raises:
        StageError: the scheduler config or a tokenizer cannot be read, or is not one of SDXL's.
    """
    prediction, zero_terminal_snr = _read_schedule(folder / SCHEDULER_CONFIG)
    return Sdxl(
        **modules,
        **{part: load_tokenizer(folder / part) for part in TOKENIZERS},
        device=torch.device("cpu"),
        precision=precision,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
    )


def modules_of(model: Sdxl) -> dict[str, torch.nn.Module]:
    return {part: getattr(model, part) for part in COMPONENTS}


def put_drawing_away(model: Sdxl) -> None:
    """The VAE, which alone it could be, is small and stays."""


def checkpoint_gradients(model: Sdxl) -> None:
    """Have the backward pass compute each block's activations again instead of keeping them.

    The same operations on the same numbers give the same bits, so that memory is all it changes.
    """
    model.unet.enable_gradient_checkpointing()
    for encoder in (model.text_encoder, model.text_encoder_2):
        checkpoint_text_encoder(encoder)


def latent_shape(modules: Modules, bucket: tuple[int, int]) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a bucket (width, height) in pixels."""
    factor = 2 ** (len(modules["vae"].config.block_out_channels) - 1)
    return modules["unet"].config.in_channels, bucket[1] // factor, bucket[0] // factor


def latent_scale(modules: Modules) -> float:
    """The VAE's scaling factor."""
    return modules["vae"].config.scaling_factor


def move_to(model: Sdxl, device: torch.device) -> None:
    """Move all parts to the device; parameters stay the same objects.

    Raises:
        StageError: there is no such device.
    """
    prepare_device(device)
    if device.type == "cuda":
        model.unet.to(memory_format=torch.channels_last)
    for part in modules_of(model).values():
        part.to(device)
    model.device = device


def _read_schedule(path: Path) -> tuple[Prediction, bool]:
    """Prediction type and zero-terminal SNR of a scheduler config, by diffusers' defaults where it says nothing."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        prediction, zero_terminal = config.get("prediction_type", "epsilon"), config.get("rescale_betas_zero_snr", False)
    except (OSError, ValueError, AttributeError) as error:
        raise StageError(f"{path}: cannot be read as a scheduler's config: {error}") from None
    if prediction not in ("epsilon", "v_prediction") or not isinstance(zero_terminal, bool):
        raise StageError(
            f"{path}: prediction_type {prediction!r}, rescale_betas_zero_snr {zero_terminal!r};"
            " expected epsilon or v_prediction, and true or false"
        )
    return prediction, zero_terminal


def encode_captions(model: Sdxl, captions: list[str], max_token_length: int) -> Encoded:
    """Context [captions, 75n + 2, c1 + c2] and pooled [captions, projection] of captions, computed as one batch."""
    parts = []
    with model.autocast():
        for tokenizer, encoder in ((model.tokenizer, model.text_encoder), (model.tokenizer_2, model.text_encoder_2)):
            ids = token_windows(tokenizer, captions, max_token_length)
            windows = ids.shape[1]
            output = encoder(moved(ids.flatten(0, 1), model.device), output_hidden_states=True)
            parts.append(join_windows(output.hidden_states[-2], windows))
    pooled = output.text_embeds[::windows]
    return torch.cat(parts, dim=-1), pooled


def _predict(model: Sdxl, noisy: torch.Tensor, timesteps: torch.Tensor, encoded: Encoded, sizes: list[Sizes]) -> torch.Tensor:
    """The UNet's output, float32 [images, 4, h, w]; timesteps [images], or [1] for all of them, which may lie
    between whole ones."""
    context, pooled = encoded
    numbers = moved(torch.tensor([time_ids(one) for one in sizes], dtype=torch.float32), model.device)
    conditions = {"text_embeds": pooled, "time_ids": numbers}
    if model.device.type == "cuda":
        noisy = noisy.contiguous(memory_format=torch.channels_last)
    with model.autocast():
        return model.unet(noisy, timesteps, context, added_cond_kwargs=conditions, return_dict=False)[0].float()


def losses(model: Sdxl, batch: Batch, settings: Train) -> torch.Tensor:
    """Unweighted losses on the model's device, float32 [n]: mean squared error of the predicted noise or velocity over
    channels and pixels.

    Args:
        batch: latents scaled as the VAE's factor says, noise with its offset if any, timesteps in 0..999.
    """
    scales = (table[batch.timesteps].view(-1, 1, 1, 1) for table in model.scales)
    latents, eps, timesteps, signal, scale = (
        moved(tensor, model.device) for tensor in (batch.latents, batch.noise, batch.timesteps, *scales)
    )
    encode = partial(encode_captions, model)
    encoded = encode_training_captions(model.text_cache, batch.captions, settings.max_token_length, encode)
    predicted = _predict(model, signal * latents + scale * eps, timesteps, encoded, batch.sizes)
    target = eps if model.prediction == "epsilon" else velocity(signal, scale, latents, eps)
    return (predicted - target).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def sample_latents(model: Sdxl, prompt: str, seed: int, settings: SampledPictures) -> torch.Tensor:
    """One picture's latents [1, 4, h, w], on the model's device, with classifier-free guidance.

    Nothing of a long prompt is cut off: both prompts get the windows that the longer one needs. Noise depends on `seed`
    alone, and is drawn on the CPU; a picture is computed by itself, so that no batch composition reaches its bits.
    """
    shape = (1, *latent_shape(modules_of(model), (settings.width, settings.height)))
    sizes = Sizes(settings.original_height, settings.original_width, 0, 0, settings.height, settings.width)
    table = sampling_steps(settings.sampler, settings.steps, model.zero_terminal_snr)
    prompts = [settings.negative_prompt, prompt]
    encoded = encode_captions(model, prompts, length_needed((model.tokenizer, model.tokenizer_2), prompts))

    def predict(scaled: torch.Tensor, timestep: float) -> torch.Tensor:
        return _predict(model, scaled, moved(torch.tensor([timestep]), model.device), encoded, [sizes] * 2)

    start = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return sample(guided(predict, settings.guidance), start, table, model.prediction, seed)


@torch.no_grad()
def draw_picture(model: Sdxl, prompt: str, seed: int, settings: SampledPictures) -> Image.Image:
    """One RGB picture, from noise that depends on `seed` alone.

    Raises:
        StageError: the model gives values that are not finite.
    """
    latents = sample_latents(model, prompt, seed, settings)
    refuse_not_finite(latents, f"sampling '{prompt}'", model.precision)
    pixels = model.vae.decode(latents / model.vae.config.scaling_factor, return_dict=False)[0]
    refuse_not_finite(pixels, f"the VAE's decoder at '{prompt}'", "fp32")
    return to_picture(pixels[0] / 2 + 0.5)
