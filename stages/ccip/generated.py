"""The folders of the references and generate stages as what is scored."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import sha256_json

from ccip.pictured import Drawn, PicturedCharacter
from ccip.sources import PictureSource
from characters.references import Reference
from generation.picture_folder import GeneratedPicture, PictureFolder
from generation.requests import PictureRequest


@dataclass(frozen=True)
class GeneratedPictures:
    """What every model was asked for, and what it drew.

    folders: where the pictures lie; requests, sampling: the same for all models; by_model: each model's pictures, one a
    request in their order; the models in the order of the folders.
    """

    folders: tuple[Path, ...]
    requests: tuple[PictureRequest, ...]
    sampling: dict[str, Any]
    by_model: dict[str, tuple[PictureSource, ...]]

    @property
    def modes(self) -> list[str]:
        """The modes of the requests, each at its first place."""
        return list(dict.fromkeys(request.mode for request in self.requests))

    @property
    def requests_sha256(self) -> str:
        """sha256 of what every model was asked for, and how its answer was sampled."""
        return sha256_json({"requests": [asdict(request) for request in self.requests], "sampling": self.sampling})


def read_generated_pictures(folders: Sequence[Path]) -> GeneratedPictures:
    """The pictures of all models of these folders.

    Raises:
        StageError: a folder is not one of the generate stage or has no pictures, a model stands in two of them, or models
            were asked for different pictures or sampled in different ways.
    """
    asked: dict[str, list[PictureRequest]] = {}
    by_model: dict[str, tuple[PictureSource, ...]] = {}
    places: dict[str, Path] = {}
    sampled: dict[Path, dict[str, Any]] = {}
    for path in folders:
        folder = PictureFolder(path)
        sampled[path] = folder.sampling
        if not folder.pictures:
            raise StageError(f"{path}: there are no pictures in it; make it again with the generate stage")
        for model in folder.models:
            if model in places:
                raise StageError(f"{path}: a model named '{model}' stands in {places[model]} already; draw one by another name")
            rows = [picture for picture in folder.pictures if picture.model == model]
            places[model] = path
            asked[model] = [row.request for row in rows]
            by_model[model] = tuple(_source(folder, row) for row in rows)
    first = next(iter(asked))
    for model, requests in asked.items():
        if requests != asked[first]:
            raise StageError(
                f"{places[model]}: {model} was asked for other pictures than {first} in {places[first]}; make them again with"
                " the generate stage, from one references.json and one recipe"
            )
    for path, sampling in sampled.items():
        differing = [key for key, value in sampling.items() if value != sampled[folders[0]].get(key)]
        if differing:
            raise StageError(
                f"{path}: its pictures were sampled with another {differing[0]} than those of {folders[0]}; make them again with"
                " the generate stage, by one recipe"
            )
    return GeneratedPictures(tuple(folders), tuple(asked[first]), sampled[folders[0]], by_model)


def pictured_characters(
    references: Sequence[Reference], posts: Sequence[PictureSource], generated: GeneratedPictures
) -> list[PicturedCharacter]:
    """Each character with its reference pictures and what every model drew of it, in the order of the requests.

    Args:
        posts: the references' pictures, character by character.

    Raises:
        StageError: pictures of other characters than the references'.
    """
    _check_characters(generated, references)
    places: dict[str, dict[str, list[int]]] = {}
    for place, request in enumerate(generated.requests):
        places.setdefault(request.character, {}).setdefault(request.mode, []).append(place)
    characters, start = [], 0
    for reference in references:
        own = tuple(posts[start : start + len(reference.posts)])
        start += len(own)
        drawn = {
            (model, mode): Drawn(
                tuple(generated.requests[place].number for place in asked), tuple(sources[place] for place in asked)
            )
            for model, sources in generated.by_model.items()
            for mode, asked in places[reference.character].items()
        }
        characters.append(PicturedCharacter(reference, tuple(map(str, reference.posts)), own, drawn))
    return characters


def check_reference_pictures(folder: Path, kept: Sequence[str], posts: Sequence[PictureSource]) -> None:
    """The images that the index has now are those whose features the references stage kept.

    Args:
        folder: of the references stage, for the error; kept: the pictures' sha256 then.

    Raises:
        StageError: a picture has another sha256 than then.
    """
    for source, sha256 in zip(posts, kept, strict=True):
        if source.sha256 != sha256:
            raise StageError(f"{folder}: {source.name} has changed since it was encoded; make it again with the references stage")


def _source(folder: PictureFolder, row: GeneratedPicture) -> PictureSource:
    return PictureSource(f"{folder.folder / row.archive}: {row.member}", row.sha256, functools.partial(folder.open, row))


def _check_characters(generated: GeneratedPictures, references: Sequence[Reference]) -> None:
    asked = {request.character for request in generated.requests}
    wanted = {reference.character for reference in references}
    for names, where in ((wanted - asked, "no pictures"), (asked - wanted, "pictures, but no references")):
        if names:
            raise StageError(
                f"{', '.join(map(str, generated.folders))}: '{min(names)}' has {where}; the pictures are of another list of"
                " references: make them again"
            )
