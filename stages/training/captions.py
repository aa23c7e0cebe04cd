"""The caption an image gets in one epoch: tags shuffled and dropped behind the kept part.

The rules and the order of draws are those of sd-scripts (48d368fa, `process_caption`): first a whole caption is dropped
with probability caption_dropout, then the general tags are shuffled, then each of them is kept with probability
1 - tag_dropout; the kept part stays whole and in order. A rate of 0 takes no draw.
"""

from collections.abc import MutableSequence
from typing import Protocol

from repro.params import Train


class Draws(Protocol):
    """Where randomness comes from: a `Stream`, or any source with these two."""

    def uniform(self) -> float:
        """A number in [0, 1)."""

    def shuffle(self, items: MutableSequence[str]) -> None:
        """Shuffle in place."""


def training_caption(keep: list[str], general: list[str], settings: Train, draws: Draws) -> str:
    """The text that one entry of an epoch gets: kept tags, then the surviving general tags."""
    if settings.caption_dropout > 0 and draws.uniform() < settings.caption_dropout:
        return ""
    tags = list(general)
    if settings.shuffle_tags:
        draws.shuffle(tags)
    if settings.tag_dropout > 0:
        tags = [tag for tag in tags if draws.uniform() >= settings.tag_dropout]
    return ", ".join([*keep, *tags])
