"""references.json: which characters are evaluated, how they are asked for, and which posts show them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from repro.errors import StageError, first_problem

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

LARGEST_POST = 2**63 - 1


@dataclass(frozen=True)
class Reference:
    """A character's tags and reference posts, in the file's order; tags as the database spells them.

    series, gender_tag: empty where there is none; core_tags: of the character's looks; artists: those who draw the
    character in the training data; held_out_artists: taught artists of whom the training data has no picture of this
    character; training_pictures: training captions that name the character.
    """

    character: str
    series: str
    gender_tag: str
    core_tags: tuple[str, ...]
    artists: tuple[str, ...]
    posts: tuple[int, ...]
    held_out_artists: tuple[str, ...]
    training_pictures: int


@dataclass(frozen=True)
class Skipped:
    """A character that cannot be scored, and why."""

    character: str
    reason: str


@dataclass(frozen=True)
class ReferenceList:
    """The characters by tag, and those that were to be evaluated but have not enough references."""

    characters: tuple[Reference, ...]
    skipped: tuple[Skipped, ...]


class _Character(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    series: str
    gender_tag: str
    artists: list[str]
    core_tags: list[str]
    posts: list[Annotated[int, Field(ge=0, le=LARGEST_POST)]]
    training_pictures: Annotated[int, Field(ge=0)] = 0

    @field_validator("posts")
    @classmethod
    def _each_post_once(cls, posts: list[int]) -> list[int]:
        repeated = [post for post, times in Counter(posts).items() if times > 1]
        if repeated:
            raise ValueError(f"post {repeated[0]} stands there twice")
        return posts


class _Skipped(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    character: str
    reason: str


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    characters: Annotated[dict[str, _Character], Field(min_length=1)]
    held_out: list[tuple[str, str]] = []
    skipped: list[_Skipped] = []


def read_references(path: Path) -> ReferenceList:
    """The characters of references.json, sorted by tag.

    Raises:
        StageError: missing, not JSON, a key missing or of another type, a post that a character has twice or that is no id
            (0 to 2^63 - 1), an unknown held-out character.
    """
    path = Path(path)
    if not path.is_file():
        raise StageError(f"{path}: no such file; expected references.json with the characters' reference posts")
    try:
        content = _File.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StageError(f"{path}: {first_problem(error)}") from None
    unknown = sorted({character for character, _ in content.held_out} - content.characters.keys())
    if unknown:
        raise StageError(f"{path}: held_out names '{unknown[0]}', which is not among the characters")
    held_out: dict[str, list[str]] = {}
    for character, artist in content.held_out:
        held_out.setdefault(character, []).append(artist)
    characters = [
        Reference(
            character=name,
            series=entry.series,
            gender_tag=entry.gender_tag,
            core_tags=tuple(entry.core_tags),
            artists=tuple(entry.artists),
            posts=tuple(entry.posts),
            held_out_artists=tuple(held_out.get(name, ())),
            training_pictures=entry.training_pictures,
        )
        for name, entry in sorted(content.characters.items())
    ]
    return ReferenceList(tuple(characters), tuple(Skipped(s.character, s.reason) for s in content.skipped))


def references_content(characters: Sequence[Reference], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """What `read_references` reads, as the content of a JSON file."""
    entries = {}
    for reference in characters:
        entry = asdict(reference)
        entries[reference.character] = {name: entry[name] for name in _Character.model_fields}
    return {
        "characters": entries,
        "held_out": [[reference.character, artist] for reference in characters for artist in reference.held_out_artists],
        "skipped": [asdict(one) for one in skipped],
    }
