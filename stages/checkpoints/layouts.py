"""Writing a model's tensors in either layout: the single file, or a diffusers folder."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from repro.errors import StageError
from repro.tensorfile import TensorSpec, stream_tensors, torch_dtypes

import torch

from checkpoints.diffusers_folder import FolderConfigs, write_folder
from checkpoints.keymap import ROWS, FolderTensor, Specs, to_diffusers
from checkpoints.schedule import Schedule

EPSILON = Schedule()
EMPTY = TensorSpec("F32", (0,))
FolderTensors = dict[str, dict[str, FolderTensor]]


class TensorSource(Protocol):
    """A model by single-file names: a Checkpoint or a Merge."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]: ...

    def chunks(self, name: str, part: int = 0, parts: int = 1) -> Iterator[memoryview]:
        """The bytes of a tensor, or of one of `parts` equal runs of its rows, in pieces."""


def write_single_file(
    path: Path, source: TensorSource, metadata: Callable[[str], Mapping[str, str]], schedule: Schedule = EPSILON
) -> str:
    """Write a single file whole, with the markers of its schedule; returns the data section's sha256.

    Args:
        metadata: see `stream_tensors`.
    """
    markers = dict.fromkeys(schedule.markers, EMPTY)
    return stream_tensors(
        path, {**source.specs, **markers}, lambda name: () if name in markers else source.chunks(name), metadata
    )


def write_diffusers(
    target: Path, source: TensorSource, configs: FolderConfigs, beside: Callable[[Path], None] | None = None
) -> None:
    """Write a diffusers folder whole.

    Args:
        beside: see `write_folder`.
    Raises:
        StageError: a tensor that the family's layout does not have, or configs of another model.
    """
    models = folder_tensors(source.specs, configs)
    write_folder(target, configs, _specs(models), lambda component, name: _folder_chunks(source, models[component][name]), beside)


def folder_tensors(single: Specs, configs: FolderConfigs) -> FolderTensors:
    """The tensors of the diffusers folder of a model, held against the configs that are to stand beside them.

    Raises:
        StageError: a tensor that the family's layout does not have, or configs of another model.
    """
    models = to_diffusers(single, configs.family.layout_of_names(single.keys()))
    require_configs(configs, _specs(models))
    return models


def _specs(models: FolderTensors) -> dict[str, dict[str, TensorSpec]]:
    return {component: {name: tensor.spec for name, tensor in tensors.items()} for component, tensors in models.items()}


def _folder_chunks(source: TensorSource, tensor: FolderTensor) -> Iterator[memoryview]:
    place = tensor.place
    if place.form == "rows":
        yield from source.chunks(place.name, place.part, len(ROWS))
    elif place.form == "transposed":
        matrix = torch.frombuffer(bytearray().join(source.chunks(place.name)), dtype=torch.uint8)
        rows = matrix.view(torch_dtypes()[tensor.spec.dtype]).reshape(tensor.spec.shape[::-1])
        yield memoryview(rows.T.contiguous().flatten().view(torch.uint8).numpy())
    else:
        yield from source.chunks(place.name)


def require_configs(
    configs: FolderConfigs,
    models: Mapping[str, Mapping[str, TensorSpec]],
    advice: str = "give the configs of this model (--configs)",
) -> None:
    """Check that a folder's configs are those of the tensors that are to stand beside them.

    Raises:
        StageError: a tensor that the configs call for is missing, has another shape, or is one too many.
    """
    shapes = configs.family.expected_shapes(configs.configs, str(configs.folder))
    unknown = next((component for component, tensors in models.items() if tensors and component not in shapes), None)
    if unknown:
        raise StageError(f"{configs.folder}: no {unknown}/config.json in it, and the model has tensors of {unknown} (--configs)")
    for component, expected in shapes.items():
        floats = {name: spec.shape for name, spec in models[component].items() if spec.is_float}
        for name in sorted(expected.keys() | floats.keys()):
            needed, found = expected.get(name), floats.get(name)
            if needed != found:
                raise StageError(
                    f"{configs.folder / component / 'config.json'} calls for {_tensor(name, needed)}; the model has"
                    f" {_tensor(name, found)}: {advice}"
                )


def _tensor(name: str, shape: tuple[int, ...] | None) -> str:
    return f"no tensor '{name}'" if shape is None else f"'{name}' of shape {list(shape)}"
