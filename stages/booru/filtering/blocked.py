"""Blocked tags: posts with any of them are dropped before every other rule is asked."""

from functools import cache
from pathlib import Path

from repro.params import read_yaml

import polars as pl

KIN_FILE = Path(__file__).with_name("blocked_kin.yaml")


@cache
def kin_of_tags() -> dict[str, list[str]]:
    """{tag: narrower tags whose meaning includes it}."""
    return read_yaml(KIN_FILE.read_text(encoding="utf-8"), KIN_FILE.name)


def with_kin(blocked: list[str]) -> set[str]:
    """The blocked names and, through any number of steps, the narrower tags that include them."""
    names: set[str] = set()
    waiting = list(blocked)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting.extend(kin_of_tags().get(name, []))
    return names


def blocked_ids(tags: pl.DataFrame, blocked: list[str]) -> list[int]:
    """Ids of the tags (of any type) with a blocked name. Names are compared whole, as the booru spells them: sidecars and
    custom words may have capitals, and spaces for underscores."""
    spelled = pl.col("name").str.to_lowercase().str.replace_all(" ", "_", literal=True)
    return tags.filter(spelled.is_in(sorted(with_kin(blocked))))["id"].to_list()
