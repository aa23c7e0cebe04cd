"""Which sizes of pictures a model can draw, from its folder's configs alone.

SDXL's sides are multiples of 8, which the parameters ask for. Of a side in pixels Stable Cascade's stage C has
ceil(side / resolution_multiple) latents and stage B int(those * latent_dim_scale), as diffusers' pipelines count; stage A makes
a whole number of pixels of each of them. Not every side comes back out of it: of the published model multiples of 128 do.
"""

import json
from collections.abc import Callable
from math import ceil
from pathlib import Path

from repro.errors import StageError
from repro.params import FamilyName, SampledPictures

from families.pipelines import pipeline_setting

# Where model_index.json says nothing: of a picture of 1024 pixels stage C has 24 latents, stage B 256.
RESOLUTION_MULTIPLE = 42.67
LATENT_DIM_SCALE = 10.67


def resolution_multiple(folder: Path) -> float:
    """Pixels a side of one of stage C's latents."""
    return pipeline_setting(folder, "resolution_multiple", RESOLUTION_MULTIPLE)


def latent_dim_scale(decoder: Path) -> float:
    """What a side of stage B's latents is of stage C's."""
    return pipeline_setting(decoder, "latent_dim_scale", LATENT_DIM_SCALE)


def stage_c_side(side: int, multiple: float) -> int:
    """A side of stage C's latents, from one in pixels."""
    return ceil(side / multiple)


def stage_b_side(side: int, scale: float) -> int:
    """A side of stage B's latents, from one of stage C's."""
    return int(side * scale)


def refuse_undrawable_size(folder: Path, family: FamilyName, settings: SampledPictures) -> None:
    """Raises:
    StageError: the model draws no picture of this size, or a config of it is missing or broken."""
    fits = {"sdxl": _sides_of_sdxl, "cascade": _sides_of_cascade}[family](Path(folder))
    for name, side in {"width": settings.width, "height": settings.height}.items():
        if not fits(side):
            nearest = [next(filter(fits, others), None) for others in (range(side - 1, 0, -1), range(side + 1, side + 1024))]
            listed = " or ".join(str(other) for other in nearest if other) or "another"
            raise StageError(f"{name} {side}: whole latents of {folder} make no picture of this side; choose {listed}")


def _sides_of_sdxl(folder: Path) -> Callable[[int], bool]:
    """Any side: the parameters ask for multiples of 8."""
    return lambda side: True


def _sides_of_cascade(folder: Path) -> Callable[[int], bool]:
    """Whether a side in pixels is what the model draws when asked for it, and stage B can cut its latents into patches."""
    decoder = folder / "decoder"
    multiple, scale = resolution_multiple(folder), latent_dim_scale(decoder)
    patch = _whole_number(decoder / "decoder" / "config.json", "patch_size")
    stage_a = decoder / "vqgan" / "config.json"
    pixels = _whole_number(stage_a, "up_down_scale_factor") * 2 ** (_whole_number(stage_a, "levels") - 1)

    def fits(side: int) -> bool:
        latents = stage_b_side(stage_c_side(side, multiple), scale)
        return latents * pixels == side and latents % patch == 0

    return fits


def _whole_number(path: Path, key: str) -> int:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
    except FileNotFoundError:
        raise StageError(f"{path}: missing; expected the decoder of a Stable Cascade folder") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StageError(f"{path}: no {key} can be read there: {error}") from None
    if not isinstance(value, int) or value < 1:
        raise StageError(f"{path}: {key} is {value!r}, expected a whole number above 0")
    return value
