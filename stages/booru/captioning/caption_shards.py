"""Caption shards, one task each, written by any number of processes."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from booru.captioning.annotated_posts import BLOCKED, AnnotatedPosts, Asked, blocked_places
from booru.captioning.captions import (
    NO_TEXTS,
    PIECE,
    POST_COLUMNS,
    Vocabulary,
    captions_of,
    count_posts,
    places_of_parts,
    tags_of,
    texts_of,
    vocabulary_of,
    words_of,
)
from booru.captioning.named_characters import NamedCharacters, named_characters
from booru.captioning.profiles import Profile
from booru.metadata.reader import DATABASE_SOURCE, MetadataReader, open_metadata
from booru.metadata.relations import Block, RelationBlocks
from booru.metadata.schema import CAPTION_COLUMNS
from booru.shards import Shard, read_tags, row_lines, write_shard
from booru.tags import TAG_TYPES, by_tag_id

COUNTED = ("artist", "character")
# Why HakuBooru does not export a post either: its rules fail on a missing value.
NO_RATING = "no rating"
NO_FAVOURITES = "no favourite count"
SKIPPED_SCHEMA = {"id": pl.Int64, "reason": pl.String}


@dataclass(frozen=True)
class CaptionJob:
    """What all tasks of a run share.

    posts: a folder of posts' shards, or None where `database` is captioned directly.
    asked: what the captions take from models' annotations of the posts; None: nothing.
    blocked_tags: the filter's, for what posts of a folder say when their characters' names are expanded.
    relations: the database's relations, sorted into blocks.
    profile: the Profile as JSON, so that a job can be a key.
    lines: whether each shard's captions are wanted as JSON lines as well.
    """

    output: Path
    profile: str
    lines: bool
    posts: Path | None = None
    asked: Asked | None = None
    blocked_tags: tuple[str, ...] = ()
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
    """What a process needs for a job's tasks: `tags` is the table of all tags that captions can have; `characters` where the
    words of captions do not tell which ones they name; `blocked` (bool, by tag id) where names are expanded into pieces, some of
    which may be blocked tags; `annotated` where models describe the posts, `reader` where a database is captioned."""

    rules: Profile
    tags: pl.DataFrame
    vocabulary: Vocabulary
    characters: NamedCharacters | None
    blocked: np.ndarray | None
    annotated: AnnotatedPosts | None
    reader: MetadataReader | None


@lru_cache(maxsize=1)
def prepared(job: CaptionJob) -> Prepared:
    """The job's profile, vocabulary and reader, made once in a process."""
    rules = Profile.model_validate_json(job.profile)
    if not job.posts:
        tags = database_tags(job.database)
        reader = MetadataReader(open_metadata(job.database, CAPTION_COLUMNS), tags, job.relations)
        return Prepared(rules, tags, vocabulary_of(tags, rules), _characters(tags, rules, None), None, None, reader)
    tags = read_tags(job.posts)
    blocked = _blocked_characters(tags, job.blocked_tags) if rules.expand_characters else None
    if not job.asked:
        return Prepared(rules, tags, vocabulary_of(tags, rules), _characters(tags, rules, None), blocked, None, None)
    annotated = AnnotatedPosts(job.asked, tags)
    texts = annotated.texts if "text" in places_of_parts(rules) else NO_TEXTS
    vocabulary = vocabulary_of(annotated.tags, rules, texts)
    characters = _characters(annotated.tags, rules, job.asked)
    return Prepared(rules, annotated.tags, vocabulary, characters, None if job.asked.tagged else blocked, annotated, None)


def _characters(tags: pl.DataFrame, rules: Profile, asked: Asked | None) -> NamedCharacters | None:
    told_by_words = not rules.expand_characters and not (asked and asked.tagged)
    return None if told_by_words or "character" not in places_of_parts(rules) else named_characters(tags)


def _blocked_characters(tags: pl.DataFrame, blocked_tags: tuple[str, ...]) -> np.ndarray:
    """By tag id whether it is a character whose name or a piece of it is blocked (bool)."""
    characters = tags.filter(pl.col("type") == TAG_TYPES.index("character"))
    blocked = characters.filter(pl.Series(blocked_places(characters, blocked_tags), dtype=pl.Boolean))
    return by_tag_id(tags, tags["id"].is_in(blocked["id"].implode()).to_numpy(), default=False)


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
    posts = pl.read_parquet(file, columns=POST_COLUMNS + [name for name in optional if name in present])
    dropped = [_with_blocked_pieces(posts, prepared(job).blocked)]
    posts = posts.filter(~pl.col("id").is_in(dropped[0]["id"].implode()))
    if job.asked:
        posts, described_away = prepared(job).annotated.described(posts, number)
        dropped.append(described_away)
    return _caption(job, number, posts, pl.concat([*dropped, without_caption(posts)]).sort("id"))


def _with_blocked_pieces(posts: pl.DataFrame, blocked: np.ndarray | None) -> pl.DataFrame:
    """Columns id and reason of the posts that have a tag of these (by id; None: there are none)."""
    chosen = np.zeros(posts.height, dtype=bool)
    if blocked is not None:
        row = np.repeat(np.arange(posts.height), posts["tags"].list.len().to_numpy())
        chosen[row[blocked[posts["tags"].explode(empty_as_null=False).to_numpy()]]] = True
    ids = posts["id"].filter(pl.Series(chosen))
    return pl.DataFrame({"id": ids, "reason": pl.repeat(BLOCKED, len(ids), eager=True)}, schema=SKIPPED_SCHEMA)


def caption_block(task: tuple[CaptionJob, Block]) -> Captioned:
    """Caption the posts of one block of the database: (job, block)."""
    job, block = task
    posts = prepared(job).reader.read(block).posts
    return _caption(job, block.number, posts, without_caption(posts))


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


def _caption(job: CaptionJob, number: int, posts: pl.DataFrame, skipped: pl.DataFrame) -> Captioned:
    """Caption the posts but for those that are skipped (id, reason)."""
    ready = prepared(job)
    places = {part: place for part, place in places_of_parts(ready.rules).items() if part in COUNTED}
    if skipped.height:
        posts = posts.filter(~pl.col("id").is_in(skipped["id"].implode()))
    frames, texts, counts = [], [], {part: np.zeros(ready.tags.height, dtype=np.int64) for part in COUNTED}
    first, last = ready.tags.height, ready.vocabulary.first_text
    made = np.zeros(last - first, dtype=np.int64)
    for piece in posts.iter_slices(PIECE):
        words = words_of(piece, ready.vocabulary, ready.rules)
        named = tags_of(piece, ready.vocabulary) if ready.vocabulary.expansion else words
        frame = captions_of(piece, words, ready.rules)
        if ready.characters:
            frame = frame.with_columns(ready.characters.lists(named, places["character"], piece.height))
        frames.append(frame)
        if job.lines:
            texts.append(texts_of(words, ready.vocabulary, ready.rules))
        is_made = (words.word >= first) & (words.word < last)
        counted = count_posts(words.row[is_made], words.word[is_made] - first)
        made[: len(counted)] += counted
        for part, place in places.items():
            of_part = named.part == place
            counted = count_posts(named.row[of_part], named.word[of_part])
            counts[part][: len(counted)] += counted
    shard = write_shard(job.output, "captions", number, pl.concat(frames, rechunk=True)) if frames else None
    lines = row_lines(pl.DataFrame({"id": posts["id"], "caption": pl.concat(texts)})) if texts else b""
    sparse = {part: (np.flatnonzero(count), count[np.flatnonzero(count)]) for part, count in counts.items()}
    return Captioned(shard, lines, sparse, made, skipped)
