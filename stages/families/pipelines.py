"""What a diffusers folder's model_index.json says: which family's model it holds, and the pipeline's own settings."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.params import FamilyName

INDEX = "model_index.json"
# Beginning of the names of the pipelines' classes.
PIPELINES: dict[FamilyName, str] = {"sdxl": "StableDiffusionXL", "cascade": "StableCascade"}


def refuse_other_family(folder: Path, family: FamilyName) -> None:
    """Raises:
    StageError: the folder has no model_index.json that can be read, or it names a pipeline that is not of the family."""
    path = Path(folder) / INDEX
    try:
        pipeline = json.loads(path.read_text(encoding="utf-8")).get("_class_name")
    except FileNotFoundError:
        raise StageError(f"{folder}: no {INDEX}; expected a diffusers folder") from None
    except (OSError, ValueError, AttributeError) as error:
        raise StageError(f"{path}: cannot be read as a pipeline's index: {error}") from None
    if not str(pipeline).startswith(PIPELINES[family]):
        raise StageError(f"{path}: a {pipeline}, but family is {family}: give a {PIPELINES[family]} folder, or set family to its")


def pipeline_setting(folder: Path, key: str, default: float) -> float:
    """The number that a diffusers folder's model_index.json gives for `key`, or the default where it says nothing.

    Raises:
        StageError: the file cannot be read, or the value is no number above 0.
    """
    path = folder / INDEX
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get(key, default)
    except (OSError, ValueError, AttributeError) as error:
        raise StageError(f"{path}: cannot be read as a diffusers folder's index: {error}") from None
    if not isinstance(value, int | float) or not value > 0:
        raise StageError(f"{path}: {key} is {value!r}, expected a number above 0")
    return value
