"""The map between the two layouts of a model: the diffusers folder, and the single file that WebUI and ComfyUI open.

A family's table says where each module or tensor of the folder stands in the single file (sdxl_names.py, cascade_names.py).
A row renames a module (everything below it keeps its name) or one tensor. Four kinds of tensor differ by more than their name:

  same        as it is
  transposed  text_projection: a matrix that multiplies from the right there, a Linear's weight here
  conv1x1     attention of SDXL's VAE: 1x1 convolutions there, Linear here
  rows        q, k, v of an attention: the three thirds of one in_proj there

transformers 5.6 and later drop `text_model.` from a text encoder's names, which `canonical_text_name` puts back.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from repro.errors import StageError
from repro.tensorfile import TensorSpec

Form = Literal["same", "transposed", "conv1x1", "rows"]
Specs = Mapping[str, TensorSpec]

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# The parts of a tensor of form "rows", from top to bottom.
ROWS = ("q", "k", "v")
# CLIP's temperature, which a text encoder never uses: ln(100), where its training clips it.
LOGIT_SCALE_VALUE = math.log(100.0)


@dataclass(frozen=True)
class Place:
    """Where a diffusers tensor stands in the single file: its name there and its form; `part` 0, 1, 2 is q, k, v."""

    name: str
    form: Form = "same"
    part: int = 0

    def shape_in_folder(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The diffusers tensor's shape where the single file's is `shape`.

        Raises:
            StageError: the single file's is not of this place's form.
        """
        if self.form == "transposed" and len(shape) == 2:
            return shape[::-1]
        if self.form == "conv1x1" and shape[2:] == (1, 1):
            return shape[:2]
        if self.form == "rows" and shape and shape[0] % len(ROWS) == 0:
            return (shape[0] // len(ROWS), *shape[1:])
        if self.form == "same":
            return shape
        raise StageError(f"tensor '{self.name}' has shape {list(shape)}, which is not that of its single-file layout")


def _longest_prefix(table: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """(row of the table, rest of the name) for the longest dotted beginning of `name` that has a row."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        row = ".".join(parts[:n])
        if row in table:
            return row, name[len(row) :]
    return None


@dataclass(frozen=True)
class Layout:
    """The map between the two layouts of one model.

    Args:
        title: of the family, for errors. places: {component: {module or tensor of the folder: its place}}, each without the
            component's `single_file_prefix`. lokr_prefix: what a LoKr file calls the components that have LoKrs.
        lokr_path: (component, path of a layer, place of its weight) -> how LoKr files call it after the prefix.
        logit_scale: CLIP's temperature, in the single file only, and the component whose type it has. left_out: beginnings of
            names that single files may have and folders have not, logit_scale among them.
    """

    title: str
    places: Mapping[str, Mapping[str, Place]]
    single_file_prefix: Mapping[str, str]
    lokr_prefix: Mapping[str, str]
    lokr_path: Callable[[str, str, Place], str]
    logit_scale: str
    logit_scale_of: str
    left_out: tuple[str, ...]

    @cached_property
    def _sources(self) -> dict[str, dict[str, list[tuple[str, Place]]]]:
        sources: dict[str, dict[str, list[tuple[str, Place]]]] = {}
        for component, rows in self.places.items():
            back = sources[component] = {}
            for ours, place in rows.items():
                back.setdefault(place.name, []).append((ours, place))
        return sources

    def place(self, component: str, name: str) -> Place | None:
        """Where the diffusers tensor `name` of a component stands in the single file; None where it has no place."""
        table = self.places[component]
        found = _longest_prefix(table, name)
        if found is None:
            return None
        row = table[found[0]]
        return Place(self.single_file_prefix[component] + row.name + found[1], row.form, row.part)

    def sources(self, name: str) -> list[tuple[str, str, Place]]:
        """(component, diffusers name, place) of each diffusers tensor that makes up the single file's tensor `name`."""
        component = component_of(name, self.single_file_prefix)
        if component is None:
            return []
        inner = name.removeprefix(self.single_file_prefix[component])
        found = _longest_prefix(self._sources[component], inner)
        if found is None:
            return []
        row, rest = found
        return [(component, ours + rest, Place(name, place.form, place.part)) for ours, place in self._sources[component][row]]

    def lokr_name(self, component: str, path: str) -> str | None:
        """How a LoKr file that WebUI and ComfyUI open calls the layer at `path` of a component's modules; None where the
        layer's weight has no place in the single file."""
        if component in TEXT_ENCODERS:
            path = canonical_text_name(f"{path}.weight").removesuffix(".weight")
        place = self.place(component, f"{path}.weight")
        if place is None:
            return None
        return self.lokr_prefix[component] + self.lokr_path(component, path, place).replace(".", "_")


def component_of(name: str, single_file_prefix: Mapping[str, str]) -> str | None:
    """The component (folder name in diffusers) that a single file's tensor belongs to."""
    return next((component for component, prefix in single_file_prefix.items() if name.startswith(prefix)), None)


def canonical_text_name(name: str) -> str:
    """A text encoder's tensor name in the older spelling: with `text_model.`, as folders are written and single files want."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


@dataclass(frozen=True)
class Part:
    """A diffusers tensor as a part of a single file's tensor."""

    component: str
    name: str
    form: Form


@dataclass(frozen=True)
class SingleTensor:
    """A single file's tensor and what it is made of: one part, or q, k and v one below the other; none for logit_scale."""

    spec: TensorSpec
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class FolderTensor:
    """A folder's tensor and where it stands in the single file."""

    spec: TensorSpec
    place: Place


def to_single_file(models: Mapping[str, Specs], layout: Layout) -> dict[str, SingleTensor]:
    """The tensors of a diffusers model under their single-file names and shapes, with logit_scale added.

    Args:
        models: {component: {diffusers name: spec}}. layout: the model's map.
    Raises:
        StageError: a tensor that has no place in the single file, or an in_proj of which a part is missing.
    """
    found: dict[str, dict[int, tuple[Part, TensorSpec]]] = {}
    for component, specs in models.items():
        for name, spec in specs.items():
            place = layout.place(component, name)
            if place is None or place.part in found.get(place.name, ()) or (found.get(place.name) and place.form != "rows"):
                raise StageError(
                    f"{component}: tensor '{name}' has no place in the single file of {layout.title}; is this such a model?"
                )
            found.setdefault(place.name, {})[place.part] = (Part(component, name, place.form), spec)
    single = {name: _composed(name, [parts[part] for part in sorted(parts)]) for name, parts in found.items()}
    text = models.get(layout.logit_scale_of, {})
    dtype = next((spec.dtype for spec in text.values() if spec.is_float), "F32")
    return single | ({layout.logit_scale: SingleTensor(TensorSpec(dtype, ()), ())} if text else {})


def _composed(name: str, parts: list[tuple[Part, TensorSpec]]) -> SingleTensor:
    forms, specs = [part.form for part, _ in parts], [spec for _, spec in parts]
    shape = specs[0].shape
    if forms[0] == "rows":
        if len(parts) != len(ROWS) or any(spec.shape != shape for spec in specs):
            component = parts[0][0].component
            raise StageError(f"{component}: {name} needs q, k and v of one shape, and not all are there")
        shape = (len(parts) * shape[0], *shape[1:])
    elif forms[0] != "same" and len(shape) != 2:
        raise StageError(f"{parts[0][0].component}: tensor '{parts[0][0].name}' has shape {list(shape)}; expected a matrix")
    elif forms[0] == "transposed":
        shape = shape[::-1]
    elif forms[0] == "conv1x1":
        shape = (*shape, 1, 1)
    dtypes = {spec.dtype for spec in specs}
    return SingleTensor(TensorSpec(dtypes.pop() if len(dtypes) == 1 else "F32", shape), tuple(part for part, _ in parts))


def to_diffusers(single: Specs, layout: Layout) -> dict[str, dict[str, FolderTensor]]:
    """The inverse of `to_single_file`: {component: {diffusers name: tensor}}, without what the layout leaves out.

    Raises:
        StageError: a tensor that is not the family's, or not of the shape that its place has.
    """
    models: dict[str, dict[str, FolderTensor]] = {component: {} for component in layout.single_file_prefix}
    for name, spec in single.items():
        if name.startswith(layout.left_out):
            continue
        sources = layout.sources(name)
        if not sources:
            raise StageError(f"tensor '{name}' is not one of {layout.title}'s single-file layout")
        for component, ours, place in sources:
            models[component][ours] = FolderTensor(TensorSpec(spec.dtype, place.shape_in_folder(spec.shape)), place)
    return models


def lokr_places(names: Iterable[str], layout: Layout) -> dict[str, Place]:
    """{LoKr module name: place} for every spelling by which a file may name the weights `names` of a single file.

    Spellings: the layout's own (kohya on its own UNet, ComfyUI: the single file's block names), kohya or LyCORIS on diffusers
    modules, and the text encoders of transformers 5.6 and later (without `text_model`). Text encoders are named by their
    diffusers modules in all of them, so a LoKr of q_proj meets one third of a fused in_proj.
    """
    places: dict[str, Place] = {}
    for name in names:
        for component, ours, place in layout.sources(name):
            if component not in layout.lokr_prefix or not ours.endswith(".weight"):
                continue
            path = ours.removesuffix(".weight")
            for spelling in (path, path.removeprefix("text_model."), layout.lokr_path(component, path, place)):
                places[layout.lokr_prefix[component] + spelling.replace(".", "_")] = place
    return places
