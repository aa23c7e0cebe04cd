"""A model as a diffusers folder: opening one, and writing one canonically, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, check_manifest, hash_tree, remembered_sha256, sha256_json, write_manifest
from repro.outputs import json_text, whole_folder
from repro.tensorfile import TensorSpec, stream_tensors

import torch

from checkpoints.keymap import TEXT_ENCODERS, canonical_text_name
from checkpoints.model_family import MODEL_FAMILIES, ModelFamily
from checkpoints.schedule import Schedule
from checkpoints.tensor_reader import HeldTensors, TensorFile

DEFAULT_RESOLUTION = 1024
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
# Names of folders on the machine that saved the model: they change nothing and tell on it.
PRIVATE_KEYS = ("_name_or_path",)
# A constant 0..76 that older transformers saved; SDXL's second text encoder's has no place in a single file.
UNUSED = {"text_encoder_2": "text_model.embeddings.position_ids"}


@dataclass(frozen=True)
class FolderConfigs:
    """All of a diffusers folder that is not weights: `configs` by component, and "scheduler"; the folders that are `copied` as
    they are, by their names in the family's folder."""

    folder: Path
    family: ModelFamily
    configs: dict[str, dict[str, Any]]
    copied: Mapping[str, Path]

    @property
    def resolution(self) -> int:
        """Pixels a side that a UNet's config states; both families' own where it states none."""
        size = self.configs.get("unet", {}).get("sample_size")
        if not isinstance(size, int):
            return DEFAULT_RESOLUTION
        return size * 2 ** (len(self.configs["vae"]["down_block_types"]) - 1)

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


def read_configs(folder: Path, families: Sequence[ModelFamily] = tuple(MODEL_FAMILIES.values())) -> FolderConfigs:
    """Read the configs of a diffusers folder of one of the families; its weights need not be there.

    Raises:
        StageError: not such a pipeline's folder, or a config or tokenizer is missing or broken.
    """
    folder = Path(folder)
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    family = next((family for family in families if family.pipeline == pipeline), None)
    if family is None:
        expected = " or ".join(family.pipeline for family in families)
        raise StageError(f"{folder}: its model_index.json says {pipeline}; expected a folder of {expected}")
    present = [part for part in family.weights if part not in family.optional or (folder / part).is_dir()]
    configs = {component: read_json(folder / component / "config.json") for component in present}
    configs["scheduler"] = read_json(folder / SCHEDULER_CONFIG)
    for tokenizer in family.tokenizers:
        for name in TOKENIZER_FILES:
            if not (folder / tokenizer / name).is_file():
                raise _missing(folder / tokenizer / name)
    family.expected_shapes(configs, str(folder))
    copied = {name: folder / name for name in family.passed_through if (folder / name / "model_index.json").is_file()}
    return FolderConfigs(folder, family, configs, copied)


def open_folder(folder: Path, families: Sequence[ModelFamily] = tuple(MODEL_FAMILIES.values())) -> DiffusersFolder:
    """Open a diffusers folder of one of the families; a folder with a manifest is checked against it.

    Raises:
        StageError: not such a pipeline's folder, or a file of it is missing, broken or changed.
    """
    configs = read_configs(folder, families)
    folder, family = configs.folder, configs.family
    manifest = check_manifest(folder)["files"] if (folder / MANIFEST_NAME).exists() else {}
    tensors: dict[str, dict[str, tuple[TensorFile, str]]] = {}
    hashes = {}
    for component in present_components(configs):
        found = tensors[component] = {}
        paths, promised = _weight_files(folder / component / family.weights[component])
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
        shards = read_json(index).get("weight_map")
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
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a diffusers folder with the configs, scheduler, tokenizers and copied folders of `configs`, whole, with a manifest.

    JSON is written with sorted keys and without the saving machine's folder names; what is copied stays as it is, byte for byte.

    Args:
        models: {component: {name: spec}}. chunks: gives a tensor's bytes by component and name, see `stream_tensors`.
        beside: writes what else shall stand in the folder, which it is given.
    """
    with whole_folder(target) as folder:
        (folder / "model_index.json").write_text(_canonical(_index_of_what_is_written(configs)))
        digests = {}
        for component in present_components(configs):
            file = configs.family.weights[component]
            (folder / component).mkdir()
            config = _with_dtype(configs.configs[component], models[component])
            (folder / component / "config.json").write_text(_canonical(config))
            digests[component] = stream_tensors(
                folder / component / file,
                models[component],
                lambda name, component=component: chunks(component, name),
                lambda _: {"format": "pt"},
            )
        for tokenizer in configs.family.tokenizers:
            shutil.copytree(configs.folder / tokenizer, folder / tokenizer, copy_function=shutil.copyfile)
        (folder / SCHEDULER_CONFIG).parent.mkdir()
        (folder / SCHEDULER_CONFIG).write_text(_canonical(configs.configs["scheduler"]))
        for name, source in configs.copied.items():
            _copy_pipeline(source, folder / name)
            digests[name] = sha256_json(hash_tree(folder / name))
        if beside:
            beside(folder)
        write_manifest(folder, sha256_json(digests))


def present_components(configs: FolderConfigs) -> list[str]:
    """The components that the folder has, in the family's order."""
    return [component for component in configs.family.weights if component in configs.configs]


def _index_of_what_is_written(configs: FolderConfigs) -> dict[str, Any]:
    """The source's model_index.json, with null for optional parts that are not written (a prior's CLIP image encoder)."""
    written = {*present_components(configs), *configs.family.tokenizers, "scheduler"}
    index = read_json(configs.folder / "model_index.json")
    return {
        key: [None, None] if isinstance(value, list) and len(value) == 2 and key not in written else value
        for key, value in index.items()
    }


def _copy_pipeline(source: Path, target: Path) -> None:
    """Copy a pipeline's model_index.json and the folders that it names: published folders hold other models beside them."""
    target.mkdir()
    shutil.copyfile(source / "model_index.json", target / "model_index.json")
    for name, component in sorted(read_json(source / "model_index.json").items()):
        if isinstance(component, list) and component[0] is not None:
            shutil.copytree(source / name, target / name, copy_function=shutil.copyfile)


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
    return StageError(f"{path}: missing; expected the diffusers folder of a whole model")


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _missing(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise StageError(f"{path}: expected a JSON object")
    return value
