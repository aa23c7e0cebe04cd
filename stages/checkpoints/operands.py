"""The files of a merge, opened and held against each other by their headers, before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repro.errors import StageError
from repro.tensorfile import TensorSpec

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import FolderConfigs
from checkpoints.formula import Formula, complain_of_name
from checkpoints.keymap import Place, lokr_places
from checkpoints.lokr import LokrFile
from checkpoints.model_family import ModelFamily
from checkpoints.schedule import Schedule

Unmatched = Literal["refuse", "copy", "drop"]
SHOWN = 3


@dataclass(frozen=True)
class Operands:
    """A formula's checkpoints and LoKr files by name, in the order in which the formula names them."""

    models: dict[str, Checkpoint]
    lokrs: dict[str, LokrFile]

    @property
    def family(self) -> ModelFamily:
        return next(iter(self.models.values())).family

    @property
    def hashes(self) -> dict[str, str]:
        return {name: operand.sha256 for name, operand in (self.models | self.lokrs).items()}

    def schedule(self, configs: FolderConfigs | None) -> Schedule:
        """What the merged model predicts: as the first model's markers say, else the configs, else as SDXL."""
        marked = next(iter(self.models.values())).marked
        return marked or (configs.schedule if configs else Schedule())


@dataclass(frozen=True)
class Landed:
    """A LoKr module and the tensor, or the third of it, that it changes."""

    module: str
    place: Place


def open_operands(formula: Formula, paths: Mapping[str, Path]) -> Operands:
    """Open the files that a formula names.

    Raises:
        StageError: a name without a file; a file that is missing, broken or not of the kind that its place needs; models of
            several families.
    """
    for name in (*formula.models, *formula.lokrs):
        if name not in paths:
            known = f"there are {', '.join(sorted(paths))}" if paths else "no models are given"
            complain_of_name(formula, name, f"no file is given for '{name}' ({known}); add --model {name}=FILE")
    models = {name: Checkpoint(paths[name]) for name in formula.models}
    first, *others = models.items()
    for name, model in others:
        if model.family is not first[1].family:
            titles = f"'{first[0]}' is {first[1].family.title} and '{name}' is {model.family.title}"
            complain_of_name(formula, name, f"{titles} ({model.path}); models of two families cannot be merged")
    return Operands(models, {name: LokrFile(paths[name]) for name in formula.lokrs})


def match_tensors(models: Mapping[str, Checkpoint], unmatched: Unmatched) -> dict[str, tuple[str, ...]]:
    """{tensor: the models that have it}, of all tensors that the merge makes.

    Every model must have every float tensor, in one shape. Integers (position ids) may be missing anywhere. What not all
    have is refused, or, with `unmatched` "copy", taken from the first model that has it, or left out with "drop".

    Raises:
        StageError: names the first tensors that are missing, additional or of another shape, and where.
    """
    holders: dict[str, tuple[str, ...]] = {}
    for model, checkpoint in models.items():
        for name in checkpoint.specs:
            holders[name] = (*holders.get(name, ()), model)
    faults = []
    for name, having in sorted(holders.items()):
        specs = {model: models[model].specs[name] for model in having}
        first = specs[having[0]]
        other = next((model for model, spec in specs.items() if not _alike(first, spec)), None)
        if other is not None:
            faults.append(f"'{name}' is {_words(first)} in {having[0]} and {_words(specs[other])} in {other}")
        elif first.is_float and len(having) < len(models) and unmatched == "refuse":
            lacking = next(model for model in models if model not in having)
            faults.append(f"'{name}' is in {having[0]} and not in {lacking} ({models[lacking].path})")
    if faults:
        hint = "; --unmatched copy takes such tensors from the model that has them, drop leaves them out"
        raise StageError(f"the models' tensors differ: {listed(faults)}{hint if ' and not in ' in faults[0] else ''}")
    if unmatched == "drop":
        return {n: having for n, having in holders.items() if len(having) == len(models) or not _is_float(models, n, having)}
    return holders


def _is_float(models: Mapping[str, Checkpoint], name: str, having: tuple[str, ...]) -> bool:
    return models[having[0]].specs[name].is_float


def _alike(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether two headers mean the same numbers: any float types; one number may be stored with or without a dimension."""
    return (a.shape or (1,)) == (b.shape or (1,)) and (a.dtype == b.dtype or (a.is_float and b.is_float))


def _words(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def listed(faults: Sequence[str]) -> str:
    """The first few faults, and how many more there are."""
    more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
    return "; ".join(faults[:SHOWN]) + more


def land_modules(lokr: LokrFile, specs: Mapping[str, TensorSpec], family: ModelFamily) -> dict[str, list[Landed]]:
    """{tensor: the modules of a LoKr file that change it}, of a model of the family; a fused in_proj takes up to three, one for
    each third.

    Raises:
        StageError: a module lands on no weight, or on one of another shape, or two land on the same one.
    """
    layout = family.layout_of_names(specs.keys())
    places = lokr_places((name for name, spec in specs.items() if spec.is_float and len(spec.shape) > 1), layout)
    landed: dict[str, list[Landed]] = {}
    taken: dict[tuple[str, int], str] = {}
    for module in lokr.modules:
        place = places.get(module)
        if place is None:
            raise StageError(
                f"{lokr.path}: module '{module}' lands on no weight of this model; was it trained on another architecture?"
            )
        other = taken.setdefault((place.name, place.part), module)
        if other != module:
            raise StageError(f"{lokr.path}: modules '{other}' and '{module}' both land on {place.name}; which one is meant?")
        _require_shape(lokr, module, place, specs[place.name].shape)
        landed.setdefault(place.name, []).append(Landed(module, place))
    return landed


def _require_shape(lokr: LokrFile, module: str, place: Place, shape: tuple[int, ...]) -> None:
    """Raises:
    StageError: the module's change is not of the shape of its place in a tensor of `shape`."""
    needed = place.shape_in_folder(shape)
    found = lokr.shape(module)
    # A low-rank convolution comes as a matrix [out, in*k*k].
    if found != needed and _as_matrix(found) != _as_matrix(needed):
        raise StageError(
            f"{lokr.path}: module '{module}' gives a change of shape {list(found)}; {place.name} needs {list(needed)}"
        )


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    columns = 1
    for n in shape[1:]:
        columns *= n
    return shape[0], columns
