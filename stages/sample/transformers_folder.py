"""Small transformers models: keyed initial weights, and folders whose bytes depend on nothing but the model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.outputs import json_text
from repro.randomness import seed_for
from repro.tensorfile import write_tensors

import torch
from torch import nn
from transformers import PreTrainedModel

from sample.base_model import LEFT_OUT
from sample.population import SEED

# Of embeddings, positions and class tokens.
EMBEDDING_DEVIATION = 0.05


@torch.no_grad()
def initialise(model: nn.Module, name: str) -> None:
    """Redraw all parameters in place, each keyed by the model's name and its own: normal with a variance of 1 / fan-in for
    linear layers and convolutions, ones and zeros for norms and biases."""
    for module_name, module in model.named_modules():
        for own_name, parameter in module.named_parameters(prefix=module_name, recurse=False):
            if own_name.endswith("bias"):
                parameter.zero_()
            elif "Norm" in type(module).__name__:
                parameter.fill_(1.0)
            else:
                mixes = isinstance(module, nn.Linear | nn.Conv2d)
                deviation = 1 / math.sqrt(parameter[0].numel()) if mixes else EMBEDDING_DEVIATION
                generator = torch.Generator().manual_seed(seed_for(SEED, "tagger init", name, own_name))
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """A configuration as JSON, without the library's version, the place it was saved at and the library's private entries."""
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT and not key.startswith("_")}
    path.write_text(json_text(kept), encoding="utf-8")


def write_model(folder: Path, model: PreTrainedModel) -> None:
    """config.json and model.safetensors (float32)."""
    config = model.config.to_diff_dict() | {"architectures": [type(model).__name__]}
    write_config(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", dict(model.state_dict()), {"format": "pt"})
