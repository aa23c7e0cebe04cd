"""What stands in a single file's header, and the digests by which people name a file.

ModelSpec 1.0.1 (Stability-AI/ModelSpec; as sd-scripts writes it): `modelspec.hash_sha256` is 0x and the sha256 of everything
after the header. AutoV2 (WebUI, Civitai) is the first ten digits of the whole file's sha256, so it changes with any metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

from checkpoints.model_family import ModelFamily

SPEC = "1.0.1"
AUTOV2_DIGITS = 10


def modelspec(
    family: ModelFamily,
    title: str,
    merged_from: str | None,
    resolution: int,
    prediction_type: str,
    data_sha256: str,
    stated: Mapping[str, str],
) -> dict[str, str]:
    """ModelSpec's keys for a checkpoint.

    Args:
        merged_from: names of the models, with commas; None for what is no merge. resolution: pixels a side.
        data_sha256: of all after the header.
        stated: what else the recipe states, by ModelSpec's name (author, date, license); a date is the recipe's, never
            the clock's.
    """
    return {
        "modelspec.sai_model_spec": SPEC,
        "modelspec.architecture": family.architecture,
        "modelspec.implementation": family.implementation,
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": prediction_type,
        **({} if merged_from is None else {"modelspec.merged_from": merged_from}),
        "modelspec.hash_sha256": f"0x{data_sha256}",
        **{f"modelspec.{key}": value for key, value in stated.items()},
    }


def merge_recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    """How the file was made (formula, precision, each model's sha256), as one JSON text."""
    return {"merge_recipe": json.dumps(recipe, sort_keys=True, ensure_ascii=False)}


def autov2(file_sha256: str) -> str:
    return file_sha256[:AUTOV2_DIGITS]
