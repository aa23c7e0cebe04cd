"""Choose characters' reference pictures, and what they are asked for by, from a booru's metadata.

The rules follow deepghs/character_index, over which Kohaku XL Delta was scored: pictures of the character alone, tags of
its looks on at least so many of them, a gender where one is clearly more frequent. Pictures are drawn by key, so that one
that comes or goes in a later revision of the metadata changes at most one other.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.params import Filter, References
from repro.randomness import seed_for

import numpy as np
import polars as pl

from booru.images.archives import ImageIndex
from booru.selection.draws import keyed_draw
from booru.shards import numbered_frames, read_tags, shard_files
from booru.tags import TAG_TYPES, by_tag_id
from characters.candidates import candidates
from characters.core_tags import core_tags, looks
from characters.near_duplicates import HASHES, without_near_duplicates
from characters.references import Reference, ReferenceList, Skipped
from characters.tag_counts import TagCounts, tag_hits
from characters.training import NamingCaptions, TrainingPictures, among

PURPOSE = "references"
MOST_ARTISTS = 8
GENDER_TAGS = ("1girl", "1boy")
# deepghs' kohaku_bomber names a gender where the shares of girls and boys differ by this much.
CLEAR_GENDER = 0.1
# A series that is on fewer of the pictures is a guest's.
SERIES_SHARE = 0.5


def choose_references(
    source: Path, wanted: Sequence[str], counts: dict[str, int], settings: References, rules: Filter, captions: Path,
    training: TrainingPictures, index: ImageIndex, seed: int,
) -> ReferenceList:  # fmt: skip
    """References for the wanted characters, and those that have not enough of them as skipped, both by tag.

    Args:
        source: folder of the ingest stage; counts: training pictures of each character.

    Raises:
        StageError: no such folder, a file of it was changed, or the captions come from another one.
    """
    files, tags = shard_files(source, "posts"), read_tags(source)
    names = sorted(wanted)
    naming = NamingCaptions(captions, tags, names)
    found = candidates(files, tags, names, settings, rules, training, index)
    if rules.near_duplicates:
        learned = naming.pictures(found["character"].unique().to_list() if settings.unseen else (), index, HASHES)
        found = without_near_duplicates(found, learned, rules.near_duplicates)
    posts_of = list(_by_character(found, len(names)))
    enough, few = [], []
    for number, posts in enumerate(posts_of):
        (enough if len(posts) >= settings.pictures else few).append(number)
    artists = naming.artists(MOST_ARTISTS)
    told = CharacterTags(files, tags, found.filter(pl.col("character").is_in(enough)))
    references = [
        Reference(
            character=names[number],
            series=told.series(number, len(posts_of[number])),
            gender_tag=told.gender_tag(number, len(posts_of[number])),
            core_tags=told.core_tags(number, len(posts_of[number]), settings.core_tag_share),
            artists=artists[number],
            posts=_drawn(posts_of[number], settings.pictures, seed_for(seed, PURPOSE, names[number])),
            held_out_artists=(),
            training_pictures=counts[names[number]],
        )
        for number in enough
    ]
    return ReferenceList(tuple(references), tuple(Skipped(names[n], _too_few(len(posts_of[n]), settings)) for n in few))


def _by_character(found: pl.DataFrame, characters: int) -> Iterator[np.ndarray]:
    """The candidates' ids (ascending), character by character."""
    numbers = found["character"].to_numpy()
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(characters + 1))
    ids = found["id"].to_numpy()[order]
    return (ids[start:end] for start, end in itertools.pairwise(bounds))


def _too_few(posts: int, settings: References) -> str:
    unseen = "unseen " if settings.unseen else ""
    return f"{posts} {unseen}pictures that show the character alone, evaluate.references.pictures needs {settings.pictures}"


def _drawn(ids: np.ndarray, take: int, key: int) -> tuple[int, ...]:
    return tuple(ids[keyed_draw(ids, take, key)].tolist())


class CharacterTags:
    """What characters' candidates say about them: the tags that their posts have.

    Args:
        files, tags: shards and tag table of the ingest stage; found: the candidates (id ascending, character's number).
    """

    def __init__(self, files: Sequence[Path], tags: pl.DataFrame, found: pl.DataFrame):
        self._names = tags["name"]
        self._types = tags["type"].to_numpy()
        self._looks = looks(tags)
        self._row_of = by_tag_id(tags, np.arange(tags.height), default=-1)
        gender = tags["name"].is_in(GENDER_TAGS).to_numpy() & (self._types == TAG_TYPES.index("general"))
        counted = self._looks | gender | (self._types == TAG_TYPES.index("copyright"))
        wanted = by_tag_id(tags, counted, default=False)
        self._counts = TagCounts()
        ids, characters = found["id"].to_numpy(), found["character"].to_numpy()
        for _, posts in numbered_frames(list(files), ["id", "tags"]):
            posts = posts.filter(among(posts["id"].to_numpy(), ids))
            rows, hits = tag_hits(posts["tags"], wanted)
            character = characters[np.searchsorted(ids, posts["id"].to_numpy())]
            self._counts.add(character[rows], hits)

    def series(self, character: int, posts: int) -> str:
        """The most frequent copyright tag, the first by name of equals; empty where it is on less than half of the posts."""
        copyrights = self._types == TAG_TYPES.index("copyright")
        ranked = sorted((-count, name) for name, count in self._counted(character, copyrights))
        return ranked[0][1] if ranked and -ranked[0][0] / posts >= SERIES_SHARE else ""

    def gender_tag(self, character: int, posts: int) -> str:
        """1girl or 1boy, where their shares of the posts differ clearly; else empty."""
        counts = dict(self._counted(character, self._names.is_in(GENDER_TAGS).to_numpy()))
        girl, boy = (counts.get(tag, 0) for tag in GENDER_TAGS)
        if abs(girl - boy) / posts < CLEAR_GENDER:
            return ""
        return GENDER_TAGS[0] if girl > boy else GENDER_TAGS[1]

    def core_tags(self, character: int, posts: int, share: float) -> tuple[str, ...]:
        """The tags of its looks on at least this share of the posts, by count (descending), then by name."""
        return core_tags(self._counted(character, self._looks), posts, share)

    def _counted(self, character: int, kind: np.ndarray) -> list[tuple[str, int]]:
        """(name, posts) of a character's tags of a kind (a bool by row of the tag table)."""
        tags, counts = self._counts.of(character)
        rows = self._row_of[tags]
        chosen = kind[rows]
        return list(zip(self._names.gather(rows[chosen]).to_list(), counts[chosen].tolist(), strict=True))
