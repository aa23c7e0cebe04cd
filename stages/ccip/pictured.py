"""The pictures of each character that are scored: its references, and what every model drew of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from repro.hashing import sha256_json

import numpy as np

from ccip.results import CharacterFeatures
from ccip.sources import PictureSource
from characters.references import Reference


@dataclass(frozen=True)
class Drawn:
    """The pictures of one character by one model in one mode, and their numbers in reports."""

    numbers: tuple[int, ...]
    sources: tuple[PictureSource, ...]


@dataclass(frozen=True)
class PicturedCharacter:
    """A character's reference pictures, what reports call them (post id or file name), and the drawn ones by (model, mode)."""

    reference: Reference
    labels: tuple[str, ...]
    references: tuple[PictureSource, ...]
    pictures: dict[tuple[str, str], Drawn]


def all_references(characters: Sequence[PicturedCharacter]) -> list[PictureSource]:
    """The references of all characters, character by character."""
    return [source for character in characters for source in character.references]


def all_pictures(characters: Sequence[PicturedCharacter]) -> list[PictureSource]:
    """The drawn pictures of all characters, character by character."""
    return [source for character in characters for drawn in character.pictures.values() for source in drawn.sources]


def reference_digests(characters: Sequence[PicturedCharacter]) -> dict[str, str]:
    """{character: sha256 of the sorted list of its reference pictures' sha256}: names and order of the files are not in it."""
    return {
        character.reference.character: sha256_json(sorted(source.sha256 for source in character.references))
        for character in characters
    }


def group_features(
    characters: Sequence[PicturedCharacter], references: np.ndarray, pictures: np.ndarray
) -> list[CharacterFeatures]:
    """Features by character, of those of `all_references` and `all_pictures`, [n, dims] each."""
    grouped = []
    reference_row = picture_row = 0
    for character in characters:
        own = references[reference_row : reference_row + len(character.references)]
        reference_row += len(own)
        drawn = {}
        for key, asked in character.pictures.items():
            drawn[key] = pictures[picture_row : picture_row + len(asked.sources)]
            picture_row += len(asked.sources)
        grouped.append(CharacterFeatures(character.reference, own, drawn))
    if reference_row != len(references) or picture_row != len(pictures):
        raise ValueError(f"{len(references)} and {len(pictures)} features for {reference_row} references, {picture_row} pictures")
    return grouped
