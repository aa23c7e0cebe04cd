"""Tag types, the tag table and the rule that turns a tag's name into caption text.

Enumerations and rules: HakuBooru revision 3b00e14 (the types are Danbooru's tag categories).
"""

from repro.errors import StageError

import numpy as np
import polars as pl

# Index = value of tag.type; the first five are the database's, custom words come from image folders' sidecars.
TAG_TYPES = ("general", "artist", "character", "copyright", "meta", "custom")
DATABASE_TAG_TYPES = TAG_TYPES[:5]
# Lookups by tag id are dense arrays; Danbooru's ids stay far below this.
MAX_TAG_ID = 50_000_000
SHORT_NAME = 3
# What Python's str.strip() takes for space; polars' own notion lacks the four separators from \x1c.
_SPACES = "".join(chr(c) for c in range(0x3001) if chr(c).isspace())


def check_tags(tags: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return the tag table (id, name, type, popularity) unchanged after checking ids and types.

    Raises:
        StageError: an id outside 0..50,000,000 or a type that the database does not have (0..4); names the tag.
    """
    bad = tags.filter(~pl.col("id").is_between(0, MAX_TAG_ID)).head(1)
    if bad.height:
        raise StageError(f"{where}: tag id {bad['id'][0]} ('{bad['name'][0]}') is outside 0..{MAX_TAG_ID}")
    bad = tags.filter(~pl.col("type").is_between(0, len(DATABASE_TAG_TYPES) - 1)).head(1)
    if bad.height:
        known = ", ".join(f"{i} {name}" for i, name in enumerate(DATABASE_TAG_TYPES))
        raise StageError(
            f"{where}: tag {bad['id'][0]} ('{bad['name'][0]}') has the unknown type {bad['type'][0]}; known: {known}"
        )
    return tags


def caption_names(names: pl.Series) -> pl.Series:
    """Names as captions write them: underscores become spaces, except in names of up to three
    characters (emoticons such as ^_^); brackets are not escaped. All-blank names become null."""
    text = pl.when(names.str.len_chars() > SHORT_NAME).then(names.str.replace_all("_", " ", literal=True)).otherwise(names)
    text = pl.select(text.alias("text"))["text"]
    return text.set(text.str.strip_chars(_SPACES) == "", None)


def by_tag_id(tags: pl.DataFrame, values: np.ndarray, default: int) -> np.ndarray:
    """A dense lookup array: element `tag id` is the value of that row of `tags`, `default` where no tag has the id."""
    lookup = np.full(int(tags["id"].max() or 0) + 1, default, dtype=values.dtype)
    lookup[tags["id"].to_numpy()] = values
    return lookup
