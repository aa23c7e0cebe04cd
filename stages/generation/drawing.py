"""Drawing the requested pictures, each kept as soon as it is there.

A picture is computed by itself: one prompt pair at a time, noise from its request's seed. So neither the other pictures nor
the number of processes reaches its bits, and a run that was killed goes on at the first picture that is not kept.
"""

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro.cost import RunCost
from repro.devices import Device, device_of_this_process
from repro.errors import StageError
from repro.hashing import sha256_json
from repro.numerics import fix_torch
from repro.params import FamilyName, Generation, Precision
from repro.pictures import save_png
from repro.processes import run_here_or_there
from repro.progress import Progress

from families.picture_sizes import refuse_undrawable_size
from families.pipelines import refuse_other_family
from generation.requests import PictureRequest

if TYPE_CHECKING:
    from families.family import Model as LoadedModel

# Pictures after which the cost so far is written down.
PICTURES_A_NOTE = 50


@dataclass(frozen=True)
class Model:
    """A diffusers folder of a family, its name among those compared, and the digest of its files."""

    name: str
    family: FamilyName
    folder: Path
    digest: str


@dataclass(frozen=True)
class PictureJob:
    """One request to one model, and where its picture is kept."""

    model: Model
    request: PictureRequest
    file: Path


# The model that this process holds, and what it was asked for with; at most one.
_held: dict[tuple[Model, Device, Precision], "LoadedModel"] = {}


def check_model_folders(models: dict[str, Path], family: FamilyName, generation: Generation) -> None:
    """Notice a missing model, or one of another family or of other sizes, before hours of pictures by the other one.

    Raises:
        StageError: a model's folder is no diffusers folder of the family, or draws no pictures of the size that is asked for.
    """
    for name, folder in models.items():
        try:
            refuse_other_family(folder, family)
            refuse_undrawable_size(folder, family, generation)
        except StageError as error:
            raise StageError(f"the {name} model: {error}") from None


def picture_jobs(models: Sequence[Model], requests: Sequence[PictureRequest], state: Path) -> list[PictureJob]:
    """Every request to every model, model by model, so that a process holds one model at a time.

    A picture is kept under what decides it, so that a run with other models beside, or of more characters, finds it.
    Requests may share one: by name and core tags of a character that has none.
    """
    return [
        PictureJob(model, request, state / model.digest / f"{sha256_json([request.prompt, request.seed])}.png")
        for model in models
        for request in requests
    ]


def missing_jobs(jobs: Iterable[PictureJob]) -> list[PictureJob]:
    """A job for each picture that is not kept yet."""
    return [job for job in _one_a_picture(jobs) if not job.file.exists()]


def _one_a_picture(jobs: Iterable[PictureJob]) -> Collection[PictureJob]:
    return {job.file: job for job in jobs}.values()


def draw_pictures(jobs: Sequence[PictureJob], generation: Generation, device: Device, processes: int, cost: RunCost) -> None:
    """Draw and keep the pictures that are not there yet; on GPUs the processes share these out. `cost` is told now and then.

    Raises:
        StageError: a model cannot be loaded, or gives values that are not finite.
    """
    missing, pictures = missing_jobs(jobs), len(_one_a_picture(jobs))
    progress = Progress("generate", pictures, "pictures", done=pictures - len(missing))
    for drawn, _ in enumerate(run_here_or_there(functools.partial(_draw, generation, device), missing, processes), start=1):
        progress.advance()
        if drawn % PICTURES_A_NOTE == 0 or drawn == len(missing):
            cost.note(drawn)


def _draw(generation: Generation, device: Device, job: PictureJob) -> None:
    # Late, here and in `_load`: it takes seconds, and a process that only hands out work does without.
    from families.family import family

    model = _held_model(job.model, device, generation.precision)
    try:
        picture = family(job.model.family).draw_picture(model, job.request.prompt, job.request.seed, generation)
    except StageError as error:
        raise StageError(f"{job.model.folder}: {error}") from None
    save_png(picture, job.file)


def _held_model(model: Model, device: Device, precision: Precision) -> "LoadedModel":
    """The model, which this process holds until it is asked for another one: there is memory for one only."""
    wanted = (model, device, precision)
    if wanted not in _held:
        _let_go()
        _held[wanted] = _load(model, device, precision)
    return _held[wanted]


def _let_go() -> None:
    """Give the memory of the model back, on a GPU also what torch would keep for later."""
    import torch

    _held.clear()
    torch.cuda.empty_cache()


def _load(model: Model, device: Device, precision: Precision) -> "LoadedModel":
    from families.family import family

    fix_torch()
    return family(model.family).load(model.folder, str(device_of_this_process(device)), precision)
