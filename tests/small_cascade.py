"""A random Stable Cascade of tiny widths, for tests: the real classes and structure, a vocabulary of bytes.

Everything that a key map or a loader can get wrong is there: two levels of different width in stage C and stage B, attention
with self-attention, the mappers of both timestep conditions, repeated mappers and strided levels in stage B, running
statistics in the image encoder and in stage A.
"""

from pathlib import Path

from repro import numerics
from repro.randomness import seed_for

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeDecoderPipeline, StableCascadePriorPipeline, StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from small_sdxl import TEXT_LENGTH, _text_config, _write_vocabulary
from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast

from families.effnet import EfficientNetEncoder, EffnetConfig, EffnetStage, write_effnet

TEXT_WIDTH = 64
LATENT_CHANNELS = 4
RESOLUTION_MULTIPLE = 10.67  # 4/3 of the image encoder's stride, as the real 42.67 is of 32
LATENT_DIM_SCALE = 2.67
BLOCKS = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")


def _prior() -> StableCascadeUNet:
    return StableCascadeUNet(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        timestep_ratio_embedding_dim=16,
        conditioning_dim=48,
        block_out_channels=(32, 64),
        num_attention_heads=(2, 4),
        down_num_layers_per_block=(1, 2),
        up_num_layers_per_block=(2, 1),
        block_types_per_layer=(BLOCKS, BLOCKS),
        clip_text_in_channels=TEXT_WIDTH,
        clip_text_pooled_in_channels=TEXT_WIDTH,
        clip_image_in_channels=24,
        clip_seq=2,
        switch_level=(False,),
    )


def _stage_b() -> StableCascadeUNet:
    return StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=16,
        patch_size=2,
        conditioning_dim=32,
        block_out_channels=(16, 32),
        num_attention_heads=(-1, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(2, 1),
        block_types_per_layer=(BLOCKS[:2], BLOCKS),
        clip_text_pooled_in_channels=TEXT_WIDTH,
        clip_seq=2,
        effnet_in_channels=LATENT_CHANNELS,
        pixel_mapper_in_channels=3,
        dropout=(0.0, 0.1),
        timestep_conditioning_type=("sca",),
    )


def _stage_a() -> PaellaVQModel:
    return PaellaVQModel(bottleneck_blocks=2, embed_dim=16, num_vq_embeddings=32)


def _text_encoder(vocabulary_size: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_text_config(vocabulary_size, TEXT_WIDTH, 2, "gelu"))


@torch.no_grad()
def _randomise(model: torch.nn.Module, seed: int, name: str) -> torch.nn.Module:
    """Give every parameter its own values (also biases, norms and gammas, which would else be equal and be swapped unseen)."""
    for key, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(seed_for(seed, "small cascade", name, key))
        noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
        if parameter.ndim > 1:
            parameter.copy_(noise * (3 / parameter[0].numel()) ** 0.5)
        else:
            parameter.copy_(noise * 0.2 + (1.0 if key.endswith("norm.weight") else 0.0))
    return model.eval()


def _tokenizer(vocabulary: Path) -> CLIPTokenizerFast:
    return CLIPTokenizerFast(
        str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"), pad_token="<|endoftext|>", model_max_length=TEXT_LENGTH
    )


def _effnet() -> EfficientNetEncoder:
    """Stride 8, both kinds of block."""
    stages = (
        EffnetStage("fused", expand=1, stride=1, channels=8, layers=1),
        EffnetStage("fused", expand=2, stride=2, channels=16, layers=2),
        EffnetStage("depthwise", expand=2, stride=2, channels=16, layers=1),
    )
    return EfficientNetEncoder(EffnetConfig(8, stages, head_channels=32, latent_channels=LATENT_CHANNELS))


@torch.no_grad()
def _see_pictures(encoder: EfficientNetEncoder, seed: int) -> EfficientNetEncoder:
    """Let every norm's running statistics be those of noise, as training leaves them."""
    pictures = torch.rand((8, 3, 64, 64), generator=torch.Generator().manual_seed(seed_for(seed, "small cascade", "pictures")))
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    encoder.train()(pictures * 2 - 1)
    return encoder.eval()


def write_small_cascade(folder: Path, seed: int) -> Path:
    """Write a folder of Stable Cascade (fp32 weights, about 2 MB), as stages/make_base.py lays it out but without manifest.

    Image encoder of stride 8 to 4 channels; stage C draws 64x64 pixels on 6x6, stage B on 16x16, stage A makes the pixels.
    Returns `folder`.
    """
    numerics.fix_torch()
    folder = Path(folder)
    vocabulary = folder.with_name(f"{folder.name}-vocabulary")
    size = _write_vocabulary(vocabulary)
    prior = StableCascadePriorPipeline(
        tokenizer=_tokenizer(vocabulary),
        text_encoder=_randomise(_text_encoder(size), seed, "text_encoder"),
        prior=_randomise(_prior(), seed, "prior"),
        scheduler=DDPMWuerstchenScheduler(),
        resolution_multiple=RESOLUTION_MULTIPLE,
    )
    prior.save_pretrained(folder)
    decoder = StableCascadeDecoderPipeline(
        tokenizer=_tokenizer(vocabulary),
        text_encoder=_randomise(_text_encoder(size), seed, "decoder text_encoder"),
        decoder=_randomise(_stage_b(), seed, "stage B"),
        vqgan=_randomise(_stage_a(), seed, "stage A"),
        scheduler=DDPMWuerstchenScheduler(),
        latent_dim_scale=LATENT_DIM_SCALE,
    )
    decoder.save_pretrained(folder / "decoder")
    write_effnet(folder / "effnet", _see_pictures(_randomise(_effnet(), seed, "effnet"), seed))
    for file in vocabulary.iterdir():
        file.unlink()
    vocabulary.rmdir()
    return folder
