"""What all families do with the parts of a diffusers folder: load them, make them by their configs, put them on a device."""

import json
from pathlib import Path

from repro.errors import StageError

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TEXT_ENCODERS = (CLIPTextModel, CLIPTextModelWithProjection)


def load_component(kind: type, folder: Path) -> torch.nn.Module:
    """The component in `folder`, of a class of diffusers or transformers: float32, in evaluation mode, without gradients.

    Raises:
        StageError: the folder is missing or holds no such component.
    """
    if not folder.is_dir():
        raise StageError(f"{folder}: missing; expected a folder with a {kind.__name__}")
    try:
        module = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StageError(f"{folder}: cannot be loaded as {kind.__name__}: {str(error).splitlines()[0]}") from error
    return module.eval().requires_grad_(False)


def empty_component(kind: type, folder: Path) -> torch.nn.Module:
    """The component by the folder's config, weights as torch's surrounding context makes them."""
    if kind in TEXT_ENCODERS:
        # The config names the type of the file's weights; these are computed in float32, or in autocast's type.
        module = kind(CLIPTextConfig.from_pretrained(folder, local_files_only=True, dtype=torch.float32))
    else:
        module = kind.from_config(kind.load_config(folder, local_files_only=True))
    return module.eval().requires_grad_(False)


def prepare_device(device: torch.device) -> None:
    """Raises:
    StageError: there is no such device."""
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise StageError(f"device: {device}, but torch {torch.__version__} finds no GPU here; set device: cpu")
    # Its backward pass has no deterministic form; flash and memory-efficient attention have one.
    torch.backends.cuda.enable_cudnn_sdp(False)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a GPU from pinned memory, which neither side waits for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pipeline_setting(folder: Path, key: str, default: float) -> float:
    """The number that a diffusers folder's model_index.json gives for `key`, or the default where it says nothing.

    Raises:
        StageError: the file cannot be read, or the value is no number above 0.
    """
    path = folder / "model_index.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get(key, default)
    except (OSError, ValueError, AttributeError) as error:
        raise StageError(f"{path}: cannot be read as a diffusers folder's index: {error}") from None
    if not isinstance(value, int | float) or not value > 0:
        raise StageError(f"{path}: {key} is {value!r}, expected a number above 0")
    return value
