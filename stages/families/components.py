"""What all families do with the parts of a diffusers folder: load them, make them by their configs, put them on a device."""

from pathlib import Path

from repro.errors import StageError

import torch
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection
CONFIG = "config.json"
TOKENIZER_FILES = ("vocab.json", "merges.txt")
# What the two libraries raise at files that are missing, broken or another model's.
LOADING_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, SafetensorError)


def load_component(kind: type, folder: Path) -> torch.nn.Module:
    """The component in `folder`, of a class of diffusers or transformers: float32, in evaluation mode, without gradients.

    Raises:
        StageError: the folder is missing or holds no such component, or a tensor is missing or of another shape: for one that
            is missing transformers would make random numbers up.
    """
    _require_file(folder, CONFIG, kind)
    try:
        module, found = kind.from_pretrained(
            folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise _cannot_be_loaded(folder, kind, error) from error
    for fault, words in {"missing_keys": "is missing", "mismatched_keys": "has another shape than its config says"}.items():
        if names := sorted(map(str, found[fault])):
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise StageError(f"{folder}: tensor '{names[0]}' of its {kind.__name__} {words}{more}; fetch or make it again")
    return module.eval().requires_grad_(False)


def empty_component(kind: type, folder: Path) -> torch.nn.Module:
    """The component by the folder's config, weights as torch's surrounding context makes them.

    Raises:
        StageError: the config is missing or describes no such component.
    """
    _require_file(folder, CONFIG, kind)
    try:
        if issubclass(kind, TextEncoder):
            # The config names the type of the file's weights; these are computed in float32, or in autocast's type.
            module = kind(CLIPTextConfig.from_pretrained(folder, local_files_only=True, dtype=torch.float32))
        else:
            module = kind.from_config(kind.load_config(folder, local_files_only=True))
    except LOADING_ERRORS as error:
        raise _cannot_be_loaded(folder, kind, error) from error
    return module.eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Raises:
    StageError: the folder or a file of it is missing, or holds no such tokenizer."""
    for file in TOKENIZER_FILES:
        _require_file(folder, file, CLIPTokenizer)
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        raise _cannot_be_loaded(folder, CLIPTokenizer, error) from error


def _require_file(folder: Path, file: str, kind: type) -> None:
    if not (folder / file).is_file():
        raise StageError(f"{folder}: {f'no {file}' if folder.is_dir() else 'missing'}; expected a folder with a {kind.__name__}")


def _cannot_be_loaded(folder: Path, kind: type, error: Exception) -> StageError:
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return StageError(f"{folder}: cannot be loaded as {kind.__name__}: {why}; fetch or make it again")


def checkpoint_text_encoder(encoder: TextEncoder) -> None:
    """Have its backward pass compute each block's activations again instead of keeping them, which changes no bit."""
    encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # transformers checkpoints in training mode only; CLIP's dropout rates are 0, so that nothing else changes with it.
    encoder.train()


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
