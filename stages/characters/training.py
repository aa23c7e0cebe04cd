"""What the training data says of characters: how many pictures each has, who draws it, and which pictures were learned."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from repro.errors import StageError, first_problem
from repro.params import References

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from booru.captioning.captions import WORDS_FILE
from booru.captioning.named_characters import CHARACTERS_COLUMN, CHARACTERS_FILE
from booru.images.archives import ImageIndex
from booru.selection.distinct import sorted_distinct
from booru.shards import numbered_frames, shard_files
from booru.tags import TAG_TYPES, caption_names
from characters.tag_counts import TagCounts, tag_hits

PREFIX = "captions"
DIGITS = 15


class _Counted(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    posts: Annotated[int, Field(ge=0)]


def read_training_counts(path: Path) -> dict[str, int]:
    """{character: number of training pictures}, of the caption stage's characters.json.

    Raises:
        StageError: missing, or not of that form.
    """
    path = Path(path)
    if not path.is_file():
        raise StageError(f"{path}: no such file; the caption stage writes it (--characters)")
    try:
        found = TypeAdapter(dict[str, _Counted]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise StageError(f"{path}: {first_problem(error)}; the caption stage writes it") from None
    return {name: counted.posts for name, counted in found.items()}


def characters_to_evaluate(counts: dict[str, int], settings: References) -> list[str]:
    """The characters with at least `min_posts` training pictures, of these the `most_characters` with most (ties by tag),
    sorted by tag.

    Raises:
        StageError: there are none.
    """
    enough = sorted((-posts, name) for name, posts in counts.items() if posts >= settings.min_posts)
    if not enough:
        raise StageError(
            f"no character has {settings.min_posts} training pictures, the most has {max(counts.values(), default=0)};"
            " lower evaluate.references.min_posts"
        )
    return sorted(name for _, name in enough[: settings.most_characters])


def digest_numbers(digests: pl.Series) -> np.ndarray:
    """The last 60 bits of digests in hexadecimal digits (i64), -1 where there is none.

    Of 8 million pictures no two differ and agree in these, but for one chance in thirty thousand.
    """
    return digests.str.slice(-DIGITS).str.to_integer(base=16, strict=False).fill_null(-1).to_numpy()


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """By value whether it is one of `known` (ascending)."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


class TrainingPictures:
    """The pictures that were captioned for training: 16 bytes a picture.

    Attributes:
        ids: of their posts (i64, ascending); files: `digest_numbers` of their files' sha256 (i64, ascending).

    Raises:
        StageError: no such captions, or their files were changed.
    """

    def __init__(self, captions: Path, index: ImageIndex):
        ids, files = [], []
        for _, posts in numbered_frames(shard_files(captions, PREFIX), ["id"]):
            ids.append(posts["id"].to_numpy())
            files.append(digest_numbers(index.join_to(posts, ["sha256"])["sha256"]))
        self.ids, self.files = sorted_distinct(np.concatenate(ids)), sorted_distinct(np.concatenate(files))

    def seen(self, ids: pl.Series, sha256: pl.Series) -> np.ndarray:
        """By post whether it, or another post with the same file, was trained on."""
        return among(ids.to_numpy(), self.ids) | among(digest_numbers(sha256), self.files)


@dataclass(frozen=True)
class _Names:
    """What a column of the captions' shards counts in: by its numbers the booru's names, and which ones are characters' and
    which ones are artists' (bool)."""

    column: str
    names: pl.Series
    is_character: np.ndarray
    is_artist: np.ndarray


class NamingCaptions:
    """The training captions with the characters and artists that they name.

    Artists are known of captions of metadata alone: taggers tell none, and profiles with expanded names have none.

    Args:
        captions: folder of the caption stage; tags: the tag table from which these captions were made; characters: names
            of the characters to look for, whose places are their numbers.

    Raises:
        StageError: no such captions, their files were changed, or they were made from another tag table.
    """

    def __init__(self, captions: Path, tags: pl.DataFrame, characters: Sequence[str]):
        self._files = shard_files(captions, PREFIX)
        words = _words_of_tags(captions, tags)
        listed = Path(captions) / CHARACTERS_FILE
        found = _listed_names(listed) if listed.exists() else _names_among_words(words, tags)
        self._column, self._names, self._is_artist = found.column, found.names, found.is_artist
        number_of = {name: number for number, name in enumerate(characters)}
        named = found.names.replace_strict(number_of, default=-1, return_dtype=pl.Int64).to_numpy()
        self._number = np.where(found.is_character, named, -1)
        self._characters = len(characters)

    def artists(self, most: int) -> list[tuple[str, ...]]:
        """By character the artists of the captions that name it: at most `most`, by captions (descending), then by name."""
        counts = TagCounts()
        for _, posts in numbered_frames(self._files, [self._column]):
            rows, tags = tag_hits(posts[self._column], (self._number >= 0) | self._is_artist)
            is_artist = self._is_artist[tags]
            left, right = _pairs_in_rows(rows[~is_artist], rows[is_artist])
            counts.add(self._number[tags[~is_artist]][left], tags[is_artist][right])
        found = []
        for number in range(self._characters):
            rows, posts = counts.of(number)
            ranked = sorted(zip((-posts).tolist(), self._names.gather(rows).to_list(), strict=True))
            found.append(tuple(artist for _, artist in ranked[:most]))
        return found

    def pictures(self, chosen: Collection[int], index: ImageIndex, columns: Sequence[str]) -> pl.DataFrame:
        """Columns character (i32, its number) and these of the image index, of the pictures of the captions that name one
        of the chosen characters; pictures that cannot be read are left out."""
        wanted = np.isin(self._number, list(chosen))
        found = []
        for _, posts in numbered_frames(self._files, ["id", self._column]):
            rows, tags = tag_hits(posts[self._column], wanted)
            naming = pl.DataFrame({"id": posts["id"].gather(rows), "character": self._number[tags].astype(np.int32)})
            pictures = index.join_to(naming.select(pl.col("id").unique(maintain_order=True)), columns).drop_nulls()
            found.append(naming.join(pictures, on="id", how="inner", maintain_order="left").drop("id"))
        return pl.concat(found)


def _listed_names(path: Path) -> _Names:
    """Of captions that have a column for their characters."""
    names = pl.read_parquet(path)["name"]
    return _Names(CHARACTERS_COLUMN, names, np.ones(len(names), dtype=bool), np.zeros(len(names), dtype=bool))


def _names_among_words(words: int, tags: pl.DataFrame) -> _Names:
    """Of captions whose kept part has the tags themselves: of all `words`, those of the tag table come first, in its order."""
    kinds = np.append(tags["type"].to_numpy(), np.full(words - tags.height, -1))
    is_character, is_artist = (kinds == TAG_TYPES.index(kind) for kind in ("character", "artist"))
    return _Names("keep", tags["name"].extend_constant(None, words - tags.height), is_character, is_artist)


def _words_of_tags(captions: Path, tags: pl.DataFrame) -> int:
    """How many words the captions have, of which the first must be the tag table's."""
    words = pl.read_parquet(Path(captions) / WORDS_FILE)["word"]
    of_tags, spoken = words.head(tags.height), caption_names(tags["name"]).fill_null("")
    other = ~tags["type"].is_in([TAG_TYPES.index("character"), TAG_TYPES.index("artist")])
    # A tag that the caption profile leaves out or expands has no word.
    if len(of_tags) < tags.height or not ((of_tags == spoken) | (of_tags == "") | other).all():
        raise StageError(
            f"{captions}: these captions were not made from the tag table of evaluate.references.source;"
            " name the folder of the ingest stage from which they come"
        )
    return len(words)


def _pairs_in_rows(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `left` and in `right` (rows, ascending) of all pairs of the same row."""
    first = np.searchsorted(right, left, side="left")
    partners = np.searchsorted(right, left, side="right") - first
    before = np.cumsum(partners) - partners
    pairs = np.arange(int(partners.sum()))
    return np.repeat(np.arange(len(left)), partners), pairs + np.repeat(first - before, partners)
