"""Which layers of an SDXL model get a LoKr, under which names and with which factors.

lycoris-lora 4.1.3's rule (`LycorisNetworkKohya`) with convolutions on: every Linear and Conv2d inside
Transformer2DModel, ResnetBlock2D, Downsample2D and Upsample2D of the UNet and inside CLIPAttention and CLIPMLP of the
text encoders; the nearest enclosing class of `CLASS_SETTINGS` decides the factor. Names are those of kohya's trainer
(sd-scripts 48d368fa), which numbers the UNet's blocks as the single file does: WebUI and ComfyUI open them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from repro.errors import StageError
from repro.params import Lokr

import torch

from checkpoints.keymap import LOKR_PREFIX, SINGLE_FILE_PREFIX, Architecture, Layout, canonical_text_name

# The setting of train.lokr for each module class of diffusers and transformers.
CLASS_SETTINGS = {
    "Attention": "unet_attention",
    "FeedForward": "unet_feed_forward",
    "ResnetBlock2D": "unet_resnet",
    "Downsample2D": "unet_resnet",
    "Upsample2D": "unet_resnet",
    "Transformer2DModel": "unet_projection",
    "CLIPAttention": "text_attention",
    "CLIPMLP": "text_mlp",
}
# Group of trained weights by component, text encoders first.
GROUPS = {"text_encoder": "text", "text_encoder_2": "text", "unet": "unet"}
Layer = torch.nn.Linear | torch.nn.Conv2d


@dataclass(frozen=True)
class LokrTarget:
    """A layer that gets a LoKr: its name in the file, its place in the component's module tree, its factor."""

    name: str
    component: str
    path: str
    layer: Layer
    factor: int

    @property
    def group(self) -> str:
        return GROUPS[self.component]


def lokr_targets(models: Mapping[str, torch.nn.Module], lokr: Lokr, train_text: bool) -> list[LokrTarget]:
    """The layers that get a LoKr, text encoders first, each component's in the order of its modules.

    Args:
        models: unet, text_encoder, text_encoder_2 and vae by name; they may be on the meta device.
    Raises:
        StageError: a pattern of `by_name` matches no layer, or a UNet that is not SDXL's.
    """
    configs = {part: models[part].config for part in ("unet", "vae")}
    configs["text_encoder_2"] = models["text_encoder_2"].config.to_dict()
    layout = Layout(Architecture.from_configs(configs))
    targets, used = [], set()
    for component in GROUPS:
        for path, layer, setting in _layers_in_classes(models[component]):
            name = _file_name(component, path, layout)
            pattern = next((pattern for pattern in lokr.by_name if re.fullmatch(pattern, name)), None)
            used.add(pattern)
            factor = getattr(lokr, setting) if pattern is None else lokr.by_name[pattern]
            if factor is not None and (train_text or GROUPS[component] != "text"):
                targets.append(LokrTarget(name, component, path, layer, factor))
    if unused := [pattern for pattern in lokr.by_name if pattern not in used]:
        raise StageError(
            f"train.lokr.by_name: {unused[0]!r} matches the whole name of no layer, or patterns before it do;"
            " names look like lora_unet_middle_block_1_proj_in"
        )
    return targets


def _layers_in_classes(model: torch.nn.Module) -> Iterator[tuple[str, Layer, str]]:
    """(path, layer, setting) of each Linear and Conv2d inside a module of a class of `CLASS_SETTINGS`."""
    settings: dict[str, str | None] = {}
    for path, module in model.named_modules():
        inherited = settings.get(path.rpartition(".")[0])
        settings[path] = CLASS_SETTINGS.get(type(module).__name__, inherited)
        if inherited is not None and isinstance(module, Layer):
            yield path, module, inherited


def _file_name(component: str, path: str, layout: Layout) -> str:
    if component == "unet":
        place = layout.place("unet", f"{path}.weight")
        if place is None:
            raise StageError(f"unet: layer '{path}' has no place in SDXL's single file; is this an SDXL model?")
        path = place.name.removeprefix(SINGLE_FILE_PREFIX["unet"]).removesuffix(".weight")
    else:
        path = canonical_text_name(path)
    return LOKR_PREFIX[component] + path.replace(".", "_")
