"""Which layers of a model get a LoKr, under which names and with which factors.

Every Linear and every ungrouped Conv2d inside the classes of the family's `LOKR_CLASSES`, of which the nearest enclosing one
decides the factor. Names are those of `checkpoints.model_family`, by which WebUI and ComfyUI find the layers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from repro.errors import StageError
from repro.params import FamilyName, Lokr

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from checkpoints.model_family import MODEL_FAMILIES
from families.family import Group, Modules, family

Layer = torch.nn.Linear | torch.nn.Conv2d


@dataclass(frozen=True)
class LokrTarget:
    """A layer that gets a LoKr: its name in the file, its group, its place in the component's module tree, its factor."""

    name: str
    group: Group
    component: str
    path: str
    layer: Layer
    factor: int


def lokr_targets(name: FamilyName, modules: Modules, lokr: Lokr, train_text: bool) -> list[LokrTarget]:
    """The layers that get a LoKr, text encoders first, each component's in the order of its modules.

    Args:
        name: the family; modules: its components by name, which may be on the meta device.
    Raises:
        StageError: a pattern of `by_name` matches no layer, or a layer has no name in the family's files.
    """
    of, file_name = family(name), _file_names(name, modules)
    targets, names, used = [], [], set()
    for component, group in of.GROUPS.items():
        for path, layer, setting in _layers_in_classes(modules[component], of.LOKR_CLASSES):
            names.append(file_name(component, path))
            pattern = next((pattern for pattern in lokr.by_name if re.fullmatch(pattern, names[-1])), None)
            used.add(pattern)
            factor = getattr(lokr, setting) if pattern is None else lokr.by_name[pattern]
            if factor is not None and (train_text or group != "text"):
                targets.append(LokrTarget(names[-1], group, component, path, layer, factor))
    if unused := [pattern for pattern in lokr.by_name if pattern not in used]:
        raise StageError(
            f"train.lokr.by_name: {unused[0]!r} matches the whole name of no layer, or patterns before it do;"
            f" names look like {names[-1]}"
        )
    return targets


def _file_names(name: FamilyName, modules: Modules) -> Callable[[str, str], str]:
    """How (component, path of a layer in it) is called in the family's LoKr files."""
    configs: dict[str, Mapping[str, Any]] = {}
    for part, module in modules.items():
        if isinstance(module, ModelMixin | PreTrainedModel):  # an image encoder may be of neither library
            configs[part] = module.config if isinstance(module, ModelMixin) else module.config.to_dict()
    layout = MODEL_FAMILIES[name].layout(configs)

    def file_name(component: str, path: str) -> str:
        found = layout.lokr_name(component, path)
        if found is None:
            raise StageError(f"{component}: layer '{path}' has no name in LoKr files of family {name}; is this such a model?")
        return found

    return file_name


def _layers_in_classes(model: torch.nn.Module, classes: Mapping[str, str]) -> Iterator[tuple[str, Layer, str]]:
    """(path, layer, setting) of each Linear and ungrouped Conv2d inside a module of one of the classes."""
    settings: dict[str, str | None] = {}
    for path, module in model.named_modules():
        inherited = settings.get(path.rpartition(".")[0])
        settings[path] = classes.get(type(module).__name__, inherited)
        if inherited is not None and isinstance(module, Layer) and getattr(module, "groups", 1) == 1:
            yield path, module, inherited
