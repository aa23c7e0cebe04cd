"""What is trained: a LoKr on a frozen model, or the model's own weights.

Groups are `text` (rate te_lr) and `unet` (rate lr), whatever the family calls its components. A text rate of 0 leaves text
encoders as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from repro.devices import TORCH_TYPES
from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import FamilyName, Lokr, Params
from repro.randomness import seed_for
from repro.tensorfile import TensorSpec

import torch

from families.family import Model, Modules, family
from training.lokr_layers import LokrConv2d, LokrLayer, LokrLinear, lokr_shapes
from training.lokr_targets import LokrTarget, lokr_targets

NamedParameters = list[tuple[str, torch.nn.Parameter]]
FILE_DTYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
W1, W2, ALPHA = "lokr_w1", "lokr_w2", "alpha"


@dataclass
class Trained:
    """The trained parameters by group, text first, under their names in the file; a group that is not trained is absent."""

    groups: dict[str, NamedParameters]
    folded_layers: list[LokrLayer] = field(default_factory=list)

    def fold(self) -> None:
        """Bring what the forward pass reads up to date; before the first forward pass and after every change of the
        trained numbers."""
        for layer in self.folded_layers:
            layer.fold()

    def finish_gradients(self) -> None:
        """Complete the parameters' gradients, which must be tensors to add to, after the backward passes of one virtual rank."""
        for layer in self.folded_layers:
            layer.unfold_gradient()


def make_trained(model: Model, params: Params) -> Trained:
    """Put what `train.method` trains into the model, its frozen weights in the recipe's precision.

    Raises:
        StageError: nothing to train but text encoders, a `by_name` pattern that matches no layer, or not a model of the family.
    """
    fix_torch()
    modules = family(params.family).modules_of(model)
    trained = _all_weights(modules, params) if params.train.method == "full" else _attach_lokr(modules, params)
    if not trained.groups.get("unet"):
        (component,) = trained_components(params.family, train_text=False)
        raise StageError(f"train.method {params.train.method}: found nothing to train in the {component}")
    return trained


def trained_components(name: FamilyName, train_text: bool) -> list[str]:
    """The components of a family whose weights are trained, text encoders, if asked, first."""
    return [component for component, group in family(name).GROUPS.items() if group == "unet" or train_text]


def _all_weights(modules: Modules, params: Params) -> Trained:
    groups: dict[str, NamedParameters] = {}
    for component in trained_components(params.family, params.te_lr > 0):
        parameters = ((f"{component}.{name}", parameter) for name, parameter in modules[component].named_parameters())
        groups.setdefault(family(params.family).GROUPS[component], []).extend(parameters)
    return Trained(groups)


def _attach_lokr(modules: Modules, params: Params) -> Trained:
    """A LoKr layer in the place of each target; w1 is drawn from a generator keyed by the layer's name."""
    settings = params.train
    for component in family(params.family).GROUPS:
        _hold_frozen_weights_in(TORCH_TYPES[settings.precision], modules[component])
    trained = Trained({})
    for target in lokr_targets(params.family, modules, settings.lokr, params.te_lr > 0):
        kind = LokrLinear if isinstance(target.layer, torch.nn.Linear) else LokrConv2d
        layer = kind(target.layer, target.factor, settings.precision, seed_for(params.seed, "lokr w1", target.name))
        modules[target.component].set_submodule(target.path, layer)
        trained.groups.setdefault(target.group, []).extend([(f"{target.name}.{W1}", layer.w1), (f"{target.name}.{W2}", layer.w2)])
        if layer.folded is not None:
            trained.folded_layers.append(layer)
    return trained


def _hold_frozen_weights_in(dtype: torch.dtype, model: torch.nn.Module) -> None:
    """Linear and Conv2d only: norms and embeddings are computed in float32, and are small."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            # Not module.to(): it cannot be done to the fake tensors of training/memory.py.
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(weight.to(dtype), requires_grad=False))


def lokr_tensors(trained: Mapping[str, torch.Tensor], file_dtype: str) -> dict[str, torch.Tensor]:
    """What a LoKr file holds of the trained tensors, in `file_dtype`: also an alpha for each layer, which readers must ignore
    where both matrices are full (it is 1, so that no type turns it into infinity)."""
    dtype = TORCH_TYPES[file_dtype]
    tensors = {name: tensor.to(dtype, copy=True) for name, tensor in trained.items()}
    layers = [name.removesuffix(W1) for name in trained if name.endswith(W1)]
    return tensors | {layer + ALPHA: torch.ones((), dtype=dtype) for layer in layers}


def lokr_specs(targets: list[LokrTarget], file_dtype: str) -> dict[str, TensorSpec]:
    """Type and shape of each tensor of the LoKr file for these layers."""
    specs = {}
    for target in targets:
        w1, w2 = lokr_shapes(tuple(target.layer.weight.shape), target.factor)
        for part, shape in ((W1, w1), (W2, w2), (ALPHA, ())):
            specs[f"{target.name}.{part}"] = TensorSpec(FILE_DTYPES[file_dtype], shape)
    return specs


@dataclass(frozen=True)
class LokrSize:
    """Trained numbers, and the bytes of all tensors of the file (its header adds about 120 for each tensor)."""

    numbers: int
    tensor_bytes: int


def lokr_size(name: FamilyName, modules: Modules, lokr: Lokr, train_text: bool, file_dtype: str) -> LokrSize:
    """How large a LoKr on a family's components is; no weight is read, so that they may be on the meta device."""
    specs = lokr_specs(lokr_targets(name, modules, lokr, train_text), file_dtype)
    numbers = sum(spec.elements for tensor, spec in specs.items() if not tensor.endswith(ALPHA))
    return LokrSize(numbers, sum(spec.byte_count for spec in specs.values()))
