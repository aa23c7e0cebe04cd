"""The sample's base model as a diffusers folder: the untrained start, and the trained result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.outputs import json_text, whole_folder
from repro.tensorfile import spec_of, tensor_bytes, write_tensors

import torch
from diffusers import AutoencoderKL

from checkpoints.diffusers_folder import open_folder, write_folder
from checkpoints.model_family import SDXL
from sample.architecture import make_scheduler, make_text_encoders, make_unet
from sample.tokenizers import write_tokenizers

# Component: (library, class) as model_index.json names them.
COMPONENTS = {
    "vae": ("diffusers", "AutoencoderKL"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "EulerDiscreteScheduler"),
}
TOKENS = "text_model.embeddings.token_embedding.weight"
# SDXL's own setting: an empty negative prompt is zeros. The trainer's dropped captions are encoded, so not here.
MODEL_INDEX = {"_class_name": SDXL.pipeline, "force_zeros_for_empty_prompt": False, **{k: list(v) for k, v in COMPONENTS.items()}}
# The saving library's version, the place of saving, and a set in no fixed order: none belongs to the model.
LEFT_OUT = ("_diffusers_version", "transformers_version", "_name_or_path", "_use_default_values")


def _config_json(config: Mapping[str, Any], class_name: str | None = None) -> str:
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    return json_text({**kept, "_class_name": class_name} if class_name else kept)


def write_start(folder: Path, vae: AutoencoderKL, merges: Path, seed: int) -> None:
    """Write the pipeline with `vae` (fp16: it stays as it is from here on) and random other weights (float32)."""
    text_encoder, text_encoder_2 = make_text_encoders(seed)
    models = {"vae": vae, "unet": make_unet(seed), "text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    with whole_folder(folder) as target:
        (target / "model_index.json").write_text(json_text(MODEL_INDEX))
        for name, model in models.items():
            (target / name).mkdir()
            is_text = name.startswith("text")
            config = model.config.to_diff_dict() | {"torch_dtype": "float32"} if is_text else model.config
            (target / name / "config.json").write_text(_config_json(config, None if is_text else COMPONENTS[name][1]))
            tensors = {key: t.half() if name == "vae" else t for key, t in model.state_dict().items()}
            write_tensors(target / name / SDXL.weights[name], tensors, {"format": "pt"})
        write_tokenizers(merges, target)
        scheduler = make_scheduler()
        (target / "scheduler").mkdir()
        (target / "scheduler" / "scheduler_config.json").write_text(_config_json(scheduler.config, COMPONENTS["scheduler"][1]))


def write_trained(folder: Path, start: Path, trained: Mapping[str, torch.Tensor], unseen_token_scale: float = 1.0) -> None:
    """Write `start` with the trained weights (`<component>.<name>`) in their places, everything as fp16.

    Rows of the token embeddings that training left as they were are scaled by `unseen_token_scale`.
    """
    folder_of_start = open_folder(start)
    models = {
        component: {name: trained.get(f"{component}.{name}", file.whole(inner)).half() for name, (file, inner) in tensors.items()}
        for component, tensors in folder_of_start.tensors.items()
    }
    for component in ("text_encoder", "text_encoder_2"):
        file, inner = folder_of_start.tensors[component][TOKENS]
        drawn, tokens = file.whole(inner).half(), models[component][TOKENS]
        unseen = (tokens == drawn).all(dim=1, keepdim=True)
        models[component][TOKENS] = torch.where(unseen, (tokens.float() * unseen_token_scale).half(), tokens)
    specs = {component: {name: spec_of(tensor) for name, tensor in tensors.items()} for component, tensors in models.items()}
    write_folder(folder, folder_of_start.configs, specs, lambda component, name: [tensor_bytes(models[component][name])])
