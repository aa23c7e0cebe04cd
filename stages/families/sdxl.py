"""SDXL: load, text conditioning, training loss and sampling, on the CPU or a GPU.

Works on any diffusers folder of SDXL's classes, whatever its widths. Facts of the conditioning:
penultimate hidden states of both text encoders without final layer norm, pooled output of the
second one's first window, six size numbers as sinusoids inside the UNet (SDXL paper, section 2.2;
sd-scripts 48d368fa).
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from repro.devices import at_precision
from repro.errors import StageError
from repro.params import Precision, SampledPictures, Train

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from families.noise import Prediction, loss_weights, signal_and_noise_scales, velocity
from families.samplers import Denoiser, sample, sampling_steps
from families.text_cache import Encoded, TextCache
from families.tokens import WINDOW, token_windows

SCHEDULER_CONFIG = Path("scheduler", "scheduler_config.json")


@dataclass
class Sdxl:
    """The parts of one SDXL model in evaluation mode, weights float32 without gradients unless who trains changes that.

    `precision` is what the UNet and text encoders compute in (the VAE always in float32, in which alone SDXL's is finite).
    `prediction` and `zero_terminal_snr` are what the model was made to predict, and its schedule. With a `text_cache`,
    which needs text encoders that do not change, the loss encodes captions one at a time and without gradients.
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

    def autocast(self) -> torch.autocast:
        """The context in which the UNet and the text encoders run."""
        return at_precision(self.device, self.precision)


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


def load_sdxl(folder: Path, device: str = "cpu", precision: Precision = "fp32") -> Sdxl:
    """Load a diffusers folder; what it predicts and its schedule are read from its scheduler config.

    Raises:
        StageError: a component is missing or of another class, or there is no such device.
    """
    folder = Path(folder)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        if not (folder / part).is_dir():
            raise StageError(f"{folder}: no folder '{part}'; expected a diffusers folder of an SDXL model")
    prediction, zero_terminal_snr = _read_schedule(folder / SCHEDULER_CONFIG)

    def model(cls: type, part: str) -> torch.nn.Module:
        options = {"torch_dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
        try:
            return cls.from_pretrained(folder / part, **options).eval().requires_grad_(False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StageError(f"{folder / part}: cannot be loaded as {cls.__name__}: {str(error).splitlines()[0]}") from error

    loaded = Sdxl(
        unet=model(UNet2DConditionModel, "unet"),
        text_encoder=model(CLIPTextModel, "text_encoder"),
        text_encoder_2=model(CLIPTextModelWithProjection, "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
        vae=model(AutoencoderKL, "vae"),
        device=torch.device("cpu"),
        precision=precision,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
    )
    move_to(loaded, torch.device(device))
    return loaded


def move_to(model: Sdxl, device: torch.device) -> None:
    """Move all parts to the device; parameters stay the same objects.

    Raises:
        StageError: there is no such device.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise StageError(f"device: {device}, but torch {torch.__version__} finds no GPU here; set device: cpu")
        # Its backward pass has no deterministic form; flash and memory-efficient attention have one.
        torch.backends.cuda.enable_cudnn_sdp(False)
        model.unet.to(memory_format=torch.channels_last)
    for part in (model.unet, model.text_encoder, model.text_encoder_2, model.vae):
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


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a GPU from pinned memory, which neither side waits for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _join_windows(hidden: torch.Tensor, windows: int) -> torch.Tensor:
    """[captions * windows, 77, c] -> [captions, 75 * windows + 2, c]: first BOS, the contents, last token."""
    hidden = hidden.reshape(-1, windows, WINDOW, hidden.shape[-1])
    contents = hidden[:, :, 1:-1].flatten(1, 2)
    return torch.cat([hidden[:, 0, :1], contents, hidden[:, -1, -1:]], dim=1)


def encode_captions(model: Sdxl, captions: list[str], max_token_length: int) -> Encoded:
    """Context [captions, 75n + 2, c1 + c2] and pooled [captions, projection] of captions, computed as one batch."""
    parts = []
    with model.autocast():
        for tokenizer, encoder in ((model.tokenizer, model.text_encoder), (model.tokenizer_2, model.text_encoder_2)):
            ids = token_windows(tokenizer, captions, max_token_length)
            windows = ids.shape[1]
            output = encoder(_moved(ids.flatten(0, 1), model.device), output_hidden_states=True)
            parts.append(_join_windows(output.hidden_states[-2], windows))
    pooled = output.text_embeds[::windows]
    return torch.cat(parts, dim=-1), pooled


def encode_training_captions(model: Sdxl, captions: list[str], max_token_length: int) -> Encoded:
    """As `encode_captions`; with a text cache one caption at a time, so that no bit depends on what else is in the batch
    or was kept."""
    cache = model.text_cache
    if cache is None:
        return encode_captions(model, captions, max_token_length)
    with torch.no_grad():
        encoded = [
            cache.encoded(caption, max_token_length, lambda one=caption: encode_captions(model, [one], max_token_length))
            for caption in captions
        ]
        return torch.cat([context for context, _ in encoded]), torch.cat([pooled for _, pooled in encoded])


def _predict(model: Sdxl, noisy: torch.Tensor, timesteps: torch.Tensor, encoded: Encoded, sizes: list[Sizes]) -> torch.Tensor:
    """The UNet's output, float32 [images, 4, h, w]; timesteps [images], or [1] for all of them, which may lie
    between whole ones."""
    context, pooled = encoded
    time_ids = _moved(torch.tensor([one.time_ids() for one in sizes], dtype=torch.float32), model.device)
    conditions = {"text_embeds": pooled, "time_ids": time_ids}
    if model.device.type == "cuda":
        noisy = noisy.contiguous(memory_format=torch.channels_last)
    with model.autocast():
        return model.unet(noisy, timesteps, context, added_cond_kwargs=conditions, return_dict=False)[0].float()


@lru_cache(maxsize=8)
def schedule_tables(
    prediction: Prediction, zero_terminal_snr: bool, min_snr_gamma: float | None, debiased: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Signal scale, noise scale and loss weight of each timestep on the device."""
    tables = (*signal_and_noise_scales(zero_terminal_snr), loss_weights(prediction, min_snr_gamma, debiased))
    signal, scale, weights = (table.to(device) for table in tables)
    return signal, scale, weights


def denoising_losses(
    model: Sdxl,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    captions: list[str],
    sizes: list[Sizes],
    settings: Train,
) -> torch.Tensor:
    """Weighted losses on the model's device, float32 [images]: mean squared error of the predicted noise or velocity over
    channels and pixels, times the weight of its timestep (`loss_weights`).

    Args:
        latents: scaled VAE latents [images, 4, h, w]; noise: the same shape, with its offset if any.
        timesteps: int64 [images] in 0..999.
    """
    latents, noise, timesteps = (_moved(tensor, model.device) for tensor in (latents, noise, timesteps))
    tables = schedule_tables(
        model.prediction, model.zero_terminal_snr, settings.min_snr_gamma, settings.debiased, model.device
    )  # fmt: skip
    signal, scale, weights = (table[timesteps] for table in tables)
    signal, scale = signal.view(-1, 1, 1, 1), scale.view(-1, 1, 1, 1)
    encoded = encode_training_captions(model, captions, settings.max_token_length)
    predicted = _predict(model, signal * latents + scale * noise, timesteps, encoded, sizes)
    target = noise if model.prediction == "epsilon" else velocity(signal, scale, latents, noise)
    return (predicted - target).square().mean(dim=(1, 2, 3)) * weights


def _guided_denoiser(model: Sdxl, encoded: Encoded, sizes: Sizes, guidance: float) -> Denoiser:
    """The model under classifier-free guidance, both halves as one batch; `encoded` is of the negative prompt and the prompt."""

    def denoiser(scaled: torch.Tensor, timestep: float) -> torch.Tensor:
        at = _moved(torch.tensor([timestep]), model.device)
        unconditional, conditional = _predict(model, torch.cat([scaled, scaled]), at, encoded, [sizes] * 2).chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return denoiser


def _windows_needed(model: Sdxl, captions: list[str]) -> int:
    """Windows that hold all tokens of the longest caption, by either tokenizer."""
    tokens = max(
        len(ids)
        for tokenizer in (model.tokenizer, model.tokenizer_2)
        for ids in tokenizer(captions, add_special_tokens=False).input_ids
    )
    return max(1, -(-tokens // (WINDOW - 2)))


@torch.no_grad()
def sample_latents(model: Sdxl, prompt: str, seed: int, settings: SampledPictures) -> torch.Tensor:
    """One picture's latents [1, 4, h, w], on the model's device, with classifier-free guidance.

    Nothing of a long prompt is cut off: both prompts get the windows that the longer one needs. Noise depends on `seed`
    alone, and is drawn on the CPU; a picture is computed by itself, so that no batch composition reaches its bits.
    """
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    shape = (1, model.unet.config.in_channels, settings.height // factor, settings.width // factor)
    sizes = Sizes(settings.original_height, settings.original_width, 0, 0, settings.height, settings.width)
    table = sampling_steps(settings.sampler, settings.steps, model.zero_terminal_snr)
    prompts = [settings.negative_prompt, prompt]
    encoded = encode_captions(model, prompts, _windows_needed(model, prompts) * (WINDOW - 2))
    denoiser = _guided_denoiser(model, encoded, sizes, settings.guidance)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    return sample(denoiser, noise, table, model.prediction, seed)


@torch.no_grad()
def decode_picture(model: Sdxl, latents: torch.Tensor) -> Image.Image:
    """The RGB picture of latents [1, 4, h, w]."""
    pixels = model.vae.decode(latents / model.vae.config.scaling_factor, return_dict=False)[0]
    array = ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array, "RGB")
