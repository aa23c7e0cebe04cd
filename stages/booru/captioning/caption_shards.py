"""Caption shards, one task each, written by any number of processes."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from booru.captioning.captions import (
    PIECE,
    POST_COLUMNS,
    Vocabulary,
    captions_of,
    count_posts,
    places_of_parts,
    texts_of,
    vocabulary_of,
    words_of,
)
from booru.captioning.profiles import Profile
from booru.metadata.reader import DATABASE_SOURCE, MetadataReader, open_metadata
from booru.metadata.relations import Block, RelationBlocks
from booru.metadata.schema import CAPTION_COLUMNS
from booru.shards import Shard, read_tags, row_lines, write_shard

COUNTED = ("artist", "character")
# Why HakuBooru does not export a post either: its rules fail on a missing value.
NO_RATING = "no rating"
NO_FAVOURITES = "no favourite count"
SKIPPED_SCHEMA = {"id": pl.Int64, "reason": pl.String}


@dataclass(frozen=True)
class CaptionJob:
    """What all tasks of a run share.

    posts: a folder of posts' shards, or None where `database` is captioned directly.
    relations: the database's relations, sorted into blocks.
    profile: the Profile as JSON, so that a job can be a key.
    lines: whether each shard's captions are wanted as JSON lines as well.
    """

    output: Path
    profile: str
    lines: bool
    posts: Path | None = None
    database: Path | None = None
    relations: RelationBlocks | None = None


@dataclass(frozen=True)
class Captioned:
    """What came of a shard: None where no post could be captioned; its captions as JSON lines where they are wanted;
    counts by row of the tag table for each of COUNTED, and of each word that was made; the posts without a caption."""

    shard: Shard | None
    lines: bytes
    counts: dict[str, tuple[np.ndarray, np.ndarray]]
    made: np.ndarray
    skipped: pl.DataFrame


@dataclass(frozen=True)
class Prepared:
    """What a process needs for a job's tasks; `reader` where a database is captioned."""

    rules: Profile
    tags: int
    vocabulary: Vocabulary
    reader: MetadataReader | None


@lru_cache(maxsize=1)
def prepared(job: CaptionJob) -> Prepared:
    """The job's profile, vocabulary and reader, made once in a process."""
    rules = Profile.model_validate_json(job.profile)
    tags = read_tags(job.posts) if job.posts else database_tags(job.database)
    reader = None if job.posts else MetadataReader(open_metadata(job.database, CAPTION_COLUMNS), tags, job.relations)
    return Prepared(rules, tags.height, vocabulary_of(tags, rules), reader)


@lru_cache(maxsize=1)
def database_tags(path: Path) -> pl.DataFrame:
    """The database's tag table, read once in a process."""
    with open_metadata(path, CAPTION_COLUMNS) as source:
        return source.tags()


def caption_file(task: tuple[CaptionJob, int, Path]) -> Captioned:
    """Caption the posts of one shard file: (job, number, file)."""
    job, number, file = task
    optional = ["source", "repeats", *(words.column for words in prepared(job).rules.scores.values())]
    present = pl.read_parquet_schema(file)
    return _caption(job, number, pl.read_parquet(file, columns=POST_COLUMNS + [name for name in optional if name in present]))


def caption_block(task: tuple[CaptionJob, Block]) -> Captioned:
    """Caption the posts of one block of the database: (job, block)."""
    job, block = task
    return _caption(job, block.number, prepared(job).reader.read(block).posts)


def without_caption(posts: pl.DataFrame) -> pl.DataFrame:
    """Columns id and reason of the database's posts that no profile of HakuBooru's can caption; a folder's picture
    without them only lacks those words."""
    reasons = (
        pl.when(pl.col("rating").is_null())
        .then(pl.lit(NO_RATING))
        .when(pl.col("fav_count").is_null())
        .then(pl.lit(NO_FAVOURITES))
    )
    if "source" in posts.columns:
        reasons = pl.when(pl.col("source") == DATABASE_SOURCE).then(reasons)
    return posts.select("id", reasons.alias("reason")).drop_nulls().cast(SKIPPED_SCHEMA)


def _caption(job: CaptionJob, number: int, posts: pl.DataFrame) -> Captioned:
    ready = prepared(job)
    places = {part: place for part, place in places_of_parts(ready.rules).items() if part in COUNTED}
    skipped = without_caption(posts)
    if skipped.height:
        posts = posts.filter(~pl.col("id").is_in(skipped["id"].implode()))
    frames, texts, counts = [], [], {part: np.zeros(ready.tags, dtype=np.int64) for part in COUNTED}
    made = np.zeros(len(ready.vocabulary.words) - ready.tags, dtype=np.int64)
    for piece in posts.iter_slices(PIECE):
        words = words_of(piece, ready.vocabulary, ready.rules)
        frames.append(captions_of(piece, words, ready.rules))
        if job.lines:
            texts.append(texts_of(words, ready.vocabulary, ready.rules))
        made += np.bincount(words.word[words.word >= ready.tags] - ready.tags, minlength=len(made))
        for part, place in places.items():
            counted = count_posts(words, place)
            counts[part][: len(counted)] += counted
    shard = write_shard(job.output, "captions", number, pl.concat(frames, rechunk=True)) if frames else None
    lines = row_lines(pl.DataFrame({"id": posts["id"], "caption": pl.concat(texts)})) if texts else b""
    sparse = {part: (np.flatnonzero(count), count[np.flatnonzero(count)]) for part, count in counts.items()}
    return Captioned(shard, lines, sparse, made, skipped)
