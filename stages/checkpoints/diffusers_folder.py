"""An SDXL model as a diffusers folder: reading its weights and configs, writing them canonically."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, check_manifest, sha256_file, sha256_json, write_manifest
from repro.outputs import json_text, whole_folder
from repro.tensorfile import data_sha256, write_tensors

from checkpoints.files import read_tensors
from checkpoints.keymap import Tensors, canonical_text_name

PIPELINE = "StableDiffusionXLPipeline"
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
TOKENIZERS = ("tokenizer", "tokenizer_2")
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
# Names of folders on the machine that saved the model: they change nothing and tell on it.
PRIVATE_KEYS = ("_name_or_path",)
# A constant 0..76 that older transformers saved; only the first text encoder's has a place in a single file.
UNUSED = {"text_encoder_2": "text_model.embeddings.position_ids"}


@dataclass(frozen=True)
class DiffusersModel:
    """A folder's configs and tensors, both by component; text encoders' names in the older spelling (`text_model.`).

    `configs` also has "scheduler"; `weight_hashes` is {relative weight file: sha256}.
    """

    folder: Path
    configs: dict[str, dict[str, Any]]
    models: dict[str, Tensors]
    weight_hashes: dict[str, str]

    @property
    def sha256(self) -> str:
        """One digest of all weight files."""
        return sha256_json(self.weight_hashes)

    @property
    def resolution(self) -> int:
        """Pixels a side that the UNet's config states."""
        vae_factor = 2 ** (len(self.configs["vae"]["down_block_types"]) - 1)
        return self.configs["unet"]["sample_size"] * vae_factor


def read_folder(folder: Path) -> DiffusersModel:
    """Read an SDXL diffusers folder; a folder with a manifest is checked against it.

    Raises:
        StageError: not an SDXL pipeline's folder, or a file of it is missing, broken or changed.
    """
    folder = Path(folder)
    pipeline = _read_json(folder / "model_index.json").get("_class_name")
    if pipeline != PIPELINE:
        raise StageError(f"{folder}: its model_index.json says {pipeline}; expected a folder of {PIPELINE}")
    if (folder / MANIFEST_NAME).exists():
        check_manifest(folder)
    configs = {component: _read_json(folder / component / "config.json") for component in WEIGHTS}
    configs["scheduler"] = _read_json(folder / SCHEDULER_CONFIG)
    paths = {component: folder / component / file for component, file in WEIGHTS.items()}
    models = {component: read_tensors(path) for component, path in paths.items()}
    for component in ("text_encoder", "text_encoder_2"):
        renamed = {canonical_text_name(name): tensor for name, tensor in models[component].items()}
        renamed.pop(UNUSED.get(component, ""), None)
        models[component] = renamed
    hashes = {str(path.relative_to(folder)): sha256_file(path) for path in paths.values()}
    return DiffusersModel(folder, configs, models, hashes)


def write_folder(target: Path, model: DiffusersModel, models: Mapping[str, Tensors]) -> None:
    """Write `models` as a diffusers folder with the configs, scheduler and tokenizers of `model`, whole, with a manifest.

    JSON is written with sorted keys and without the saving machine's folder names; tokenizers are copied byte for byte.
    """
    with whole_folder(target) as folder:
        index = _read_json(model.folder / "model_index.json")
        (folder / "model_index.json").write_text(_canonical(index))
        for component, file in WEIGHTS.items():
            (folder / component).mkdir()
            config = _with_dtype(model.configs[component], models[component])
            (folder / component / "config.json").write_text(_canonical(config))
            write_tensors(folder / component / file, models[component], {"format": "pt"})
        for tokenizer in TOKENIZERS:
            shutil.copytree(model.folder / tokenizer, folder / tokenizer, copy_function=shutil.copyfile)
        (folder / SCHEDULER_CONFIG).parent.mkdir()
        (folder / SCHEDULER_CONFIG).write_text(_canonical(model.configs["scheduler"]))
        write_manifest(folder, sha256_json({component: data_sha256(models[component]) for component in WEIGHTS}))


def _with_dtype(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The config with the precision that transformers notes in it set to the tensors' own."""
    floating = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    name = str(floating).removeprefix("torch.")
    return {key: name if key in ("dtype", "torch_dtype") else value for key, value in config.items()}


def _canonical(config: Mapping[str, Any]) -> str:
    return json_text({key: value for key, value in config.items() if key not in PRIVATE_KEYS})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StageError(f"{path}: missing; expected the diffusers folder of an SDXL model")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise StageError(f"{path}: expected a JSON object")
    return value
