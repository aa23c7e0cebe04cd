"""A random SDXL pipeline of tiny widths, for tests: the real classes and structure, a vocabulary of bytes.

Everything that a key map or a loader can get wrong is there: three UNet levels of which the first has no attention,
different transformer depths, shortcuts in UNet and VAE, two text encoders of different width, a text projection.
"""

import json
from pathlib import Path

from repro import numerics
from repro.randomness import seed_for

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

TEXT_WIDTHS = (32, 64)
ADDITION_TIME_DIM = 32
TEXT_LENGTH = 77


def _write_vocabulary(folder: Path) -> int:
    """A CLIP vocabulary of single bytes without merges, plus the two marks at its end; returns its size."""
    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(entries)


def _tokenizer(vocabulary: Path, pad: str) -> CLIPTokenizer:
    return CLIPTokenizer(
        str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"), pad_token=pad, model_max_length=TEXT_LENGTH
    )


def _text_config(vocabulary_size: int, width: int, layers: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        hidden_act=activation,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 2),
        cross_attention_dim=sum(TEXT_WIDTHS),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=ADDITION_TIME_DIM,
        projection_class_embeddings_input_dim=TEXT_WIDTHS[1] + 6 * ADDITION_TIME_DIM,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=0.13025,
        force_upcast=False,
    )


@torch.no_grad()
def _randomise(model: torch.nn.Module, seed: int, name: str) -> None:
    """Give every parameter its own values (also norms and biases, which would else be equal and could be swapped unseen)."""
    for key, parameter in model.named_parameters():
        noise = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(seed_for(seed, "small sdxl", name, key)))
        noise = noise * 2 - 1
        if parameter.ndim > 1:
            parameter.copy_(noise * (3 / parameter[0].numel()) ** 0.5)
        else:
            parameter.copy_(noise * 0.2 + (1.0 if key.endswith("weight") else 0.0))


def write_small_sdxl(folder: Path, seed: int) -> Path:
    """Write a diffusers folder (fp16 weights, about 8 MB) that `StableDiffusionXLPipeline.from_pretrained` opens.

    VAE factor 4 and three levels; pictures of 32 to 64 pixels a side take a second or less. Returns `folder`.
    """
    numerics.fix_torch()
    folder = Path(folder)
    vocabulary = folder.with_name(f"{folder.name}-vocabulary")
    size = _write_vocabulary(vocabulary)
    models = {
        "unet": _unet(),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_text_config(size, TEXT_WIDTHS[0], 2, "quick_gelu")),
        "text_encoder_2": CLIPTextModelWithProjection(_text_config(size, TEXT_WIDTHS[1], 3, "gelu")),
    }
    for name, model in models.items():
        _randomise(model, seed, name)
        model.eval().half()
    pipeline = StableDiffusionXLPipeline(
        **models,
        tokenizer=_tokenizer(vocabulary, "<|endoftext|>"),
        tokenizer_2=_tokenizer(vocabulary, "!"),
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    for file in vocabulary.iterdir():
        file.unlink()
    vocabulary.rmdir()
    return folder
