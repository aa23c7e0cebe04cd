"""Posts as models describe them: tags and rating of a tagger, scores, and the text that a reader saw.

A WD tagger's options are those with which SoteDiffusion was captioned (sd-scripts fdbb03c3): probabilities from a threshold
on; characters before general tags, the last of the vocabulary first; the rating is the most probable of four.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repro.blocked_tags import blocked_words
from repro.errors import StageError
from repro.params import ALWAYS_BLOCKED, Caption, ScoresAbove

import numpy as np
import polars as pl

from booru.captioning.annotations import (
    AESTHETIC,
    CHARACTER_CATEGORY,
    GENERAL_CATEGORY,
    QUALITY,
    TAGS,
    TEXT,
    answer_prefix,
    read_annotations,
    read_answers,
    read_vocabulary,
)
from booru.captioning.reader_text import text_word
from booru.captioning.tagger_words import character_words
from booru.captioning.thresholds import reaches, reaches_as_blocked
from booru.filtering.blocked import blocked_ids, with_kin
from booru.lists import lists_of
from booru.ratings import RATINGS
from booru.shards import shard_name
from booru.tags import TAG_TYPES

SCORE_COLUMNS = {AESTHETIC: "aesthetic_score", QUALITY: "quality_score"}
# Why a post that the filter kept is not captioned, in the order in which it is asked.
BLOCKED, RATING = "blocked tag", "rating not allowed"
LOW_SCORE = {AESTHETIC: "aesthetic score too low", QUALITY: "quality score too low"}
REASONS = (BLOCKED, RATING, *LOW_SCORE.values())
DROPPED_SCHEMA = {"id": pl.Int64, "reason": pl.String}


@dataclass(frozen=True)
class Asked:
    """What captions take from the annotations in `folder`: `kinds` of them are there.

    caption: the parameters' section as JSON, so that it can be a key; blocked_tags, ratings: the filter's.
    """

    folder: Path
    kinds: tuple[str, ...]
    caption: str
    blocked_tags: tuple[str, ...]
    ratings: tuple[str, ...]

    @property
    def settings(self) -> Caption:
        return Caption.model_validate_json(self.caption)

    @property
    def tagged(self) -> bool:
        """Whether tags and ratings are the tagger's."""
        return self.settings.tags == "annotations"


def refuse_missing_annotations(caption: Caption, kinds: list[str], where: str) -> None:
    """Raises:
    StageError: the captions need a model that was not asked."""
    scores = [*caption.repeats, *([caption.above] if caption.above else [])]
    needed = {"caption.tags: annotations": TAGS} if caption.tags == "annotations" else {}
    needed |= {
        f"caption.above or repeats: {kind}": kind
        for kind in SCORE_COLUMNS
        if any(getattr(score, kind) is not None for score in scores)
    }
    for key, kind in needed.items():
        if kind not in kinds:
            raise StageError(f"{where}: no annotations of annotate.{kind}, which {key} needs; run the annotate stage with it")


def told_ratings(asked: Asked, number: int, ids: pl.Series) -> pl.Series:
    """The ratings (i8) that the tagger tells of the posts of a shard."""
    return _most_probable(read_annotations(asked.folder, TAGS, number, ids, ["ratings"])["ratings"])


def _most_probable(ratings: pl.Series) -> pl.Series:
    return ratings.list.arg_max().cast(pl.Int8).alias("rating")


def blocked_places(vocabulary: pl.DataFrame, blocked_tags: Iterable[str]) -> np.ndarray:
    """By row of a vocabulary (name) whether no picture with it may be trained on: its name, or a piece of a character's, is one
    of the blocked tags, of their kin or of what is always blocked (bool)."""
    names = vocabulary["name"]
    spelled = [(place, word) for place, name in enumerate(names) for word in (name, *character_words(name))]
    named = pl.DataFrame(spelled, schema={"id": pl.Int64, "name": pl.String}, orient="row")
    blocked = np.zeros(len(names), dtype=bool)
    blocked[blocked_ids(named, [*ALWAYS_BLOCKED, *blocked_tags])] = True
    return blocked


class AnnotatedPosts:
    """Turns kept posts into posts as the models describe them, a shard at a time.

    Attributes:
        tags: the metadata's tag table and behind it, where tags are the tagger's, its vocabulary under ids of its own.
        texts: what captions can say of texts in pictures, each once, sorted; those that say a blocked tag are not among them.
    """

    def __init__(self, asked: Asked, tags: pl.DataFrame):
        self._asked, self._caption = asked, asked.settings
        self.tags = tags
        if TAGS in asked.kinds:
            vocabulary = read_vocabulary(asked.folder)
            self._is_character = vocabulary["category"].to_numpy() == CHARACTER_CATEGORY
            self._threshold = np.where(self._is_character, self._caption.character_threshold, self._caption.general_threshold)
            self._blocked = blocked_places(vocabulary, asked.blocked_tags)
            if asked.tagged:
                self._take_tags_of(vocabulary, tags)
        self.texts = pl.Series(dtype=pl.String)
        if TEXT in asked.kinds:
            self._prefix = answer_prefix(asked.folder)
            words = [self._text_words(answers, file) for file, answers in read_answers(asked.folder)]
            every = pl.concat([self.texts, *words]).drop_nulls().unique().sort()
            names = sorted(with_kin([*ALWAYS_BLOCKED, *asked.blocked_tags]))
            blocked = pl.Series([blocked_words(word, names) is not None for word in every], dtype=pl.Boolean)
            self.texts, self._blocked_texts = every.filter(~blocked), every.filter(blocked)

    def _take_tags_of(self, vocabulary: pl.DataFrame, tags: pl.DataFrame) -> None:
        self._custom = tags.filter(pl.col("type") == TAG_TYPES.index("custom"))["id"]
        self._first_id = int(tags["id"].max() or 0) + 1
        types = {GENERAL_CATEGORY: TAG_TYPES.index("general"), CHARACTER_CATEGORY: TAG_TYPES.index("character")}
        told = vocabulary.select(
            id=pl.int_range(pl.len()) + self._first_id,
            name="name",
            type=pl.col("category").replace_strict(types, default=None, return_dtype=pl.Int64),
        ).drop_nulls()
        self.tags = pl.concat([tags.select("id", "name", "type"), told.cast(tags.select("id", "name", "type").schema)])

    def described(self, posts: pl.DataFrame, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The posts of the shard of this number that are to be captioned, and columns id and reason of the others.

        A tagger's blocked tag and a text with one drop a post whoever's tags captions have. Posts' `tags` and `rating` are the
        tagger's where the recipe says so, the metadata's custom words staying before its tags; `aesthetic_score`,
        `quality_score` and `text` (place in `texts`) are there where models were asked for them; `repeats` has what the recipe
        repeats for its scores.
        """
        why = np.full(posts.height, -1, dtype=np.int8)
        if TEXT in self._asked.kinds:
            words = self._words_of_shard(number, posts["id"])
            _give(why, BLOCKED, words.is_in(self._blocked_texts.implode()).fill_null(False).to_numpy())
            posts = posts.with_columns(self._text_places(words))
        if TAGS in self._asked.kinds:
            posts = self._with_tags(posts, number, why)
        for kind, column in SCORE_COLUMNS.items():
            if kind in self._asked.kinds:
                score = read_annotations(self._asked.folder, kind, number, posts["id"], ["score"])["score"]
                posts = posts.with_columns(score.cast(pl.Float64).alias(column))
        if self._caption.above:
            for kind, reason in LOW_SCORE.items():
                _give(why, reason, ~_exceeds(posts, self._caption.above, [kind]))
        if self._caption.repeats:
            posts = posts.with_columns(repeats=pl.Series(self._repeats(posts)))
        stays = pl.Series(why < 0)
        reasons = pl.Series(REASONS, dtype=pl.String).gather(why[why >= 0])
        dropped = pl.DataFrame({"id": posts["id"].filter(~stays), "reason": reasons}, schema=DROPPED_SCHEMA)
        return posts.filter(stays), dropped

    def _with_tags(self, posts: pl.DataFrame, number: int, why: np.ndarray) -> pl.DataFrame:
        """The posts, where captions have the tagger's tags and rating with these; those that it tells must not be trained on
        get their reason."""
        found = read_annotations(self._asked.folder, TAGS, number, posts["id"], ["ratings", "tags", "probabilities"])
        rows = np.arange(posts.height)
        row = np.repeat(rows, found["tags"].list.len().to_numpy())
        place = found["tags"].explode(empty_as_null=False).to_numpy().astype(np.int64)
        probability = found["probabilities"].explode(empty_as_null=False).to_numpy()
        threshold = self._threshold[place]
        forbidden = self._blocked[place] & reaches_as_blocked(probability, threshold)
        _give(why, BLOCKED, np.isin(rows, row[forbidden]))
        if not self._asked.tagged:
            return posts
        rating = _most_probable(found["ratings"])
        _give(why, RATING, ~rating.is_in([RATINGS.index(name) for name in self._asked.ratings]).to_numpy())

        used = reaches(probability, threshold)
        row, place = row[used], place[used]
        is_character = self._is_character[place]
        order = np.lexsort((np.where(is_character, -place, place), ~is_character, row))
        custom = posts["tags"].list.eval(pl.element().filter(pl.element().is_in(self._custom.implode())))
        custom_row = np.repeat(rows, custom.list.len().to_numpy())
        row = np.concatenate([custom_row, row[order]])
        tag = np.concatenate([custom.explode(empty_as_null=False).to_numpy(), place[order] + self._first_id]).astype(np.int32)
        order = np.argsort(row, kind="stable")
        return posts.with_columns(lists_of(row[order], pl.Series(tag[order]), posts.height).alias("tags"), rating)

    def _repeats(self, posts: pl.DataFrame) -> np.ndarray:
        """The posts' own repeats, or once, and once more for each extra of every rule that a post meets."""
        repeats = posts["repeats"].to_numpy() if "repeats" in posts.columns else np.ones(posts.height, dtype=np.int32)
        return repeats + sum(np.int32(rule.extra) * _exceeds(posts, rule, SCORE_COLUMNS) for rule in self._caption.repeats)

    def _text_words(self, answers: pl.Series, file: Path) -> pl.Series:
        try:
            words = [None if a is None else text_word(a, self._prefix, self._caption.wording) for a in answers]
        except StageError as error:
            raise StageError(f"{file}: {error}") from None
        return pl.Series("text", words, dtype=pl.String)

    def _words_of_shard(self, number: int, ids: pl.Series) -> pl.Series:
        answers = read_annotations(self._asked.folder, TEXT, number, ids, ["answer"])["answer"]
        return self._text_words(answers, self._asked.folder / TEXT / shard_name(TEXT, number))

    def _text_places(self, words: pl.Series) -> pl.Series:
        places = pl.DataFrame({"text": self.texts, "place": np.arange(len(self.texts), dtype=np.int32)})
        return words.to_frame().join(places, on="text", how="left", maintain_order="left")["place"].alias("text")


def _give(why: np.ndarray, reason: str, holds: np.ndarray) -> None:
    """Give the posts for which it holds this reason, unless they have one already."""
    why[holds & (why < 0)] = REASONS.index(reason)


def _exceeds(posts: pl.DataFrame, bounds: ScoresAbove, kinds: Iterable[str]) -> np.ndarray:
    """By post whether its scores of these kinds are above the bounds, strictly; where there is no bound they are."""
    above = np.ones(posts.height, dtype=bool)
    for kind in kinds:
        bound = getattr(bounds, kind)
        if bound is not None:
            above &= (posts[SCORE_COLUMNS[kind]] > bound).to_numpy()
    return above
