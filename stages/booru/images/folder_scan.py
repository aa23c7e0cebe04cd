"""Plain folders of pictures below the image root: found, given their ids, and read with their sidecars.

Every folder of the root but `updates` is a source named by it. Its pictures, at any depth, are known
by their extension; the sidecar of `a.png` is `a.json` or `a.png.json` (gallery-dl's name), else `a.txt` or
`a.png.txt`. Hidden files and folders (a leading dot) are not looked at.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from repro.errors import StageError
from repro.params import FIRST_FOLDER_ID

import polars as pl

from booru.images.folders import ID_BITS, folder_id
from booru.images.image_rows import (
    NO_SIDECAR,
    PICTURE_EXTENSIONS,
    CutShortError,
    ImageRow,
    Place,
    SidecarText,
    extension_of,
    frame_of,
    read_row,
)
from booru.images.tars import UPDATES, update_files

# Pictures of one task, and so what is read again when one of them has changed.
PORTION = 1000


class Picture(NamedTuple):
    """A picture that was found: its path below the root, its sidecar's name beside it ("" for none), and what shows
    that neither has changed between two runs."""

    id: int
    path: str
    size: int
    mtime_ns: int
    sidecar: str
    sidecar_size: int
    sidecar_mtime_ns: int


PICTURE_SCHEMA = {
    "id": pl.Int64,
    "path": pl.String,
    "size": pl.Int64,
    "mtime_ns": pl.Int64,
    "sidecar": pl.String,
    "sidecar_size": pl.Int64,
    "sidecar_mtime_ns": pl.Int64,
}


@dataclass
class Strays:
    """Files that are no archive, no picture and no picture's sidecar."""

    count: int = 0
    first: str = ""

    def add(self, paths: list[str]) -> None:
        if paths and not self.count:
            self.first = min(paths)
        self.count += len(paths)


def find_pictures(root: Path) -> tuple[pl.DataFrame, Strays]:
    """All pictures of the folders below `root`, sorted by id (columns of `PICTURE_SCHEMA`), and the files left alone.

    Raises:
        StageError: two pictures of one id, two of one stem in one folder, a link that leads nowhere or in a circle,
            or a name that is not UTF-8; names the files.
    """
    root, strays = Path(root), Strays()
    strays.add([entry.name for entry in _entries(root, "") if not entry.is_dir() and not entry.name.endswith(".tar")])
    strays.add([name for name in update_files(root) if not name.endswith(".tar")])
    sources = [entry.name for entry in _entries(root, "") if entry.is_dir() and entry.name != UPDATES]
    pictures = (picture for source in sources for picture in _pictures_below(root, source, (), strays))
    frame = frame_of(pictures, PICTURE_SCHEMA).sort("id", "path")
    _refuse_equal_ids(root, frame)
    return frame, strays


def portions(pictures: pl.DataFrame) -> list[list[Picture]]:
    """The pictures in spans of ids of equal width, about `PORTION` each: a new picture changes no other span's."""
    bits = max(0, (max(pictures.height, 1) - 1) // PORTION).bit_length()
    number = (pl.col("id") - FIRST_FOLDER_ID) // 2 ** (ID_BITS - bits)
    groups = pictures.group_by(number, maintain_order=True)
    return [[Picture(*row) for row in group.rows()] for _, group in groups]


def read_pictures(root: Path, pictures: list[Picture]) -> Iterator[ImageRow]:
    """Read pictures and their sidecars, folder by folder.

    Raises:
        StageError: a file changed since it was found, or a sidecar that is not UTF-8.
    """
    for picture in sorted(pictures, key=lambda picture: picture.path):
        path = Path(root) / picture.path
        place = Place(picture.id, picture.path, path.name, 0, picture.size)
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            try:
                row = read_row(place, file, _read_sidecar(path.with_name(picture.sidecar)) if picture.sidecar else NO_SIDECAR)
            except CutShortError:
                row = None
        if row is None or (status.st_size, status.st_mtime_ns) != (picture.size, picture.mtime_ns):
            raise StageError(f"{path}: changed while the index was made; run again when nothing writes here")
        yield row


def _read_sidecar(path: Path) -> SidecarText:
    try:
        return SidecarText(path.name, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def _entries(root: Path, folder: str) -> list[os.DirEntry]:
    """What stands in a folder, hidden things aside, by name."""
    with os.scandir(root / folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in found:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise StageError(f"{root / folder}: the name {os.fsencode(entry.name)!r} is not UTF-8; rename it") from None
        if entry.is_symlink() and not Path(entry.path).exists():
            raise StageError(f"{entry.path}: a link that leads nowhere; mend it or take it away")
    return sorted(found, key=lambda entry: entry.name)


def _pictures_below(root: Path, folder: str, above: tuple[str, ...], strays: Strays) -> Iterator[Picture]:
    real = os.path.realpath(root / folder)
    if real in above:
        raise StageError(f"{root / folder}: a link to a folder that it stands in; take it away")
    entries = _entries(root, folder)
    yield from _pictures_in(root, folder, [entry for entry in entries if not entry.is_dir()], strays)
    for entry in entries:
        if entry.is_dir():
            yield from _pictures_below(root, f"{folder}/{entry.name}", (*above, real), strays)


def _pictures_in(root: Path, folder: str, files: list[os.DirEntry], strays: Strays) -> Iterator[Picture]:
    by_name = {entry.name: entry for entry in files}
    names = [name for name in by_name if extension_of(name) in PICTURE_EXTENSIONS and by_name[name].is_file()]
    _refuse_equal_stems(root / folder, names)
    known = set(names)
    for name in names:
        beside = [sidecar for sidecar in _sidecar_names(name) if sidecar in by_name]
        known.update(beside)
        yield _found(f"{folder}/{name}", by_name[name], by_name[beside[0]] if beside else None)
    strays.add([f"{folder}/{name}" for name in by_name if name not in known])


def _found(path: str, picture: os.DirEntry, sidecar: os.DirEntry | None) -> Picture:
    status = picture.stat()
    if sidecar is None:
        return Picture(folder_id(path), path, status.st_size, status.st_mtime_ns, "", 0, 0)
    beside = sidecar.stat()
    return Picture(folder_id(path), path, status.st_size, status.st_mtime_ns, sidecar.name, beside.st_size, beside.st_mtime_ns)


def _sidecar_names(picture: str) -> list[str]:
    """Names that a picture's sidecar may have, the one that counts first."""
    stem = PurePosixPath(picture).stem
    return [f"{stem}.json", f"{picture}.json", f"{stem}.txt", f"{picture}.txt"]


def _refuse_equal_stems(folder: Path, pictures: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in pictures:
        other = seen.setdefault(PurePosixPath(name).stem, name)
        if other != name:
            raise StageError(f"{folder}: {other} and {name} would share a sidecar; rename one of them")


def _refuse_equal_ids(root: Path, pictures: pl.DataFrame) -> None:
    same = pictures.with_columns(other=pl.col("path").shift(-1)).filter(pl.col("id") == pl.col("id").shift(-1)).head(1)
    if same.height:
        row = same.row(0, named=True)
        raise StageError(f"{root}: {row['path']} and {row['other']} would have one id, {row['id']}; rename one of them")
