"""A checkpoint in any layout, read as if it were SDXL's single file: header first, then any run of elements."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.errors import StageError
from repro.hashing import remembered_sha256
from repro.tensorfile import TensorSpec, tensor_bytes, torch_dtypes

import torch

from checkpoints.diffusers_folder import DiffusersFolder, FolderConfigs, open_folder
from checkpoints.keymap import (
    LOGIT_SCALE,
    LOGIT_SCALE_VALUE,
    Architecture,
    Layout,
    Part,
    SingleTensor,
    component_of,
    to_single_file,
)
from checkpoints.schedule import MARKERS, Schedule
from checkpoints.tensor_reader import TensorFile, runs

PIECE = 1 << 18

# What no SDXL single file holds: the beginnings of other models' tensor names.
STRANGERS = {
    "cond_stage_model.": "Stable Diffusion 1 or 2",
    "conditioner.embedders.0.model.": "the SDXL refiner",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "clip_txt_pooled_mapper.": "Stable Cascade, stage C",
    "down_blocks.": "one part of a diffusers folder; name the folder itself",
    "text_model.": "one part of a diffusers folder; name the folder itself",
    "encoder.": "one part of a diffusers folder; name the folder itself",
    "lora_": "a LoRA or LoKr file; a LoKr is added with lokr(model, NAME, weight)",
    "lycoris_": "a LyCORIS file of a generic network",
}


class Checkpoint:
    """One model of a merge. `specs` has all tensors by single-file name; `configs` is None for a single file.

    `marked` is what a single file's marker tensors say (they are no part of `specs`); None without any, and for a folder.

    Args:
        source: a single file, a diffusers folder, or such a folder opened already.
    Raises:
        StageError: no such file or folder, not whole, or not an SDXL checkpoint.
    """

    def __init__(self, source: Path | DiffusersFolder):
        is_open = isinstance(source, DiffusersFolder)
        self.path = source.configs.folder if is_open else Path(source)
        self.configs: FolderConfigs | None = None
        self.marked: Schedule | None = None
        if is_open or self.path.is_dir():
            folder = source if is_open else open_folder(self.path)
            self.configs = folder.configs
            self._tensors = folder.tensors
            self._single = self._of_folder(folder)
            self._digest: str | None = folder.sha256
        else:
            file = TensorFile(self.path)
            _refuse_strangers(file)
            self.marked = Schedule.from_markers(file.specs)
            specs = {name: spec for name, spec in file.specs.items() if name not in MARKERS}
            self._tensors = {"": {name: (file, name) for name in specs}}
            self._single = {name: SingleTensor(spec, (Part("", name, "same"),)) for name, spec in specs.items()}
            self._digest = None
        self.specs: Mapping[str, TensorSpec] = {name: tensor.spec for name, tensor in self._single.items()}

    def _of_folder(self, folder: DiffusersFolder) -> dict[str, SingleTensor]:
        specs = {
            component: {name: file.specs[inner] for name, (file, inner) in tensors.items()}
            for component, tensors in folder.tensors.items()
        }
        try:
            return to_single_file(specs, Layout(Architecture.from_configs(folder.configs.configs)))
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
        if name == LOGIT_SCALE and not tensor.parts:
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


def _refuse_strangers(file: TensorFile) -> None:
    """Raises:
    StageError: a tensor of another kind of model, or none of SDXL's."""
    for prefix, kind in STRANGERS.items():
        found = next((name for name in file.specs if name.startswith(prefix)), None)
        if found is not None:
            raise StageError(f"{file.path}: not an SDXL checkpoint: it holds '{found}' ({kind})")
    if not any(component_of(name) for name in file.specs):
        raise StageError(
            f"{file.path}: not an SDXL checkpoint: none of its {len(file.specs)} tensors is of model.diffusion_model,"
            " conditioner.embedders or first_stage_model"
        )
