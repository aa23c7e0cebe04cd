"""Core tags: those general tags of a character that tell its looks, whatever it wears and does.

The idea, and the share of a character's pictures from which on a tag counts, are those of deepghs' character index, whose
prompts for Kohaku XL Delta's scores named them; the rule over names is our own and stands in core_tags.yaml.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from repro.params import read_yaml

import numpy as np
import polars as pl

from booru.tags import TAG_TYPES

RULES_FILE = Path(__file__).with_name("core_tags.yaml")


@cache
def _rules() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """The names that count as they stand, and by part the words that may stand before it."""
    rules = read_yaml(RULES_FILE.read_text(encoding="utf-8"), RULES_FILE.name)
    return frozenset(rules["whole"]), {part: frozenset(words + rules["any"]) for part, words in rules["parts"].items()}


def tells_looks(name: str) -> bool:
    """Whether a general tag of this name tells what a character looks like."""
    whole, parts = _rules()
    *before, part = name.split("_")
    return name in whole or (part in parts and parts[part].issuperset(before))


def looks(tags: pl.DataFrame) -> np.ndarray:
    """By row of a tag table (name, type) whether it is a general tag that tells looks."""
    found = (tags["type"] == TAG_TYPES.index("general")).to_numpy().copy()
    rows = np.flatnonzero(found)
    found[rows] = [tells_looks(name) for name in tags["name"].gather(rows)]
    return found


def core_tags(counted: Iterable[tuple[str, int]], posts: int, share: float) -> tuple[str, ...]:
    """Of tags that tell looks, with the number of a character's `posts` that have each, those on at least `share` of the
    posts, by count (descending), then by name."""
    enough = sorted((-count, name) for name, count in counted if count / posts >= share)
    return tuple(name for _, name in enough)
