"""Captions from tags: HakuBooru's KohakuCaptioner, for a shard of posts at a time.

A caption is the kept part (people, characters, series, artists), the mark |||, and the general part,
of which the trainer shuffles and drops tags. Tag names never go through a join or a sort: every word a
caption can hold, a tag's or a made one, stands once in a vocabulary, each post's words are sorted as
integers by (post, part), and texts are gathered at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from booru.profiles import Profile
from booru.quality import quality_word
from booru.ratings import RATINGS
from booru.tags import TAG_TYPES, by_tag_id, caption_names
from booru.years import upload_year, year_word

SEPARATOR = ", "
KEEP_MARK = "|||"
PARTS = 16  # more than any profile has parts; the last place ends a post's words
END = PARTS - 1
DROPPED = -1


@dataclass(frozen=True)
class Vocabulary:
    """What the tag table and a profile say about each word.

    texts: the words; first one for each row of the tag table, then the made words.
    made: index into texts of each made word.
    word_of: by tag id, the index into texts.
    part_of: by tag id, the place of the tag's part in keep + general, or DROPPED.
    """

    texts: pl.Series
    made: dict[str, int]
    word_of: np.ndarray
    part_of: np.ndarray


def vocabulary_of(tags: pl.DataFrame, profile: Profile) -> Vocabulary:
    """Apply a profile's tag rules to the tag table (id, name, type), once for all posts."""
    names = caption_names(tags["name"])
    made = sorted(
        {row.word for row in profile.years}
        | {word for words in profile.ratings.values() for word in words}
        | {step.word for step in profile.quality.above}
        | {profile.quality.otherwise}
    )
    parts = tags.select(_part_of_tag(profile).alias("part"))["part"].to_numpy().astype(np.int8)
    parts = np.where(names.is_null().to_numpy(), np.int8(DROPPED), parts)
    return Vocabulary(
        texts=pl.concat([names, pl.Series("text", made, dtype=pl.String)]),
        made={word: tags.height + i for i, word in enumerate(made)},
        word_of=by_tag_id(tags, np.arange(tags.height, dtype=np.int32), default=0),
        part_of=by_tag_id(tags, parts, default=DROPPED),
    )


def _part_of_tag(profile: Profile) -> pl.Expr:
    """The place of each tag's part in keep + general, DROPPED where the profile leaves the tag out."""
    is_type = {name: pl.col("type") == i for i, name in enumerate(TAG_TYPES)}
    special = is_type["general"] & pl.col("name").is_in(profile.special_tags)
    conditions = {
        "special": special,
        "character": is_type["character"],
        "copyright": is_type["copyright"],
        "artist": is_type["artist"] & ~_contains(profile.drop_artists_containing),
        "general": is_type["general"] & ~special,
        "meta": is_type["meta"] & ~_contains(profile.drop_meta_containing),
    }
    places = [
        pl.when(conditions[part]).then(place) for place, part in enumerate(profile.keep + profile.general) if part in conditions
    ]
    return pl.coalesce(*places, pl.lit(DROPPED))


def _contains(patterns: list[str]) -> pl.Expr:
    """Whether the raw tag name contains any of the patterns."""
    return pl.any_horizontal(pl.lit(False), *(pl.col("name").str.contains(pattern, literal=True) for pattern in patterns))


@dataclass(frozen=True)
class PostWords:
    """The words of a shard's posts, sorted by (post, part), order within a part kept: row number of the
    post (i64), place of the part, index into the vocabulary. Each post ends with a word of part END."""

    row: np.ndarray
    part: np.ndarray
    word: np.ndarray


def words_of(posts: pl.DataFrame, vocabulary: Vocabulary, profile: Profile) -> PostWords:
    """The words of each post under a profile.

    Args:
        posts: id, created_at, rating, fav_count, tags (List[i32]).
    """
    columns = list(_word_columns(posts, vocabulary, profile))
    row, part, word = (np.concatenate([column[i] for column in columns]) for i in range(3))
    order = np.argsort(row * PARTS + part, kind="stable")
    return PostWords(row[order], part[order], word[order])


def _word_columns(
    posts: pl.DataFrame, vocabulary: Vocabulary, profile: Profile
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, parts, words) of the tags, then of each made word, then of the ends."""
    rows = np.arange(posts.height, dtype=np.int64)
    ids = posts["tags"].explode(empty_as_null=False).to_numpy()
    row = np.repeat(rows, posts["tags"].list.len().to_numpy())
    part = vocabulary.part_of[ids]
    used = part != DROPPED
    yield row[used], part[used], vocabulary.word_of[ids[used]]
    for place, name in enumerate(profile.keep + profile.general):
        for text in _made_words(posts, profile, name):
            has = text.is_not_null().to_numpy()
            words = text.replace_strict(vocabulary.made, return_dtype=pl.Int32).drop_nulls().to_numpy()
            yield rows[has], np.full(len(words), place, dtype=np.int8), words
    yield rows, np.full(len(rows), END, dtype=np.int8), np.zeros(len(rows), dtype=np.int32)


def _made_words(posts: pl.DataFrame, profile: Profile, part: str) -> list[pl.Series]:
    """Columns of words, one text or null a post, that a part makes from the post itself; none for tags."""
    match part:
        case "year":
            expressions = [year_word(upload_year(pl.col("created_at")), profile.years)]
        case "rating":
            longest = max(map(len, profile.ratings.values()))
            expressions = [_rating_word(profile, i) for i in range(longest)]
        case "quality":
            expressions = [quality_word(profile.quality)]
        case _:
            expressions = []
    return [posts.select(e.alias("word"))["word"] for e in expressions]


def _rating_word(profile: Profile, i: int) -> pl.Expr:
    """Word number i of the post's rating, null where it has fewer."""
    words = {RATINGS.index(rating): words[i] for rating, words in profile.ratings.items() if i < len(words)}
    return pl.col("rating").replace_strict(words, default=None, return_dtype=pl.String)


def captions_of(posts: pl.DataFrame, words: PostWords, vocabulary: Vocabulary, profile: Profile) -> pl.DataFrame:
    """The caption shard: id, keep (List[str]), general (List[str]), caption (str, HakuBooru's text)."""
    texts = pl.DataFrame({"row": words.row, "text": vocabulary.texts.gather(words.word)})
    lists = texts.set_sorted("row").group_by("row", maintain_order=True).agg("text")
    kept = words.part < len(profile.keep)
    keep_length = np.bincount(words.row[kept], minlength=posts.height)
    general_length = np.bincount(words.row[~kept & (words.part != END)], minlength=posts.height)
    lists = lists.with_columns(n_keep=pl.Series(keep_length), n_general=pl.Series(general_length))
    parts = lists.select(
        posts["id"],
        keep=pl.col("text").list.head(pl.col("n_keep")),
        general=pl.col("text").list.slice(pl.col("n_keep"), pl.col("n_general")),
    )
    caption = pl.col("keep").list.join(SEPARATOR) + SEPARATOR + KEEP_MARK + pl.col("general").list.join(SEPARATOR)
    return parts.with_columns(caption=caption)


def count_posts(words: PostWords, places: list[int], vocabulary_size: int) -> np.ndarray:
    """By word, the number of posts that have it in one of these parts; a doubled tag counts once."""
    chosen = np.isin(words.part, places)
    pairs = np.unique(words.row[chosen] * vocabulary_size + words.word[chosen])
    return np.bincount(pairs % vocabulary_size, minlength=vocabulary_size)
