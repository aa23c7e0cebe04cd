"""catalogue.yaml: colours, hair shapes, styles, sprites and the characters that the sample run teaches."""

from functools import cache
from pathlib import Path
from typing import Any

from repro.params import read_yaml

CATALOGUE = Path(__file__).with_name("catalogue.yaml")


@cache
def catalogue() -> dict[str, Any]:
    """The whole catalogue, read once."""
    return read_yaml(CATALOGUE.read_text(encoding="utf-8"), CATALOGUE.name)


def words(text: str) -> list[str]:
    """Tags as written in the catalogue: separated by spaces."""
    return text.split()
