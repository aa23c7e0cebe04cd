"""Captions from tags: HakuBooru's KohakuCaptioner and its kin, for a shard of posts at a time.

A caption is the kept part (people, characters, series, artists), the mark |||, and the general part, of which the
trainer shuffles and drops tags. Tag names never go through a join or a sort: every word a caption can hold, a tag's
or a made one, stands once in a vocabulary; each post's words are sorted as small integers by (post, part), and texts
are gathered at the end.

What models say of a picture are columns of its post: scores, which the profile has words for, and `text`, which is a word
of its own; see booru.captioning.annotated_posts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from booru.captioning.profiles import Profile
from booru.captioning.quality import quality_levels, quality_words, score_levels
from booru.captioning.tagger_words import character_words
from booru.captioning.years import upload_years, year_rows
from booru.lists import grouped, lists_of
from booru.ratings import RATINGS
from booru.tags import TAG_TYPES, by_tag_id, caption_names

WORDS_FILE, NOT_CAPTIONED_FILE = "words.parquet", "not_captioned.parquet"
SEPARATOR = ", "
KEEP_MARK = "|||"
DROPPED = -1
# A word is sorted by its post's row (12 bits) and its part's place (4 bits) together: as u16 numpy does it in linear time,
# and pieces of this size stay in a core's cache.
PIECE = 1 << 12
PART_BITS = 4
_PART_MASK = (1 << PART_BITS) - 1
POST_COLUMNS = ["id", "created_at", "rating", "fav_count", "tags"]
NO_TEXTS = pl.Series(dtype=pl.String)


@dataclass(frozen=True)
class Expansion:
    """By row of the tag table the words that stand for its tag: `count` of them in `words` from `first` on."""

    first: np.ndarray
    count: np.ndarray
    words: np.ndarray

    def spread(self, key: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(key, word) for each word of the tags of these rows, in order; a tag's words share its key."""
        count = self.count[row]
        before = np.cumsum(count) - count
        places = np.repeat(self.first[row] - before, count) + np.arange(int(count.sum()))
        return np.repeat(key, count), self.words[places]


@dataclass(frozen=True)
class Vocabulary:
    """What the tag table and a profile say about each word.

    words: the words; first one for each row of the tag table (empty where it is dropped or expanded), then the made words,
        the texts, and the pieces of expanded names.
    made: index into words of each made word.
    first_text: index into words of the first text.
    clean_words: by index into words, the one that stands for a word between two commas; None where none stands for another.
    code_of: by tag id, its row in the tag table << PART_BITS | the place of its part, or DROPPED; keep's places come
        before the place len(keep), which is the mark's, and general's after it.
    expansion: None where every tag is one word, that of its row.
    pieces: what a caption's text is joined of: each word alone, each word behind a separator, the mark behind one.
    """

    words: pl.Series
    made: dict[str, int]
    first_text: int
    clean_words: np.ndarray | None
    code_of: np.ndarray
    expansion: Expansion | None
    pieces: pl.Series


def places_of_parts(profile: Profile) -> dict[str, int]:
    """{part: its place among keep, the mark and general}."""
    places = {part: place for place, part in enumerate(profile.keep)}
    return places | {part: len(profile.keep) + 1 + place for place, part in enumerate(profile.general)}


def vocabulary_of(tags: pl.DataFrame, profile: Profile, texts: pl.Series = NO_TEXTS) -> Vocabulary:
    """Apply a profile's tag rules to the tag table (id, name, type), once for all posts; `texts` are those that the posts'
    `text` counts in."""
    custom = (tags["type"] == TAG_TYPES.index("custom")).to_numpy()
    names = caption_names(tags["name"])
    if custom.any():
        names = pl.select(pl.when(pl.lit(pl.Series(custom))).then(tags["name"]).otherwise(names).alias("name"))["name"]
    made = sorted(
        {row.word for row in profile.years}
        | {word for words in profile.ratings.values() for word in words}
        | {word for words in profile.scores.values() for word in quality_words(words)}
        | set(quality_words(profile.quality) if profile.quality else [])
        | set(profile.between_commas.values())
    )
    parts = tags.select(_part_of_tag(profile).alias("part"))["part"].to_numpy()
    dropped = names.is_null().to_numpy() | (parts == DROPPED)
    codes = np.where(dropped, DROPPED, np.arange(tags.height) << PART_BITS | parts).astype(np.int32)
    names, made_words = names.fill_null(""), pl.Series(made, dtype=pl.String)
    expansion, name_pieces = None, NO_TEXTS
    if profile.expand_characters:
        is_character = (tags["type"] == TAG_TYPES.index("character")).to_numpy() & ~dropped
        expansion, name_pieces = _expansion(tags["name"], is_character, first_piece=tags.height + len(made) + len(texts))
        names = names.scatter(np.flatnonzero(is_character), "")
    words = pl.concat([column.rename("word") for column in (names, made_words, texts, name_pieces)], rechunk=True)
    mark = pl.Series([SEPARATOR + KEEP_MARK if profile.keep_mark else ""])
    made_at = {word: tags.height + i for i, word in enumerate(made)}
    return Vocabulary(
        words=words,
        made=made_at,
        first_text=tags.height + len(made),
        clean_words=_clean_words(words, profile, made_at) if profile.between_commas else None,
        expansion=expansion,
        code_of=by_tag_id(tags, codes, default=DROPPED),
        # In one chunk: gathering from several is slow.
        pieces=pl.concat([words, SEPARATOR + words, mark], rechunk=True),
    )


def _clean_words(words: pl.Series, profile: Profile, made: dict[str, int]) -> np.ndarray:
    """By word the index of the one that stands for it between two commas, its own where none does."""
    clean = np.arange(len(words), dtype=np.int32)
    for word, other in profile.between_commas.items():
        clean[(words == word).to_numpy()] = made[other]
    return clean


def _expansion(names: pl.Series, chosen: np.ndarray, first_piece: int) -> tuple[Expansion, pl.Series]:
    """The words of each tag, the chosen rows' being the pieces of their names; and these pieces, each once, of which the
    first is the word `first_piece`."""
    pieces_of = [[word for word in character_words(name) if word.strip()] for name in names.filter(pl.Series(chosen))]
    pieces = sorted({piece for pieces in pieces_of for piece in pieces})
    place = {piece: first_piece + i for i, piece in enumerate(pieces)}
    count = np.ones(len(names), dtype=np.int64)
    count[chosen] = [len(pieces) for pieces in pieces_of]
    first = np.cumsum(count) - count
    words = np.empty(int(count.sum()), dtype=np.int32)
    words[first[~chosen]] = np.flatnonzero(~chosen)
    words[np.repeat(chosen, count)] = [place[piece] for pieces in pieces_of for piece in pieces]
    return Expansion(first, count, words), pl.Series(pieces, dtype=pl.String)


def _part_of_tag(profile: Profile) -> pl.Expr:
    """The place of each tag's part, DROPPED where the profile leaves the tag out."""
    is_type = {name: pl.col("type") == i for i, name in enumerate(TAG_TYPES)}
    special = is_type["general"] & pl.col("name").is_in(profile.special_tags)
    conditions = {
        "special": special,
        "character": is_type["character"],
        "copyright": is_type["copyright"],
        "artist": is_type["artist"] & ~_contains(profile.drop_artists_containing),
        "general": is_type["general"] & ~special,
        "meta": is_type["meta"] & ~_contains(profile.drop_meta_containing),
        "custom": is_type["custom"],
    }
    places = [pl.when(conditions[part]).then(place) for part, place in places_of_parts(profile).items() if part in conditions]
    return pl.coalesce(*places, pl.lit(DROPPED))


def _contains(patterns: list[str]) -> pl.Expr:
    """Whether the raw tag name contains any of the patterns."""
    return pl.any_horizontal(pl.lit(False), *(pl.col("name").str.contains(pattern, literal=True) for pattern in patterns))


@dataclass(frozen=True)
class PostWords:
    """The words of up to PIECE posts, sorted by (post, part), order within a part kept.

    row: row number of the post (u16).
    part: place of the part (u16).
    word: index into the vocabulary (i32). Each post has one word in the mark's place, DROPPED, which is no index.
    """

    row: np.ndarray
    part: np.ndarray
    word: np.ndarray


def words_of(posts: pl.DataFrame, vocabulary: Vocabulary, profile: Profile) -> PostWords:
    """The words of each post under a profile.

    Args:
        posts: at most PIECE of them, with the columns of POST_COLUMNS (tags: List[i32]), of the profile's scores and, where
            a model read their texts, `text` (i32, place among the vocabulary's texts, null where there is none).
    """
    columns = list(_word_columns(posts, vocabulary, profile))
    key, word = (np.concatenate([column[i] for column in columns]) for i in range(2))
    order = np.argsort(key, kind="stable")
    key = key[order]
    words = PostWords(key >> PART_BITS, key & _PART_MASK, word[order])
    if vocabulary.clean_words is not None:
        _clean_between_commas(words, vocabulary.clean_words, profile)
    return words


def _clean_between_commas(words: PostWords, clean: np.ndarray, profile: Profile) -> None:
    """Replace, in place, what the scripts did in lines that had neither scores nor texts yet.

    They looked for a word with a comma on both sides: so the line's first and last stay, and of equal ones beside each other
    every second, whose comma went with the one before.
    """
    late = [place for part, place in places_of_parts(profile).items() if part in profile.scores or part == "text"]
    line = np.flatnonzero(~np.isin(words.part, [*late, len(profile.keep)]))
    row, word = words.row[line].astype(np.int64), words.word[line]
    inside = (np.diff(row, prepend=-1) == 0) & (np.diff(row, append=-1) == 0)
    other = clean[word]
    found = inside & (other != word)
    place = np.arange(len(line))
    begins = found & ~(np.roll(found, 1) & (np.roll(other, 1) == other))
    since = place - np.maximum.accumulate(np.where(begins, place, 0))
    replaced = found & (since % 2 == 0)
    words.word[line[replaced]] = other[replaced]


def _word_columns(posts: pl.DataFrame, vocabulary: Vocabulary, profile: Profile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row and part as one u16, word) of the tags, then of each made word, then of the marks."""
    rows = np.arange(posts.height, dtype=np.uint16) << PART_BITS
    key, tag = _tag_rows(posts, vocabulary)
    yield vocabulary.expansion.spread(key, tag) if vocabulary.expansion else (key, tag)
    for part_name, place in places_of_parts(profile).items():
        for words in _made_words(posts, profile, vocabulary, part_name):
            has = words >= 0
            yield rows[has] | np.uint16(place), words[has]
    yield rows | np.uint16(len(profile.keep)), np.full(len(rows), DROPPED, dtype=np.int32)


def _tag_rows(posts: pl.DataFrame, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(row and part as one u16, row of the tag table) of the posts' tags that the profile does not leave out."""
    code = vocabulary.code_of[posts["tags"].explode(empty_as_null=False).to_numpy()]
    row = np.repeat(np.arange(posts.height, dtype=np.uint16) << PART_BITS, posts["tags"].list.len().to_numpy())
    used = code != DROPPED
    code = code[used]
    return row[used] | (code & _PART_MASK).astype(np.uint16), code >> PART_BITS


def tags_of(posts: pl.DataFrame, vocabulary: Vocabulary) -> PostWords:
    """The posts' tags as `words_of` has them before names are expanded, in their own order; words are rows of the tag table."""
    key, tag = _tag_rows(posts, vocabulary)
    return PostWords(key >> PART_BITS, key & _PART_MASK, tag)


def _made_words(posts: pl.DataFrame, profile: Profile, vocabulary: Vocabulary, part: str) -> Iterator[np.ndarray]:
    """Columns of words, one index (i32) or -1 a post, that a part makes from the post itself; none for tags."""
    made = vocabulary.made
    if part in profile.scores:
        words = profile.scores[part]
        if words.column in posts.columns:
            levels = score_levels(words, posts[words.column].fill_null(float("nan")).to_numpy())
            yield _indices(levels, quality_words(words), made)
    elif part == "year":
        places = year_rows(upload_years(posts["created_at"]), profile.years)
        yield _indices(places, [row.word for row in profile.years], made)
    elif part == "rating":
        ratings = posts["rating"].fill_null(-1).to_numpy().astype(np.int8)
        for i in range(max(map(len, profile.ratings.values()))):
            words = [profile.ratings[rating][i] if i < len(profile.ratings[rating]) else None for rating in RATINGS]
            yield _indices(ratings, words, made)
    elif part == "quality":
        # A post without favourites is of no rating here, and gets no word.
        ratings = np.where(posts["fav_count"].is_null().to_numpy(), -1, posts["rating"].fill_null(-1).to_numpy())
        levels = quality_levels(profile.quality, posts["id"].to_numpy(), ratings, posts["fav_count"].fill_null(0).to_numpy())
        yield _indices(levels, quality_words(profile.quality), made)
    elif part == "text" and "text" in posts.columns:
        yield posts.select(pl.col("text").add(vocabulary.first_text).fill_null(-1))["text"].to_numpy()


def _indices(places: np.ndarray, words: list[str | None], made: dict[str, int]) -> np.ndarray:
    """The vocabulary's index of words[place], -1 where the place is -1 or there is no word."""
    return np.array([*(made[word] if word else -1 for word in words), -1], dtype=np.int32)[places]


def captions_of(posts: pl.DataFrame, words: PostWords, profile: Profile) -> pl.DataFrame:
    """The caption shard: id, repeats, keep and general (List[u32], indices of vocabulary.words).

    `repeats` is the posts' own where they have it, else 1: how often an epoch shows the image.
    """
    mark = len(profile.keep)
    repeats = posts["repeats"] if "repeats" in posts.columns else pl.repeat(1, posts.height, dtype=pl.Int32, eager=True)
    return pl.DataFrame(
        {
            "id": posts["id"],
            "repeats": repeats,
            "keep": _lists(words, words.part < mark, posts.height),
            "general": _lists(words, words.part > mark, posts.height),
        }
    )


def _lists(words: PostWords, chosen: np.ndarray, posts: int) -> pl.Series:
    """The chosen words of each post."""
    return lists_of(words.row[chosen], pl.Series(words.word[chosen]).cast(pl.UInt32), posts)


def texts_of(words: PostWords, vocabulary: Vocabulary, profile: Profile) -> pl.Series:
    """HakuBooru's text of each caption: no separator behind the mark, and one before it also when nothing is kept."""
    mark, keep_mark = len(profile.keep), profile.keep_mark
    n = len(vocabulary.words)
    piece = words.word + np.int32(n)
    marks = np.flatnonzero(words.part == mark)
    starts = np.flatnonzero(np.diff(words.row, prepend=np.uint16(0xFFFF)))
    behind = marks + 1
    if not keep_mark:  # a mark that is not written opens nothing, unless it opens the caption
        behind = behind[starts == marks]
    alone = np.concatenate([starts, behind[behind < len(piece)]])
    alone = alone[words.part[alone] != mark]
    piece[alone] = words.word[alone]
    piece[marks] = 2 * n
    return grouped(words.row, vocabulary.pieces.gather(piece))["item"].list.join("")


def count_posts(row: np.ndarray, word: np.ndarray) -> np.ndarray:
    """By word, up to the greatest, the number of posts (rows) that have it; a doubled one counts once."""
    pairs = np.sort((row.astype(np.int64) << 32) | word)
    return np.bincount(pairs[np.diff(pairs, prepend=-1) != 0] & 0xFFFFFFFF)
