"""What stands in a single file's header, and the digests by which people name a file.

ModelSpec 1.0.0 (Stability-AI/ModelSpec): `modelspec.hash_sha256` is 0x and the sha256 of everything after the header.
AutoV2 (WebUI, Civitai) is the first ten digits of the whole file's sha256, so it changes with any metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

SPEC = "1.0.0"
ARCHITECTURE = "stable-diffusion-xl-v1-base"
IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"
AUTOV2_DIGITS = 10


def modelspec(
    title: str, author: str, date: str, license: str, resolution: int, prediction_type: str, data_sha256: str
) -> dict[str, str]:
    """ModelSpec's keys for an SDXL checkpoint; `date` is the recipe's, never the clock's; `resolution` in pixels a side."""
    return {
        "modelspec.sai_model_spec": SPEC,
        "modelspec.architecture": ARCHITECTURE,
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": title,
        "modelspec.author": author,
        "modelspec.date": date,
        "modelspec.license": license,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": prediction_type,
        "modelspec.hash_sha256": f"0x{data_sha256}",
    }


def merge_recipe(formula: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """How the file was made: the formula and the sha256 of each model it names, as one JSON text."""
    recipe: dict[str, Any] = {"formula": formula, "models": dict(inputs)}
    return {"merge_recipe": json.dumps(recipe, sort_keys=True, ensure_ascii=False)}


def autov2(file_sha256: str) -> str:
    return file_sha256[:AUTOV2_DIGITS]
