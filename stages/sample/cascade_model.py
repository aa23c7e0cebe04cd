"""The sample's Stable Cascade as a diffusers folder: the untrained start with its decoder, and the trained result."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.outputs import json_text, whole_folder
from repro.tensorfile import spec_of, tensor_bytes, write_tensors

import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

from checkpoints.diffusers_folder import open_folder, write_folder
from families.effnet import EfficientNetEncoder, write_effnet
from sample.base_model import LEFT_OUT
from sample.cascade_architecture import EFFNET, STAGE_A, make_stage_c

# The text encoder that knows the tags already, and a tokenizer that pads with the end of text, as Stable Cascade's does.
TEXT_SOURCE, TOKENIZER_SOURCE = "text_encoder_2", "tokenizer"
SCHEDULER = {"_class_name": "DDPMWuerstchenScheduler", "s": 0.008, "scaler": 1.0}
PRIOR_INDEX: dict[str, Any] = {
    "_class_name": "StableCascadePriorPipeline",
    "prior": ["diffusers", "StableCascadeUNet"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
    "image_encoder": [None, None],
    "feature_extractor": [None, None],
    "resolution_multiple": float(EFFNET.stride),
}
DECODER_INDEX: dict[str, Any] = {
    "_class_name": "StableCascadeDecoderPipeline",
    "decoder": ["diffusers", "StableCascadeUNet"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
    "vqgan": ["diffusers", "PaellaVQModel"],
    "latent_dim_scale": EFFNET.stride / STAGE_A["up_down_scale_factor"],
}


def write_image_encoder(folder: Path, encoder: EfficientNetEncoder) -> None:
    """Write the encoder as fp16: what is learnt of its latents afterwards is learnt of these numbers."""
    with whole_folder(folder) as target:
        write_effnet(target, encoder.half())


def _write_model(folder: Path, model: StableCascadeUNet | PaellaVQModel, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    config = {key: value for key, value in model.config.items() if key not in LEFT_OUT}
    (folder / "config.json").write_text(json_text({**config, "_class_name": type(model).__name__}))
    tensors = {key: t.to(dtype) if t.is_floating_point() else t for key, t in model.state_dict().items()}
    write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})


def _write_text_parts(folder: Path, sample_base: Path) -> None:
    for name, source in (("text_encoder", TEXT_SOURCE), ("tokenizer", TOKENIZER_SOURCE)):
        shutil.copytree(sample_base / source, folder / name, copy_function=shutil.copyfile)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json_text(SCHEDULER))


def write_decoder(folder: Path, stage_b: StableCascadeUNet, stage_a: PaellaVQModel, sample_base: Path) -> None:
    """Write the folder of stage B and stage A as fp16, with the text encoder of `sample_base`, which stage B does not heed."""
    with whole_folder(folder) as target:
        (target / "model_index.json").write_text(json_text(DECODER_INDEX))
        _write_model(target / "decoder", stage_b, torch.float16)
        _write_model(target / "vqgan", stage_a, torch.float16)
        _write_text_parts(target, sample_base)


def write_start(folder: Path, effnet: Path, decoder: Path, sample_base: Path, seed: int) -> None:
    """Write the pipeline with a random stage C (float32), the text encoder of `sample_base`, and the trained other parts."""
    with whole_folder(folder) as target:
        (target / "model_index.json").write_text(json_text(PRIOR_INDEX))
        _write_model(target / "prior", make_stage_c(seed), torch.float32)
        _write_text_parts(target, sample_base)
        for name, source in (("effnet", effnet), ("decoder", decoder)):
            shutil.copytree(source, target / name, copy_function=shutil.copyfile)


def write_trained(folder: Path, start: Path, trained: Mapping[str, torch.Tensor]) -> None:
    """Write `start` with the trained weights (`<component>.<name>`) in their places, all floats as fp16."""
    opened = open_folder(start)

    def written(component: str, name: str) -> torch.Tensor:
        file, inner = opened.tensors[component][name]
        tensor = trained.get(f"{component}.{name}", file.whole(inner))
        return tensor.half() if tensor.is_floating_point() else tensor

    models = {component: {name: written(component, name) for name in tensors} for component, tensors in opened.tensors.items()}
    specs = {component: {name: spec_of(tensor) for name, tensor in tensors.items()} for component, tensors in models.items()}
    write_folder(folder, opened.configs, specs, lambda component, name: [tensor_bytes(models[component][name])])
