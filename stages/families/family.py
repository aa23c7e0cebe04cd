"""What the stages ask of a model family. The modules `families.sdxl` and `families.cascade` answer, each for its own models.

What a layer is called in a file is not asked here: that is the checkpoints package's, which drawing pictures does without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from repro.errors import StageError
from repro.params import FamilyName, Precision, SampledPictures, Train
from repro.randomness import Stream

import torch
from PIL import Image

from families.text_cache import TextCache

Group = Literal["text", "unet"]
Modules = Mapping[str, torch.nn.Module]


@dataclass(frozen=True)
class Sizes:
    """What SDXL is told about a picture, in pixels; Stable Cascade is told nothing."""

    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    target_height: int
    target_width: int


@dataclass
class Batch:
    """One micro-batch, on the CPU: scaled latents and noise [n, c, h, w]; timesteps [n], as the family draws them: int64, or
    float64 where they are no whole numbers."""

    ids: list[int]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    captions: list[str]
    sizes: list[Sizes]


class LossWeights(Protocol):
    """The weight of a loss by its timestep.

    `state` is what of it changes while training goes on, float32 on the CPU, or None where nothing does, and then nobody calls
    `follow`; who saves a run saves it, and puts it back by copying into it.
    """

    state: torch.Tensor | None

    def of(self, timesteps: torch.Tensor) -> torch.Tensor:
        """float32 [n], on the device that the object was made for; `timesteps` [n] as the family draws them."""

    def follow(self, timesteps: torch.Tensor, losses: torch.Tensor) -> None:
        """Take in the unweighted losses (CPU, [n]) of one micro-batch of an update that is done; the same on every process."""


class Model(Protocol):
    """A loaded model: weights float32 without gradients unless who trains changes that.

    `precision` is what the trained parts compute in. With a `text_cache`, which needs text encoders that do not change, the
    losses encode captions one at a time and without gradients.
    """

    device: torch.device
    precision: Precision
    text_cache: TextCache | None


class Family(Protocol):
    """A family's module.

    GROUPS: the group of each component whose weights can be trained, text encoders first; a component is a folder of the
    diffusers folder and a key of `modules`. LOKR_CLASSES: setting of train.lokr for each class of modules.
    """

    GROUPS: Mapping[str, Group]
    LOKR_CLASSES: Mapping[str, str]

    def load(self, folder: Path, device: str = "cpu", precision: Precision = "fp32", draws: bool = True) -> Model:
        """Load a diffusers folder; without `draws`, what only `draw_picture` needs may stay away."""

    def empty_modules(self, folder: Path) -> dict[str, torch.nn.Module]:
        """The components that training holds, by the folder's configs, weights as torch's surrounding context makes them."""

    def empty_drawing_modules(self, folder: Path) -> list[torch.nn.Module]:
        """What a picture needs beside those, likewise."""

    def assemble(self, folder: Path, modules: Modules, precision: Precision) -> Model:
        """A model of these modules with the folder's tokenizers, on the CPU."""

    def modules_of(self, model: Model) -> dict[str, torch.nn.Module]:
        """The loaded components by name."""

    def move_to(self, model: Model, device: torch.device) -> None:
        """Move the parts; parameters stay the same objects. What only draws may wait for the first picture."""

    def put_drawing_away(self, model: Model) -> None:
        """Free the device of what only draws, until the next picture."""

    def checkpoint_gradients(self, model: Model) -> None:
        """Have the backward pass compute activations again."""

    def latent_shape(self, modules: Modules, bucket: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a bucket (width, height) in pixels."""

    def latent_scale(self, modules: Modules) -> float:
        """What cached latents are multiplied by."""

    def draw_timestep(self, draws: Stream) -> int | float:
        """One timestep of training."""

    def loss_weights(self, model: Model, settings: Train, device: torch.device) -> LossWeights:
        """The weights that the recipe asks for."""

    def losses(self, model: Model, batch: Batch, settings: Train) -> torch.Tensor:
        """Unweighted losses of a micro-batch, float32 [n], on the model's device."""

    def draw_picture(self, model: Model, prompt: str, seed: int, settings: SampledPictures) -> Image.Image:
        """One picture, from noise that depends on `seed` alone, drawn on the CPU.

        Raises:
            StageError: the model gives values that are not finite.
        """


def family(name: FamilyName) -> Family:
    """The family of the parameters' `family`; its module is imported here, since that takes seconds."""
    return import_module(f"families.{name}")


def refuse_not_finite(values: torch.Tensor, what: str, precision: Precision) -> None:
    """Raises:
    StageError: some of a picture's latents or pixels are not finite; `what` stands in the error before "gave values"."""
    if not values.isfinite().all():
        beyond = ", or beyond the range of fp16" if precision == "fp16" else ""
        raise StageError(f"{what} gave values that are not finite; the model's weights are broken{beyond}")
