"""Stable Cascade: load, text conditioning, stage C's training loss and sampling, on the CPU or a GPU.

Works on any folder of Stable Cascade's classes, whatever its widths: stage C (`prior`) with its text encoder in diffusers'
layout, beside it `effnet`, the encoder of pictures (families.effnet), and `decoder`, stages B and A (families.cascade_decoder).
Training is that of sd-scripts' branch stable-cascade (235a1ea2): the noise is predicted on the continuous cosine schedule
(families.cascade_schedule), latents are the image encoder's own, nothing is told of a picture in place of its CLIP embedding.
Dropout, of which stage C's config has 0.1, stays off.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from repro.devices import at_precision
from repro.params import Precision, SampledPictures, Train

import torch
from diffusers import StableCascadeUNet
from PIL import Image
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from families.cascade_decoder import CascadeDecoder, decode_pixels, empty_decoder_modules, load_decoder, sample_decoder
from families.cascade_sampling import sample_cascade
from families.cascade_schedule import AdaptiveWeights, P2Weights, noise_conditions, signal_and_noise_scales
from families.cascade_schedule import draw_timestep as draw_timestep  # the contract asks it of this module
from families.cascade_text import encode_captions, zero_image_embeddings
from families.components import (
    checkpoint_text_encoder,
    empty_component,
    load_component,
    load_tokenizer,
    moved,
    prepare_device,
)
from families.effnet import EfficientNetEncoder, load_effnet, read_effnet_config
from families.family import Batch, Group, Modules, refuse_not_finite
from families.picture_sizes import resolution_multiple, stage_c_side
from families.pixels import to_picture
from families.samplers import guided
from families.text_cache import Encoded, TextCache, encode_training_captions
from families.text_windows import length_needed

GROUPS: dict[str, Group] = {"text_encoder": "text", "prior": "unet"}
LOKR_CLASSES = {
    "SDCascadeAttnBlock": "unet_attention",
    "SDCascadeResBlock": "unet_resnet",
    "UpDownBlock2d": "unet_resnet",
    "SDCascadeTimestepBlock": "unet_projection",
    "CLIPAttention": "text_attention",
    "CLIPMLP": "text_mlp",
}
ENCODER = "effnet"  # a module as the components are, but of neither library
COMPONENTS: dict[str, type] = {"prior": StableCascadeUNet, "text_encoder": CLIPTextModelWithProjection}


@dataclass
class Cascade:
    """The parts of one Stable Cascade in evaluation mode, weights float32 without gradients unless who trains changes that.

    `precision` is what stage C, stage B and text encoders compute in (image encoder and stage A always in float32). With a
    `text_cache`, which needs a text encoder that does not change, the losses encode captions one at a time and without
    gradients. `resolution_multiple`: pixels a side of one of stage C's latents in a drawn picture. Without `decoder` it cannot
    draw.
    """

    prior: StableCascadeUNet
    text_encoder: CLIPTextModelWithProjection
    effnet: EfficientNetEncoder
    tokenizer: CLIPTokenizer
    resolution_multiple: float
    decoder: CascadeDecoder | None
    device: torch.device
    precision: Precision
    text_cache: TextCache | None = None

    def autocast(self) -> torch.autocast:
        """The context in which stage C and the text encoder run."""
        return at_precision(self.device, self.precision)


def load(folder: Path, device: str = "cpu", precision: Precision = "fp32", draws: bool = True) -> Cascade:
    """Load a folder of Stable Cascade; without `draws` stages B and A stay away.

    Raises:
        StageError: a component is missing or of another class, or there is no such device.
    """
    folder = Path(folder)
    modules = {part: load_component(kind, folder / part) for part, kind in COMPONENTS.items()}
    model = assemble(folder, modules | {ENCODER: load_effnet(folder / ENCODER)}, precision)
    if draws:
        model.decoder = load_decoder(folder / "decoder")
    move_to(model, torch.device(device))
    return model


def empty_modules(folder: Path) -> dict[str, torch.nn.Module]:
    """Stage C, text encoder and image encoder by a folder's configs, weights as torch's surrounding context makes them."""
    folder = Path(folder)
    modules = {part: empty_component(kind, folder / part) for part, kind in COMPONENTS.items()}
    encoder = EfficientNetEncoder(read_effnet_config(folder / ENCODER))
    return modules | {ENCODER: encoder.eval().requires_grad_(False)}


def empty_drawing_modules(folder: Path) -> list[torch.nn.Module]:
    """Stages B and A and the text encoder of stage B, by the folder's configs."""
    return empty_decoder_modules(Path(folder) / "decoder")


def assemble(folder: Path, modules: Modules, precision: Precision) -> Cascade:
    """A model of these modules with the folder's tokenizer, on the CPU; it cannot draw.

    Raises:
        StageError: the folder has no model_index.json or no tokenizer.
    """
    folder = Path(folder)
    return Cascade(
        **modules,
        tokenizer=load_tokenizer(folder / "tokenizer"),
        resolution_multiple=resolution_multiple(folder),
        decoder=None,
        device=torch.device("cpu"),
        precision=precision,
    )


def modules_of(model: Cascade) -> dict[str, torch.nn.Module]:
    """Stage C, text encoder and image encoder; the decoder, which nobody trains, is not among them."""
    return {part: getattr(model, part) for part in (*COMPONENTS, ENCODER)}


def move_to(model: Cascade, device: torch.device) -> None:
    """Move stage C and its text encoder to the device; parameters stay the same objects. The image encoder, which neither
    trains nor draws, stays on the CPU, and the decoder until the first picture.

    Raises:
        StageError: there is no such device.
    """
    prepare_device(device)
    for module in (model.prior, model.text_encoder):
        module.to(device)
    model.device = device


def put_drawing_away(model: Cascade) -> None:
    """Take the decoder from the device."""
    _move_decoder(model, torch.device("cpu"))


def _move_decoder(model: Cascade, device: torch.device) -> None:
    for module in model.decoder.modules():
        module.to(device)


def checkpoint_gradients(model: Cascade) -> None:
    """Have the backward pass compute each block's activations again instead of keeping them.

    The same operations on the same numbers give the same bits, so that memory is all it changes.
    """
    model.prior.enable_gradient_checkpointing()
    checkpoint_text_encoder(model.text_encoder)


def latent_shape(modules: Modules, bucket: tuple[int, int]) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a bucket (width, height) in pixels."""
    config = modules[ENCODER].config
    return config.latent_channels, bucket[1] // config.stride, bucket[0] // config.stride


def latent_scale(modules: Modules) -> float:
    """1: the image encoder's own batch norm has scaled them."""
    return 1.0


def loss_weights(model: Cascade, settings: Train, device: torch.device) -> P2Weights | AdaptiveWeights:
    return AdaptiveWeights(device) if settings.adaptive_loss_weight else P2Weights(device)


def encode(model: Cascade, captions: list[str], max_token_length: int) -> Encoded:
    """Context [captions, 75n + 2, c] and pooled [captions, projection] of captions, computed as one batch."""
    with model.autocast():
        return encode_captions(model.tokenizer, model.text_encoder, captions, max_token_length)


def _predict(model: Cascade, noisy: torch.Tensor, conditions: torch.Tensor, encoded: Encoded) -> torch.Tensor:
    """Stage C's output, the noise, float32 [n, c, h, w]; noise conditions [n]."""
    context, pooled = encoded
    image = zero_image_embeddings(pooled, model.prior.config.clip_image_in_channels)
    with model.autocast():
        return model.prior(noisy, conditions, pooled.unsqueeze(1), context, image, return_dict=False)[0].float()


def losses(model: Cascade, batch: Batch, settings: Train) -> torch.Tensor:
    """Unweighted losses on the model's device, float32 [n]: mean squared error of the predicted noise over channels and pixels.

    Args:
        batch: latents of the image encoder; times in 0..1.
    """
    signal, scale = (table.view(-1, 1, 1, 1) for table in signal_and_noise_scales(batch.timesteps))
    latents, noise, conditions, signal, scale = (
        moved(tensor, model.device) for tensor in (batch.latents, batch.noise, noise_conditions(batch.timesteps), signal, scale)
    )
    encoded = encode_training_captions(model.text_cache, batch.captions, settings.max_token_length, partial(encode, model))
    predicted = _predict(model, signal * latents + scale * noise, conditions, encoded)
    return (predicted - noise).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def sample_latents(model: Cascade, prompt: str, seed: int, settings: SampledPictures) -> torch.Tensor:
    """Stage C's latents [1, c, h, w] of one picture, on the model's device, with classifier-free guidance.

    Nothing of a long prompt is cut off: both prompts get the windows that the longer one needs. Noise depends on `seed`
    alone, and is drawn on the CPU; a picture is computed by itself, so that no batch composition reaches its bits.
    """
    sides = (stage_c_side(side, model.resolution_multiple) for side in (settings.height, settings.width))
    shape = (1, model.prior.config.in_channels, *sides)
    prompts = [settings.negative_prompt, prompt]
    encoded = encode(model, prompts, length_needed([model.tokenizer], prompts))
    noise = moved(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), model.device)

    def predict(scaled: torch.Tensor, time: float) -> torch.Tensor:
        return _predict(model, scaled, moved(torch.tensor([time, time]), model.device), encoded)

    return sample_cascade(guided(predict, settings.guidance), noise, settings.sampler, settings.steps, seed)


@torch.no_grad()
def draw_picture(model: Cascade, prompt: str, seed: int, settings: SampledPictures) -> Image.Image:
    """One picture by stages C, B and A, from noise that depends on `seed` alone, drawn on the CPU.

    Raises:
        StageError: stage C or the decoder gives values that are not finite.
    """
    _move_decoder(model, model.device)
    latents = sample_latents(model, prompt, seed, settings)
    refuse_not_finite(latents, f"sampling '{prompt}'", model.precision)
    finer = sample_decoder(model.decoder, latents, prompt, seed, settings, model.precision)
    pixels = decode_pixels(model.decoder, finer)
    refuse_not_finite(pixels, f"decoding '{prompt}'", model.precision)
    return to_picture(pixels)
