"""Which posts of a booru can stand for a character: those that show it, alone, as it looks."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from repro.params import Filter, References, read_yaml
from repro.progress import Progress

import numpy as np
import polars as pl

from booru.filtering.rules import COLUMNS, first_reasons, rules_of_one_picture, rules_of_one_post
from booru.images.archives import ImageIndex
from booru.selection.distinct import sorted_distinct
from booru.shards import numbered_frames
from booru.tags import TAG_TYPES, by_tag_id
from characters.near_duplicates import HASHES
from characters.training import TrainingPictures, among, digest_numbers

UNFIT_FILE = Path(__file__).with_name("unfit_tags.yaml")
# Marks of a tag, a bit each; a post has those of all its tags.
SOLO, UNFIT, CHARACTER, GIRL, BOY, OTHER = (1 << bit for bit in range(6))
PEOPLE = {"1girl": GIRL, "1boy": BOY, "1other": OTHER}
SEVERAL_PEOPLE = re.compile(r"(?:[2-9]|[1-9][0-9]+|[0-9]+\+|multiple_)(?:girl|boy|other)s?")
PICTURE_COLUMNS = ["sha256", "unreadable", *HASHES]


@cache
def unfit_tags() -> frozenset[str]:
    """Names of the tags that no reference has (unfit_tags.yaml)."""
    groups = read_yaml(UNFIT_FILE.read_text(encoding="utf-8"), UNFIT_FILE.name)
    return frozenset(name for names in groups.values() for name in names)


class ShownAlone:
    """Tells which character a post shows alone.

    Args:
        tags: the tag table; characters: names of the characters to look for, whose places are their numbers.
    """

    def __init__(self, tags: pl.DataFrame, characters: Sequence[str]):
        self._marks = by_tag_id(tags, np.array(list(map(_marks, tags["name"], tags["type"])), dtype=np.uint8), default=0)
        number_of = {name: number for number, name in enumerate(characters)}
        others = np.arange(len(characters), len(characters) + tags.height)
        named = tags["name"].replace_strict(number_of, default=-1, return_dtype=pl.Int64).to_numpy()
        numbers = np.where(named >= 0, named, others)
        is_character = (tags["type"] == TAG_TYPES.index("character")).to_numpy()
        self._number = by_tag_id(tags, np.where(is_character, numbers, -1).astype(np.int32), default=-1)
        self._characters = len(characters)

    def character_of(self, tags: pl.Series) -> np.ndarray:
        """By post (an element of `tags`, List[i32]) the number of the character that it shows alone, -1 for none (i32)."""
        ids = tags.explode(empty_as_null=False).to_numpy()
        lengths = tags.list.len().to_numpy().astype(np.int64)
        marks = np.zeros(len(tags), dtype=np.uint8)
        starts = np.cumsum(lengths) - lengths
        marks[lengths > 0] = np.bitwise_or.reduceat(self._marks[ids], starts[lengths > 0]) if len(ids) else 0
        fits = (marks & (SOLO | UNFIT | CHARACTER)) == (SOLO | CHARACTER)
        fits &= np.isin(marks & (GIRL | BOY | OTHER), (0, GIRL, BOY, OTHER))
        return np.where(fits, self._only_character(ids, lengths), -1).astype(np.int32)

    def _only_character(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """By post the number of the one character that is looked for and that it has no other beside, else -1."""
        numbers = self._number[ids]
        hits = numbers >= 0
        rows, numbers = np.repeat(np.arange(len(lengths)), lengths)[hits], numbers[hits]
        found = np.full(len(lengths), -1)
        if len(rows):
            starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
            lowest, highest = np.minimum.reduceat(numbers, starts), np.maximum.reduceat(numbers, starts)
            found[rows[starts]] = np.where((lowest == highest) & (lowest < self._characters), lowest, -1)
        return found


def _marks(name: str, kind: int) -> int:
    """What a tag (name, type) says of the people in a picture and of its fitness, as bits."""
    match TAG_TYPES[kind]:
        case "character":
            return CHARACTER
        case "artist" | "copyright":
            return 0
    if name in unfit_tags() or SEVERAL_PEOPLE.fullmatch(name):
        return UNFIT
    return SOLO if name == "solo" else PEOPLE.get(name, 0)


def candidates(
    files: Sequence[Path], tags: pl.DataFrame, characters: Sequence[str], settings: References, rules: Filter,
    training: TrainingPictures, index: ImageIndex,
) -> pl.DataFrame:  # fmt: skip
    """Columns id (i64, ascending), character (i32, its number) and HASHES of the posts that can be references.

    They show one of the characters and nobody else; pass the filter's rules for a post and its picture, with the
    references' own ratings (a post without one has none of these) and smallest side; and, where they must be unseen, are
    neither trained on nor the same file as one that is. Of posts with the same md5 or file the first counts.
    About 100 bytes a candidate.

    Args:
        files: shards of the ingest stage in id order; tags: its tag table.
    """
    asked = rules.model_copy(update={"ratings": settings.ratings, "min_side": settings.min_side})
    post_rules, picture_rules = rules_of_one_post(asked, tags), rules_of_one_picture(asked)
    alone = ShownAlone(tags, characters)
    progress = Progress("references", len(files), "shards")
    found, trained = [], []
    for _, posts in numbered_frames(list(files), COLUMNS):
        trained.append(digest_numbers(posts["md5"].filter(among(posts["id"].to_numpy(), training.ids))))
        posts = posts.with_columns(character=alone.character_of(posts["tags"])).filter(pl.col("character") >= 0)
        posts = posts.filter(first_reasons(posts, post_rules).is_null() & posts["rating"].is_not_null())
        pictures = index.join_to(posts.select("id", "character", "md5"), PICTURE_COLUMNS)
        pictures = pictures.filter(first_reasons(pictures, picture_rules).is_null())
        if settings.unseen:
            pictures = pictures.filter(~training.seen(pictures["id"], pictures["sha256"]))
        digests = {name: digest_numbers(pictures[name]) for name in ("md5", "sha256")}
        found.append(pictures.select("id", "character", *HASHES).with_columns(**digests))
        progress.advance()
    pictures = pl.concat(found)
    if settings.unseen:
        known = sorted_distinct(np.concatenate(trained))
        pictures = pictures.filter(~among(pictures["md5"].to_numpy(), known[known >= 0]))
    for name in ("md5", "sha256"):
        pictures = pictures.filter(_first_of_equals(pictures[name].to_numpy()))
    return pictures.drop("md5", "sha256")


def _first_of_equals(digests: np.ndarray) -> np.ndarray:
    """By picture whether none before it has the same digest; those without digest (-1) are all different."""
    order = np.argsort(digests, kind="stable")
    repeated = np.zeros(len(digests), dtype=bool)
    repeated[order[1:]] = digests[order[1:]] == digests[order[:-1]]
    return ~repeated | (digests < 0)
