"""An SDXL model as a diffusers folder: opening one, and writing one canonically, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, check_manifest, remembered_sha256, sha256_json, write_manifest
from repro.outputs import json_text, whole_folder
from repro.tensorfile import TensorSpec, stream_tensors

import torch

from checkpoints.keymap import canonical_text_name
from checkpoints.schedule import Schedule
from checkpoints.sdxl_shapes import expected_shapes
from checkpoints.tensor_reader import HeldTensors, TensorFile

PIPELINE = "StableDiffusionXLPipeline"
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
SDXL_RESOLUTION = 1024
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
# Names of folders on the machine that saved the model: they change nothing and tell on it.
PRIVATE_KEYS = ("_name_or_path",)
# A constant 0..76 that older transformers saved; only the first text encoder's has a place in a single file.
UNUSED = {"text_encoder_2": "text_model.embeddings.position_ids"}


@dataclass(frozen=True)
class FolderConfigs:
    """All of a diffusers folder that is not weights: `configs` by component, and "scheduler"."""

    folder: Path
    configs: dict[str, dict[str, Any]]

    @property
    def resolution(self) -> int:
        """Pixels a side that the UNet's config states; SDXL's where it states none."""
        vae_factor = 2 ** (len(self.configs["vae"]["down_block_types"]) - 1)
        size = self.configs["unet"].get("sample_size")
        return size * vae_factor if isinstance(size, int) else SDXL_RESOLUTION

    @property
    def schedule(self) -> Schedule:
        return Schedule.from_config(self.configs["scheduler"])

    def with_schedule(self, schedule: Schedule) -> "FolderConfigs":
        return replace(self, configs={**self.configs, "scheduler": schedule.in_config(self.configs["scheduler"])})


@dataclass(frozen=True)
class DiffusersFolder:
    """A diffusers folder open for reading.

    `tensors` is {component: {name: (file, name in the file)}}, text encoders' names in the older spelling (`text_model.`);
    `weight_hashes` is {relative weight file: sha256}.
    """

    configs: FolderConfigs
    tensors: dict[str, dict[str, tuple[TensorFile | HeldTensors, str]]]
    weight_hashes: dict[str, str]

    @property
    def sha256(self) -> str:
        """One digest of all weight files."""
        return sha256_json(self.weight_hashes)

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> "DiffusersFolder":
        """The folder as if it held these (`<component>.<name>`), of any float types, in the place of its own; the hashes stay
        those of the files.

        Raises:
            StageError: one that the folder does not have, or of another shape.
        """
        held, changed = HeldTensors(tensors), {component: dict(of) for component, of in self.tensors.items()}
        for key, spec in held.specs.items():
            component, _, name = key.partition(".")
            file, inner = changed.get(component, {}).get(name, (None, ""))
            if file is None or file.specs[inner].shape != spec.shape:
                found = f"is of shape {list(file.specs[inner].shape)}" if file else "is not there"
                raise StageError(f"{self.configs.folder / component}: '{name}' {found}; expected shape {list(spec.shape)}")
            changed[component][name] = (held, key)
        return replace(self, tensors=changed)


def read_configs(folder: Path) -> FolderConfigs:
    """Read the configs of an SDXL diffusers folder; its weights need not be there.

    Raises:
        StageError: not an SDXL pipeline's folder, or a config or tokenizer is missing or broken.
    """
    folder = Path(folder)
    pipeline = _read_json(folder / "model_index.json").get("_class_name")
    if pipeline != PIPELINE:
        raise StageError(f"{folder}: its model_index.json says {pipeline}; expected a folder of {PIPELINE}")
    configs = {component: _read_json(folder / component / "config.json") for component in WEIGHTS}
    configs["scheduler"] = _read_json(folder / SCHEDULER_CONFIG)
    for tokenizer in TOKENIZERS:
        for name in TOKENIZER_FILES:
            if not (folder / tokenizer / name).is_file():
                raise _missing(folder / tokenizer / name)
    expected_shapes(configs, str(folder))
    return FolderConfigs(folder, configs)


def open_folder(folder: Path) -> DiffusersFolder:
    """Open an SDXL diffusers folder; a folder with a manifest is checked against it.

    Raises:
        StageError: not an SDXL pipeline's folder, or a file of it is missing, broken or changed.
    """
    configs = read_configs(folder)
    folder = configs.folder
    manifest = check_manifest(folder)["files"] if (folder / MANIFEST_NAME).exists() else {}
    tensors: dict[str, dict[str, tuple[TensorFile, str]]] = {}
    hashes = {}
    for component, file in WEIGHTS.items():
        found = tensors[component] = {}
        paths, promised = _weight_files(folder / component / file)
        for path in paths:
            relative = str(path.relative_to(folder))
            weights = TensorFile(path)
            hashes[relative] = manifest.get(relative) or remembered_sha256(path)
            for name in weights.specs:
                canonical = canonical_text_name(name) if component in TEXT_ENCODERS else name
                if canonical in found:
                    raise StageError(f"{path}: tensor '{name}' stands twice in {folder / component}")
                found[canonical] = (weights, name)
        lacking = promised - {name for _, name in found.values()}
        if lacking:
            raise StageError(f"{folder / component}: tensor '{min(lacking)}' is in none of its {len(paths)} shards")
        found.pop(UNUSED.get(component, ""), None)
    return DiffusersFolder(configs, tensors, hashes)


def _weight_files(path: Path) -> tuple[list[Path], set[str]]:
    """The file itself, or its shards, or its fp16 variant: the first of them that is there; and what an index promises."""
    index = path.with_name(f"{path.name}.index.json")
    variant = path.with_suffix(".fp16.safetensors")
    if path.is_file():
        return [path], set()
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise StageError(f"{index}: no weight_map that names the shards")
        return [path.with_name(Path(name).name) for name in sorted(set(shards.values()))], set(shards)
    if variant.is_file():
        return [variant], set()
    raise _missing(path)


def write_folder(
    target: Path,
    configs: FolderConfigs,
    models: Mapping[str, Mapping[str, TensorSpec]],
    chunks: Callable[[str, str], Iterable[memoryview]],
) -> None:
    """Write a diffusers folder with the configs, scheduler and tokenizers of `configs`, whole, with a manifest.

    JSON is written with sorted keys and without the saving machine's folder names; tokenizers are copied byte for byte.

    Args:
        models: {component: {name: spec}}. chunks: gives a tensor's bytes by component and name, see `stream_tensors`.
    """
    with whole_folder(target) as folder:
        index = _read_json(configs.folder / "model_index.json")
        (folder / "model_index.json").write_text(_canonical(index))
        digests = {}
        for component, file in WEIGHTS.items():
            (folder / component).mkdir()
            config = _with_dtype(configs.configs[component], models[component])
            (folder / component / "config.json").write_text(_canonical(config))
            digests[component] = stream_tensors(
                folder / component / file,
                models[component],
                lambda name, component=component: chunks(component, name),
                lambda _: {"format": "pt"},
            )
        for tokenizer in TOKENIZERS:
            shutil.copytree(configs.folder / tokenizer, folder / tokenizer, copy_function=shutil.copyfile)
        (folder / SCHEDULER_CONFIG).parent.mkdir()
        (folder / SCHEDULER_CONFIG).write_text(_canonical(configs.configs["scheduler"]))
        write_manifest(folder, sha256_json(digests))


def _with_dtype(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The config with the precision that transformers notes in it set to the tensors' own."""
    name = TORCH_NAMES[next(spec.dtype for spec in specs.values() if spec.is_float)]
    return {key: name if key in ("dtype", "torch_dtype") else value for key, value in config.items()}


# What transformers computes in; it can make no model of fp8 tensors.
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "F8_E4M3": "float16",
    "F8_E5M2": "float16",
}


def _canonical(config: Mapping[str, Any]) -> str:
    return json_text({key: value for key, value in config.items() if key not in PRIVATE_KEYS})


def _missing(path: Path) -> StageError:
    return StageError(f"{path}: missing; expected the diffusers folder of an SDXL model")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _missing(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise StageError(f"{path}: expected a JSON object")
    return value
