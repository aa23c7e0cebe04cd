"""What the training data says of characters: how many pictures each has, who draws it, and which pictures were learned."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

from repro.errors import StageError
from repro.params import References

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from booru.captioning.captions import WORDS_FILE
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
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StageError(f"{path}: {where + ': ' if where else ''}{first['msg']}; the caption stage writes it") from None
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


class NamingCaptions:
    """The training captions with the characters and artists that they name.

    Args:
        captions: folder of the caption stage; tags: the tag table from which these captions were made; characters: names
            of the characters to look for, whose places are their numbers.

    Raises:
        StageError: no such captions, their files were changed, or they were made from another tag table.
    """

    def __init__(self, captions: Path, tags: pl.DataFrame, characters: Sequence[str]):
        self._files = shard_files(captions, PREFIX)
        self._words = _words_of_tags(captions, tags)
        self._names = tags["name"]
        number_of = {name: number for number, name in enumerate(characters)}
        named = tags["name"].replace_strict(number_of, default=-1, return_dtype=pl.Int64).to_numpy()
        self._number = np.where(tags["type"].to_numpy() == TAG_TYPES.index("character"), named, -1)
        self._is_artist = tags["type"].to_numpy() == TAG_TYPES.index("artist")
        self._characters = len(characters)

    def artists(self, most: int) -> list[tuple[str, ...]]:
        """By character the artists of the captions that name it: at most `most`, by captions (descending), then by name."""
        counts = TagCounts()
        for _, posts in numbered_frames(self._files, ["keep"]):
            rows, tags = tag_hits(posts["keep"], self._in_words((self._number >= 0) | self._is_artist))
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
        wanted = self._in_words(np.isin(self._number, list(chosen)))
        found = []
        for _, posts in numbered_frames(self._files, ["id", "keep"]):
            rows, tags = tag_hits(posts["keep"], wanted)
            naming = pl.DataFrame({"id": posts["id"].gather(rows), "character": self._number[tags].astype(np.int32)})
            pictures = index.join_to(naming.select(pl.col("id").unique(maintain_order=True)), columns).drop_nulls()
            found.append(naming.join(pictures, on="id", how="inner", maintain_order="left").drop("id"))
        return pl.concat(found)

    def _in_words(self, tags: np.ndarray) -> np.ndarray:
        """A bool by row of the tag table as one by word of the captions: those of the tag table come first, in its order."""
        return np.append(tags, np.zeros(self._words - len(tags), dtype=bool))


def _words_of_tags(captions: Path, tags: pl.DataFrame) -> int:
    """How many words the captions have, of which the first must be the tag table's."""
    words = pl.read_parquet(Path(captions) / WORDS_FILE)["word"]
    of_tags, spoken = words.head(tags.height), caption_names(tags["name"]).fill_null("")
    other = ~tags["type"].is_in([TAG_TYPES.index("character"), TAG_TYPES.index("artist")])
    # A tag that the caption profile leaves out has no word.
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
