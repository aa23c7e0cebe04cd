"""The folder of generated pictures: PNG files in tar archives, and the list of them, pictures.csv.

    pictures.csv            a row a picture: who made it, what was asked for, and where its bytes lie
    pictures-00000.tar      uncompressed POSIX archives (ustar) of at most 512 MiB, `<model>/<mode>/<number>/<character>.png`
    sampling.json           the settings by which all were sampled
    MANIFEST.json           sha256 of every file

The bytes follow from the pictures alone: members have no times, owners or names of users.
"""

import csv
import functools
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import check_manifest, sha256_json, write_manifest
from repro.outputs import json_text, whole_folder

from PIL import Image

from generation.requests import PictureRequest

LIST_NAME, SAMPLING_NAME = "pictures.csv", "sampling.json"
COLUMNS = (
    "model", "mode", "character", "template", "number", "artist", "seed", "prompt",
    "archive", "member", "offset", "size", "sha256",
)  # fmt: skip
NUMBERS = ("number", "seed", "offset", "size")
REQUESTED = {field.name for field in fields(PictureRequest)}
ARCHIVE_BYTES = 512 << 20
# Model, request, PNG file.
Row = tuple[str, PictureRequest, Path]
# Of a name in an archive, so that the header holds the member's whole path.
NAME_LETTERS = 60


@dataclass(frozen=True)
class GeneratedPicture:
    """A picture of the folder: the model's name, what it was asked for, and the place and sha256 of the PNG file."""

    model: str
    request: PictureRequest
    archive: str
    member: str
    offset: int
    size: int
    sha256: str


class PictureFolder:
    """A folder that `write_picture_folder` wrote.

    Attributes: pictures, model by model in the order given, of each in the requests' order; models: their names; sampling:
    how all were sampled.
    """

    def __init__(self, folder: Path):
        """Raises:
        StageError: files are missing or changed, or the list has other columns."""
        self.folder = Path(folder)
        check_manifest(self.folder)
        self.pictures = _read_list(self.folder / LIST_NAME)
        self.models = tuple(dict.fromkeys(picture.model for picture in self.pictures))
        self.sampling = _read_sampling(self.folder / SAMPLING_NAME)

    @property
    def open(self) -> Callable[[GeneratedPicture], Image.Image]:
        """`open_picture` of this folder: for worker processes, which are sent neither it nor its whole list."""
        return functools.partial(open_picture, self.folder)


def open_picture(folder: Path, picture: GeneratedPicture) -> Image.Image:
    """The decoded picture.

    Raises:
        StageError: its archive is missing or cut short, or holds other bytes than the list says.
    """
    path = folder / picture.archive
    try:
        with open(path, "rb") as file:
            file.seek(picture.offset)
            data = file.read(picture.size)
    except FileNotFoundError:
        raise StageError(f"{path}: missing, with the picture {picture.member}; run the generate stage again") from None
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise StageError(f"{path}: the picture {picture.member} is not the one that was written; run the generate stage again")
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _read_sampling(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StageError(f"{path}: missing; the folder is not one of the generate stage")
    return json.loads(path.read_bytes())


def _read_list(path: Path) -> list[GeneratedPicture]:
    if not path.is_file():
        raise StageError(f"{path}: missing; the folder is not one of the generate stage")
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if tuple(header) != COLUMNS:
        raise StageError(
            f"{path}: its columns are {', '.join(header)}, expected {', '.join(COLUMNS)}; run the generate stage again"
        )
    return [_picture_of(dict(zip(COLUMNS, row, strict=True))) for row in rows]


def _picture_of(row: dict[str, str]) -> GeneratedPicture:
    values = row | {name: int(row[name]) for name in NUMBERS}
    request = PictureRequest(**{name: value for name, value in values.items() if name in REQUESTED})
    return GeneratedPicture(request=request, **{name: value for name, value in values.items() if name not in REQUESTED})


def write_picture_folder(folder: Path, rows: Iterable[Row], sampling: dict[str, Any]) -> None:
    """Pack pictures into `folder`, which replaces what was there.

    Args:
        rows: model by model; sampling: the settings by which all were sampled, to be told from others'.
    """
    with whole_folder(folder) as target:
        pictures = [
            picture
            for number, portion in enumerate(_portions(rows))
            for picture in _write_archive(target / f"pictures-{number:05d}.tar", portion)
        ]
        _write_list(target / LIST_NAME, pictures)
        (target / SAMPLING_NAME).write_text(json_text(sampling), encoding="utf-8")
        write_manifest(target, sha256_json([[p.model, asdict(p.request), p.sha256] for p in pictures]))


def _portions(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The rows in order, as many together as one archive holds."""
    # An archive ends with two empty blocks, and is filled up to whole records.
    room = ARCHIVE_BYTES // tarfile.RECORDSIZE * tarfile.RECORDSIZE - 2 * tarfile.BLOCKSIZE
    portion, taken = [], 0
    for row in rows:
        size = tarfile.BLOCKSIZE * (1 + -(-row[2].stat().st_size // tarfile.BLOCKSIZE))  # with its header
        if portion and taken + size > room:
            yield portion
            portion, taken = [], 0
        portion.append(row)
        taken += size
    if portion:
        yield portion


def _write_archive(path: Path, rows: Iterable[Row]) -> Iterator[GeneratedPicture]:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for model, request, file in rows:
            data = file.read_bytes()
            member = tarfile.TarInfo(f"{model}/{request.mode}/{request.number:04d}/{member_name(request.character)}.png")
            member.size, offset = len(data), archive.offset + tarfile.BLOCKSIZE
            archive.addfile(member, io.BytesIO(data))
            yield GeneratedPicture(model, request, path.name, member.name, offset, len(data), hashlib.sha256(data).hexdigest())


def member_name(character: str) -> str:
    """A tag as a file name that every system takes; where that changes it, a digest keeps it apart from others."""
    safe = re.sub(r"[^A-Za-z0-9_.()!'-]", "_", character)[:NAME_LETTERS]
    return safe if safe == character else f"{safe}-{hashlib.sha256(character.encode()).hexdigest()[:12]}"


def _write_list(path: Path, pictures: Iterable[GeneratedPicture]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        # Texts stand in quotes: the writer would leave a lone carriage return without.
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        for picture in pictures:
            values = asdict(picture)
            writer.writerow(values.pop("request") | values)
