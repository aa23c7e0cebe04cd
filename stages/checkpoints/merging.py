"""Adding a LoKr to a checkpoint, in single-file names.

The numeric contract: W and the factors as float32, kron(w1, w2), times alpha / rank where that is not 1, times the
weight, plus W; every step a separate float32 operation, rounded once to the precision of the output. No lerp, addcmul
or add(alpha=): they fuse on some CPUs, and weights that lie on float16's lattice make exact ties that a fused step
or another order rounds the other way.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from repro.errors import StageError

import torch

from checkpoints.keymap import SINGLE_FILE_PREFIX, Layout, Place, component_of, lokr_places
from checkpoints.lokr import LokrModule

PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
ROW_PARTS = 3


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint: tensors by single-file name; per component, how many modules were added and how many tensors
    came out different from the base's, rounded to the same precision."""

    tensors: dict[str, torch.Tensor]
    modules: dict[str, int]
    changed: dict[str, int]


def merge_lokr(
    base: Mapping[str, torch.Tensor],
    lokr: Mapping[str, LokrModule],
    weight: float,
    dtype: torch.dtype,
    layout: Layout,
    base_name: str,
    lokr_name: str,
) -> Merged:
    """base + weight * lokr, rounded to `dtype`; tensors that are not floating-point are kept as they are.

    Args:
        base: tensors by single-file name. lokr: modules by name. weight: of the whole LoKr.
        layout: gives the LoKr names of the base's weights. base_name, lokr_name: files, for the errors.
    Raises:
        StageError: a module that lands on no weight, two on the same one, a shape that differs, NaN or inf in the
            base or the result (float16 ends at 65504), or a merge that changes nothing at all.
    """
    landed = land_modules(base, lokr, layout, base_name, lokr_name)
    tensors: dict[str, torch.Tensor] = {}
    changed: Counter[str] = Counter()
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            tensors[name] = tensor
            continue
        before = round_to(tensor, dtype, f"{base_name}: tensor '{name}'")
        if name not in landed:
            tensors[name] = before
            continue
        value = tensor.float().clone()
        for module, place in landed[name]:
            _add_in_place(value, module, place, weight, f"{lokr_name}: module '{module.name}'")
        by = ", ".join(module.name for module, _ in landed[name])
        tensors[name] = round_to(value, dtype, f"{base_name}: tensor '{name}' with {by} of {lokr_name} added")
        changed[component_of(name)] += not torch.equal(before, tensors[name])
    if weight != 0 and not changed.total():
        raise StageError(f"{lokr_name}: adding it changes no tensor of {base_name} (is it untrained?); nothing to merge")
    modules = Counter(component_of(name) for name, parts in landed.items() for _ in parts)
    return Merged(tensors, _by_component(modules), _by_component(changed))


def _by_component(counts: Counter[str]) -> dict[str, int]:
    return {component: counts[component] for component in SINGLE_FILE_PREFIX}


def land_modules(
    base: Mapping[str, torch.Tensor], lokr: Mapping[str, LokrModule], layout: Layout, base_name: str, lokr_name: str
) -> dict[str, list[tuple[LokrModule, Place]]]:
    """{single-file name: the modules that change this tensor}; a fused in_proj takes up to three, one for each third.

    Raises:
        StageError: a module lands on no weight of the base, or two land on the same one.
    """
    places = lokr_places((name for name, tensor in base.items() if tensor.ndim > 1), layout)
    landed: dict[str, list[tuple[LokrModule, Place]]] = {}
    taken: dict[tuple[str, int], str] = {}
    for module in lokr.values():
        place = places.get(module.name)
        if place is None:
            raise StageError(
                f"{lokr_name}: module '{module.name}' lands on no weight of {base_name}; was it trained on another architecture?"
            )
        other = taken.setdefault((place.name, place.part), module.name)
        if other != module.name:
            raise StageError(f"{lokr_name}: modules '{other}' and '{module.name}' both land on {place.name}; which one is meant?")
        landed.setdefault(place.name, []).append((module, place))
    return landed


def _add_in_place(value: torch.Tensor, module: LokrModule, place: Place, weight: float, what: str) -> None:
    """value + weight * delta on the rows of `place`; `value` is float32 and in the single file's form."""
    rows = value.chunk(ROW_PARTS)[place.part] if place.form == "rows" else value
    delta = module.delta()
    if place.form == "transposed":
        delta = delta.T
    # A low-rank convolution comes as a matrix [out, in*k*k].
    if delta.shape != rows.shape and delta.flatten(1).shape != rows.flatten(1).shape:
        raise StageError(f"{what} gives a change of shape {list(delta.shape)}; {place.name} needs {list(rows.shape)}")
    rows.copy_(rows + delta.reshape(rows.shape) * weight)


def round_to(tensor: torch.Tensor, dtype: torch.dtype, what: str) -> torch.Tensor:
    """The tensor in another precision, rounded once to nearest even.

    Raises:
        StageError: NaN or inf in it, or a value that the precision cannot hold; the text starts with `what`.
    """
    if not torch.isfinite(tensor).all():
        raise StageError(f"{what} holds NaN or inf; nothing was written")
    rounded = tensor.to(dtype)
    if not torch.isfinite(rounded).all():
        largest = tensor.float().abs().max().item()
        raise StageError(f"{what}: {largest:.6g} does not fit {str(dtype).removeprefix('torch.')}; set merge.precision to fp32")
    return rounded
