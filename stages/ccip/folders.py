"""Folders of pictures, a sub-folder a character, as what is scored."""

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file

from PIL import Image

from ccip.pictured import Drawn, PicturedCharacter
from ccip.sources import UNDECODABLE, PictureSource
from characters.references import Reference, Skipped

# The one way in which the pictures of a folder were asked for.
GIVEN = "given"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class PictureFolders:
    """What folders hold: the characters that can be scored, by name; those that cannot, and why."""

    characters: list[PicturedCharacter]
    skipped: list[Skipped]


def read_picture_folders(references: Path, generated: Mapping[str, Path]) -> PictureFolders:
    """The characters of `references` and of each model's folder; their pictures sorted by name.

    Hidden files and folders are passed over. A character that has no pictures somewhere is skipped, with the reason.

    Raises:
        StageError: a folder is missing or holds anything else than sub-folders of pictures, or no character is in all.
    """
    own = character_pictures(references)
    by_model = {model: character_pictures(folder) for model, folder in generated.items()}
    characters, skipped = [], []
    for name in sorted(own.keys() | set().union(*by_model.values())):
        lacking = [model for model, pictures in by_model.items() if not pictures.get(name)]
        if not own.get(name):
            skipped.append(Skipped(name, "no reference pictures"))
        elif lacking:
            skipped.append(Skipped(name, f"no pictures of {' and '.join(lacking)}"))
        else:
            characters.append(_character(name, own[name], {model: pictures[name] for model, pictures in by_model.items()}))
    if not characters:
        folders = ", ".join(map(str, generated.values()))
        raise StageError(f"{references}: none of its characters has pictures in {folders}; sub-folders must have the same names")
    return PictureFolders(characters, skipped)


def character_pictures(folder: Path) -> dict[str, list[PictureSource]]:
    """{name of the sub-folder: its pictures by file name}.

    Raises:
        StageError: no such folder, something in it that is neither a sub-folder of pictures nor hidden, or a name that the
            outputs cannot hold.
    """
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder; expected one with a sub-folder of pictures for each character")
    characters = {}
    for entry in _visible(folder):
        if not entry.is_dir():
            raise StageError(f"{entry}: a file beside the characters' sub-folders; put it into one of them, or take it away")
        characters[entry.name] = [_source(file) for file in _visible(entry)]
    return characters


def _visible(folder: Path) -> list[Path]:
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if not is_plain_text(entry.name):
            raise StageError(f"{folder}: the name {entry.name!a} in it is not UTF-8 or has control characters; rename it")
    return entries


def is_plain_text(name: str) -> bool:
    """Whether a name can stand in UTF-8 files and on one line: no bytes that Python keeps as lone surrogates since they are
    not UTF-8, no control characters."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _source(file: Path) -> PictureSource:
    if not file.is_file() or file.suffix.lower() not in SUFFIXES:
        raise StageError(f"{file}: no picture; a character's folder holds only files {', '.join(SUFFIXES)} (hidden ones aside)")
    return PictureSource(str(file), sha256_file(file), functools.partial(_open_file, file))


def _open_file(file: Path) -> Image.Image:
    try:
        image = Image.open(file)
        frames = getattr(image, "n_frames", 1)
        image.load()
    except UNDECODABLE as error:
        raise StageError(f"{file}: cannot be decoded as a picture ({error}); mend it or take it away") from None
    if frames > 1:
        raise StageError(f"{file}: has {frames} frames, and which of them counts is not said; save the one meant")
    return image


def _character(name: str, references: list[PictureSource], by_model: Mapping[str, list[PictureSource]]) -> PicturedCharacter:
    return PicturedCharacter(
        reference=Reference(
            character=name, series="", gender_tag="", core_tags=(), artists=(), posts=(), held_out_artists=(), training_pictures=0
        ),
        labels=tuple(Path(source.name).name for source in references),
        references=tuple(references),
        pictures={(model, GIVEN): Drawn(tuple(range(len(sources))), tuple(sources)) for model, sources in by_model.items()},
    )
