"""The generated pictures: which are made, by which model, and each kept as soon as it is there."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.pictures import save_png

from PIL import Image

from ccip.prompts import PictureRequest
from ccip.sources import PictureSource

if TYPE_CHECKING:
    from families.sdxl import Sdxl


@dataclass(frozen=True)
class Sampling:
    """How every picture is sampled; sizes in pixels, the original ones as the model is told them."""

    negative_prompt: str
    steps: int
    guidance: float
    width: int
    height: int
    original_width: int
    original_height: int


@dataclass(frozen=True)
class PictureJob:
    """One request to one model, and where its picture is kept."""

    model: str
    folder: Path
    request: PictureRequest
    file: Path


def check_model_folders(models: dict[str, Path]) -> None:
    """Notice a missing model before hours of pictures by the other one.

    Raises:
        StageError: no model_index.json in a model's folder.
    """
    for name, folder in models.items():
        if not (folder / "model_index.json").is_file():
            raise StageError(f"{folder}: no model_index.json; the {name} model must be a diffusers folder")


def picture_jobs(models: dict[str, Path], requests: list[PictureRequest], state: Path) -> list[PictureJob]:
    """Every request to every model, model by model, so that a process holds one model at a time."""
    return [
        PictureJob(name, folder, request, state / name / f"{i:06d}.png")
        for name, folder in models.items()
        for i, request in enumerate(requests)
    ]


def picture_sources(jobs: Iterable[PictureJob], sampling: Sampling) -> list[PictureSource]:
    """The jobs' pictures, in order; opening one that is not kept yet makes and keeps it.

    Neither the process nor the pictures already there reach the bytes: each picture is computed by itself.
    Opening raises StageError when a model cannot be loaded or gives latents that are not finite.
    """
    return [
        PictureSource(
            f"{job.model}'s picture {job.request.number} of {job.request.character}",
            functools.partial(_open_picture, sampling, job),
        )
        for job in jobs
    ]


def _open_picture(sampling: Sampling, job: PictureJob) -> Image.Image:
    if not job.file.exists():
        save_png(_make_picture(sampling, job), job.file)
    with Image.open(job.file) as image:
        image.load()
        return image


def _make_picture(sampling: Sampling, job: PictureJob) -> Image.Image:
    from families.sdxl import Sizes, decode_picture, sample_latents

    model = _model(job.folder)
    sizes = Sizes(sampling.original_height, sampling.original_width, 0, 0, sampling.height, sampling.width)
    latents = sample_latents(
        model, job.request.prompt, sampling.negative_prompt, job.request.seed, sizes, sampling.steps, sampling.guidance
    )
    if not latents.isfinite().all():
        raise StageError(
            f"{job.folder}: sampling '{job.request.prompt}' gave values that are not finite; the model's weights are broken"
        )
    return decode_picture(model, latents)


@functools.lru_cache(maxsize=1)
def _model(folder: Path) -> "Sdxl":
    """The model that this process holds. Torch is imported here: the processes that only hand out work or
    open kept pictures need not wait for it."""
    from families.sdxl import load_sdxl

    fix_torch()
    return load_sdxl(folder)
