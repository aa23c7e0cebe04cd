"""A checkpoint in any layout, read as if it were its family's single file: header first, then any run of elements."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.errors import StageError
from repro.hashing import remembered_sha256
from repro.tensorfile import TensorSpec, tensor_bytes, torch_dtypes

import torch

from checkpoints.cascade_names import BARE_PARTS, EARLIER_PROJECTION, IN_PROJ, POOLED_MAPPER_OF_STAGE_B, PROJECTION
from checkpoints.diffusers_folder import DiffusersFolder, FolderConfigs, open_folder
from checkpoints.keymap import LOGIT_SCALE_VALUE, Part, SingleTensor, to_single_file
from checkpoints.model_family import CASCADE, MODEL_FAMILIES, ModelFamily, family_of_names
from checkpoints.schedule import MARKERS, Schedule
from checkpoints.tensor_reader import TensorFile, runs

PIECE = 1 << 18

# What no single file of the families holds: the beginnings of other models' tensor names.
STRANGERS = {
    "cond_stage_model.": "Stable Diffusion 1 or 2",
    "conditioner.embedders.0.model.": "the SDXL refiner",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    f"model.diffusion_model.{POOLED_MAPPER_OF_STAGE_B}.": "Stable Cascade, stage B, which is passed through and never merged",
    f"{POOLED_MAPPER_OF_STAGE_B}.": "Stable Cascade, stage B, which is passed through and never merged",
    "down_blocks.": "one part of a diffusers folder; name the folder itself",
    "text_model.": "one part of a diffusers folder; name the folder itself",
    "encoder.": "one part of a diffusers folder; name the folder itself",
    "lora_": "a LoRA or LoKr file; a LoKr is added with lokr(model, NAME, weight)",
    "lycoris_": "a LyCORIS file of a generic network",
}


class Checkpoint:
    """One model of a merge. `specs` has all tensors by single-file name of its `family`; `configs` is None for a single file.

    A file of Stability AI's with stage C or the image encoder alone is read as that part of a single file. `marked` is what a
    single file's marker tensors say (they are no part of `specs`); None without any, and for a folder.

    Args:
        source: a single file, a diffusers folder, or such a folder opened already.
    Raises:
        StageError: no such file or folder, not whole, or not a checkpoint of a family.
    """

    def __init__(self, source: Path | DiffusersFolder):
        is_open = isinstance(source, DiffusersFolder)
        self.path = source.configs.folder if is_open else Path(source)
        self.configs: FolderConfigs | None = None
        self.marked: Schedule | None = None
        if is_open or self.path.is_dir():
            folder = source if is_open else open_folder(self.path)
            self.configs, self.family = folder.configs, folder.configs.family
            self._tensors = folder.tensors
            self._single = self._of_folder(folder)
            self._digest: str | None = folder.sha256
        else:
            file = TensorFile(self.path)
            self._tensors = {"": {name: (file, name) for name in file.specs}}
            self.family, self._single = _of_single_file(file)
            self.marked = Schedule.from_markers(file.specs)
            self._digest = None
        self.specs: Mapping[str, TensorSpec] = {name: tensor.spec for name, tensor in self._single.items()}

    def _of_folder(self, folder: DiffusersFolder) -> dict[str, SingleTensor]:
        specs = {
            component: {name: file.specs[inner] for name, (file, inner) in tensors.items()}
            for component, tensors in folder.tensors.items()
        }
        try:
            return to_single_file(specs, self.family.layout(folder.configs.configs))
        except StageError as error:
            raise StageError(f"{self.path}: {error}") from None

    @property
    def sha256(self) -> str:
        """Of the single file's bytes; of a folder one digest of all weight files' sha256."""
        if self._digest is None:
            self._digest = remembered_sha256(self.path)
        return self._digest

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements start to stop of a tensor in single-file form: one dimension, in the type of its spec."""
        tensor = self._single[name]
        if not tensor.parts:  # logit_scale, which folders lack
            return torch.full((stop - start,), LOGIT_SCALE_VALUE, dtype=torch.float32).to(torch_dtypes()[tensor.spec.dtype])
        if len(tensor.parts) == 1:
            return self._read_part(tensor.parts[0], start, stop)
        size = tensor.spec.elements // len(tensor.parts)
        pieces = [
            self._read_part(part, max(start - i * size, 0), min(stop - i * size, size))
            for i, part in enumerate(tensor.parts)
            if start < (i + 1) * size and stop > i * size
        ]
        return torch.cat([piece.to(torch_dtypes()[tensor.spec.dtype]) for piece in pieces])

    def read_float32(self, name: str, start: int, stop: int) -> torch.Tensor:
        """As `read`, converted."""
        parts = self._single[name].parts
        if len(parts) == 1 and parts[0].form != "transposed":
            file, inner = self._tensors[parts[0].component][parts[0].name]
            return file.read_float32(inner, start, stop)
        return self.read(name, start, stop).float()

    def chunks(self, name: str, part: int = 0, parts: int = 1) -> Iterator[memoryview]:
        """The bytes of a tensor as stored, or of one of `parts` equal runs of its rows, in pieces."""
        size = self.specs[name].elements // parts
        for start, stop in runs(size, PIECE):
            yield tensor_bytes(self.read(name, part * size + start, part * size + stop))

    def _read_part(self, part: Part, start: int, stop: int) -> torch.Tensor:
        file, name = self._tensors[part.component][part.name]
        if part.form == "transposed":
            return file.whole(name).T.flatten()[start:stop]
        return file.read(name, start, stop)


def _of_single_file(file: TensorFile) -> tuple[ModelFamily, dict[str, SingleTensor]]:
    """The family of a file, and its tensors under the names that its family's single files have today.

    Raises:
        StageError: a tensor of another kind of model, or none of a family's.
    """
    before = next((prefix for mark, prefix in BARE_PARTS.items() if mark in file.specs), "")
    if before and not any(f".attention.{matrix}." in name for name in file.specs for matrix in IN_PROJ):
        return CASCADE, {before + name: _as_it_is(name, spec) for name, spec in file.specs.items()}
    _refuse_strangers(file)
    family = family_of_names(file.specs)
    single = {name: _as_it_is(name, spec) for name, spec in file.specs.items() if name not in MARKERS}
    if family is CASCADE and EARLIER_PROJECTION in single:
        spec = single.pop(EARLIER_PROJECTION).spec
        single[PROJECTION] = SingleTensor(TensorSpec(spec.dtype, spec.shape[::-1]), (Part("", EARLIER_PROJECTION, "transposed"),))
    return family, single


def _as_it_is(name: str, spec: TensorSpec) -> SingleTensor:
    return SingleTensor(spec, (Part("", name, "same"),))


def _refuse_strangers(file: TensorFile) -> None:
    """Raises:
    StageError: a tensor of another kind of model, or none of a family's."""
    for prefix, kind in STRANGERS.items():
        found = next((name for name in file.specs if name.startswith(prefix)), None)
        if found is not None:
            raise StageError(f"{file.path}: not an SDXL or Stable Cascade checkpoint: it holds '{found}' ({kind})")
    if not any(family.component_of(name) for name in file.specs for family in MODEL_FAMILIES.values()):
        raise StageError(
            f"{file.path}: not an SDXL or Stable Cascade checkpoint: none of its {len(file.specs)} tensors is of"
            " model.diffusion_model, conditioner.embedders, first_stage_model, text_encoder.clip_g or vae.encoder"
        )
