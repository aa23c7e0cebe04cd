"""Which characters captions name, by the booru's names.

Captions whose characters are whole words of the metadata's tag table tell it themselves. Those whose names are expanded into
pieces, or come from a tagger, have a column `characters` beside: List[u32] of rows of CHARACTERS_FILE, whose column `name` has
each character that these captions could name once.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from booru.captioning.captions import PostWords
from booru.lists import lists_of
from booru.tags import TAG_TYPES

CHARACTERS_FILE = "characters.parquet"
CHARACTERS_COLUMN = "characters"


@dataclass(frozen=True)
class NamedCharacters:
    """Characters of a tag table: their names, and by the table's rows their places among these (-1: no character)."""

    names: pl.Series
    place_of_row: np.ndarray

    def lists(self, tags: PostWords, place: int, posts: int) -> pl.Series:
        """Of each of the posts its characters, in the caption's order.

        Args:
            tags: the posts' words as rows of the tag table; place: that of the part `character`.
        """
        chosen = tags.part == place
        characters = pl.Series(self.place_of_row[tags.word[chosen]]).cast(pl.UInt32)
        return lists_of(tags.row[chosen], characters, posts).alias(CHARACTERS_COLUMN)


def named_characters(tags: pl.DataFrame) -> NamedCharacters:
    """The characters of a tag table (id, name, type), in its order; a name that stands twice is one character."""
    is_character = (tags["type"] == TAG_TYPES.index("character")).to_numpy()
    own = tags["name"].filter(pl.Series(is_character))
    names = own.unique(maintain_order=True)
    place_of_row = np.full(tags.height, -1, dtype=np.int64)
    place_of_row[is_character] = own.replace_strict(names, pl.int_range(len(names), eager=True), return_dtype=pl.Int64).to_numpy()
    return NamedCharacters(names, place_of_row)
