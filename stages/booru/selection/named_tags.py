"""Tags that a person names in the parameters: looked up by name, with the nearest names where there is none."""

import difflib

from repro.errors import StageError

import numpy as np
import polars as pl

from booru.selection.distinct import sorted_distinct
from booru.tags import by_tag_id

NEAREST = 3
# difflib looks at one name at a time; these keep it from looking at a million.
SAME_START, SAME_END, LENGTH_DIFFERENCE = 2, 3, 3


class NamedTags:
    """A set of tag names, ready to be counted on posts.

    Args:
        names: names as the metadata writes them; a name that several tags have means any of them.
        tags: the tag table.
        key: the parameter that holds the names, for errors.

    Raises:
        StageError: a name that no tag has; tells the nearest.
    """

    def __init__(self, names: list[str], tags: pl.DataFrame, key: str):
        self.names = sorted(set(names))
        named = tags.filter(pl.col("name").is_in(self.names))
        if unknown := [name for name in names if name not in set(named["name"].to_list())]:
            raise StageError(f"{key}: the metadata has no tag '{unknown[0]}'; {_advice(unknown[0], tags)}")
        numbers = named["name"].replace_strict({name: i for i, name in enumerate(self.names)}, return_dtype=pl.Int32)
        self._number_of = by_tag_id(tags, np.full(tags.height, -1, dtype=np.int32), default=-1)
        self._number_of[named["id"].to_numpy()] = numbers.to_numpy()

    def held(self, tags: pl.Series) -> np.ndarray:
        """By post (an element of `tags`, List[i32]) how many of the names it has; a doubled tag counts once."""
        number = self._number_of[tags.explode(empty_as_null=False).to_numpy()]
        rows = np.repeat(np.arange(len(tags)), tags.list.len().to_numpy())
        hits = number >= 0
        pairs = sorted_distinct(rows[hits] * len(self.names) + number[hits])
        return np.bincount(pairs // len(self.names), minlength=len(tags))


def _advice(name: str, tags: pl.DataFrame) -> str:
    near = nearest_names(name, tags["name"])
    return f"the nearest are {', '.join(near)}" if near else "names are written with underscores, as Danbooru has them"


def nearest_names(name: str, names: pl.Series) -> list[str]:
    """Up to three of `names` that look like `name`, the nearest first."""
    asked = name.strip().lower().replace(" ", "_")
    alike = names.str.starts_with(asked[:SAME_START]) | names.str.ends_with(asked[-SAME_END:])
    length = names.str.len_chars().cast(pl.Int64)
    candidates = names.filter(alike & length.is_between(len(asked) - LENGTH_DIFFERENCE, len(asked) + LENGTH_DIFFERENCE))
    return difflib.get_close_matches(asked, candidates.unique(maintain_order=True).sort().to_list(), NEAREST)
