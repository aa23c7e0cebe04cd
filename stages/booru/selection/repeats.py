"""Repeats: how often a post occurs in an epoch (the card of SoteDiffusion repeats its 120K best pictures five times)."""

from typing import NamedTuple

from repro.params import Repeat

import numpy as np
import polars as pl

from booru.selection.conditions import Condition, all_met, conditions_of


class RepeatRule(NamedTuple):
    """Posts that meet all conditions occur `extra` times more."""

    conditions: list[Condition]
    extra: int


def repeat_rules(settings: list[Repeat], tags: pl.DataFrame) -> list[RepeatRule]:
    """The rules of the parameters.

    Raises:
        StageError: a tag that the metadata does not have.
    """
    return [RepeatRule(conditions_of(s, tags, f"select.repeats.{i}"), s.extra) for i, s in enumerate(settings)]


def repeats_of(posts: pl.DataFrame, rules: list[RepeatRule]) -> np.ndarray:
    """By post (i32): once, and once more for each extra of every rule that it meets."""
    repeats = np.ones(posts.height, dtype=np.int32)
    for rule in rules:
        repeats += np.int32(rule.extra) * all_met(rule.conditions, posts)
    return repeats
