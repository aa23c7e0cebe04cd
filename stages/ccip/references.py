"""references.json: which characters are scored, by which of their pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from repro.errors import StageError

from pydantic import BaseModel, ConfigDict, Field, ValidationError


@dataclass(frozen=True)
class Reference:
    """A character's tags and reference posts, in the file's order.

    artists: those who draw the character in the training data; held_out_artists: taught artists of
    whom the training data has no picture of this character.
    """

    character: str
    series: str
    gender_tag: str
    artists: tuple[str, ...]
    posts: tuple[int, ...]
    held_out_artists: tuple[str, ...]


class _Character(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    series: str
    gender_tag: str
    artists: list[str]
    posts: list[int]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    characters: Annotated[dict[str, _Character], Field(min_length=1)]
    held_out: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Skipped:
    """A character that cannot be scored, and why."""

    character: str
    reason: str


def read_references(path: Path) -> list[Reference]:
    """The characters of references.json, sorted by tag.

    Raises:
        StageError: missing, not JSON, a key missing or of another type, an unknown held-out character.
    """
    path = Path(path)
    if not path.exists():
        raise StageError(f"{path}: no such file; expected references.json with the characters' reference posts")
    try:
        content = _File.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StageError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None
    unknown = sorted({character for character, _ in content.held_out} - content.characters.keys())
    if unknown:
        raise StageError(f"{path}: held_out names '{unknown[0]}', which is not among the characters")
    return [
        Reference(
            character=name,
            series=entry.series,
            gender_tag=entry.gender_tag,
            artists=tuple(entry.artists),
            posts=tuple(entry.posts),
            held_out_artists=tuple(artist for character, artist in content.held_out if character == name),
        )
        for name, entry in sorted(content.characters.items())
    ]


def with_enough_posts(references: list[Reference], needed: int) -> tuple[list[Reference], list[Skipped]]:
    """Characters with at least `needed` reference posts, and the others with the reason.

    Raises:
        StageError: none is left.
    """
    scored = [r for r in references if len(r.posts) >= needed]
    skipped = [
        Skipped(r.character, f"{len(r.posts)} reference pictures, evaluate.reference_pictures needs {needed}")
        for r in references
        if len(r.posts) < needed
    ]
    if not scored:
        raise StageError(f"no character has {needed} reference pictures: lower evaluate.reference_pictures or add some")
    return scored, skipped
