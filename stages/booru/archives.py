"""Image archives of danbooru2023: uncompressed tars, indexed once, then read by offset.

Layout (the data set's, as HakuBooru 3b00e14 reads it): `data-XXXX.tar` in the root holds the images
of the posts whose id modulo 1000 is XXXX modulo 1000; `updates/<name>/*.tar` hold later ones. The
members are `<post id>.<extension>`. HakuBooru passes over what it does not find; here an archive
that is cut short or holds anything else is refused when it is indexed, and every image that is
read later is checked against the index.
"""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from repro.errors import StageError

import polars as pl

BUCKETS = 1000
INDEX_SCHEMA = {
    "id": pl.Int64,
    "archive": pl.String,
    "member": pl.String,
    "offset": pl.Int64,
    "size": pl.Int64,
    "sha256": pl.String,
}
CHUNK = 1 << 20
# A tar ends with two blocks of zeros; without them the file was cut, perhaps between two members.
END_MARK = bytes(1024)
_MAIN_NAME = re.compile(r"data-(\d+)\.tar")
_MEMBER_NAME = re.compile(r"([0-9]{1,18})\.[A-Za-z0-9]+")


class Image(NamedTuple):
    """One row of the index: where an image's bytes lie, and which bytes they are."""

    id: int
    archive: str
    member: str
    offset: int
    size: int
    sha256: str


def archive_names(root: Path) -> list[str]:
    """Archives below `root`, relative to it: the main ones by number, then the updates by name.

    Raises:
        StageError: no such folder, no archive in it, or a tar with another kind of name in the root.
    """
    root = Path(root)
    if not root.is_dir():
        raise StageError(f"{root}: no such folder of image archives (set runtime.image_root or IMAGE_ROOT)")
    main = sorted(path.name for path in root.glob("*.tar"))
    for name in main:
        if not _MAIN_NAME.fullmatch(name):
            raise StageError(f"{root / name}: not a name of danbooru2023's archives, data-<number>.tar; move it away")
    updates = sorted(path.relative_to(root).as_posix() for path in root.glob("updates/*/*.tar"))
    if not main + updates:
        raise StageError(f"{root}: no data-<number>.tar in it; expected danbooru2023's image archives")
    return sorted(main, key=lambda name: (_number(name), name)) + updates


def scan_archive(root: Path, name: str) -> Iterator[Image]:
    """Read one archive from its first to its last byte and yield its images in its own order.

    Raises:
        StageError: not a tar, cut short, a member that is no image file of a post, or a post that
            belongs into another archive; names archive and member.
    """
    path = Path(root) / name
    main = _MAIN_NAME.fullmatch(name)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                image = Image(_post_id(path, member), name, member.name, member.offset_data, member.size, _sha256(tar, member))
                if main and image.id % BUCKETS != _number(name) % BUCKETS:
                    raise StageError(
                        f"{path}: member '{member.name}' belongs into the archive of bucket {image.id % BUCKETS}"
                        f" (post id modulo {BUCKETS}), not into this one"
                    )
                yield image
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(len(END_MARK)) != END_MARK:
                raise tarfile.ReadError("no end mark after the last member")
    except tarfile.TarError as error:
        raise StageError(f"{path}: not a whole tar archive ({error}); it was cut short or damaged, fetch it again") from None


def index_archives(root: Path, advance: Callable[[int], None]) -> tuple[pl.DataFrame, int]:
    """Index all archives below `root`.

    Where an update brings an image that a main archive has as well, the main archive's stands, as in
    HakuBooru (whose choice among several updates hangs on the file system; here that is an error).

    Args:
        advance: called with the bytes of each archive that is done.

    Returns:
        The index, sorted by id, and the number of updates' images that were passed over.

    Raises:
        StageError: as `scan_archive`, and for a post that two archives of the same kind hold.
    """
    frames = []
    for name in archive_names(root):
        frames.append(pl.DataFrame(list(scan_archive(root, name)), schema=INDEX_SCHEMA, orient="row"))
        advance((Path(root) / name).stat().st_size)
    index = pl.concat(frames).with_columns(is_update=pl.col("archive").str.starts_with("updates/"))
    index = index.sort("id", "is_update", "archive", "offset")
    _refuse_doubles(Path(root), index)
    first = index.filter((pl.col("id") != pl.col("id").shift(1)).fill_null(True))
    return first.drop("is_update"), index.height - first.height


def _refuse_doubles(root: Path, index: pl.DataFrame) -> None:
    same = (pl.col("id") == pl.col("id").shift(-1)) & (pl.col("is_update") == pl.col("is_update").shift(-1))
    double = index.with_columns(other=pl.col("archive").shift(-1), other_member=pl.col("member").shift(-1)).filter(same).head(1)
    if double.height:
        row = double.row(0, named=True)
        raise StageError(
            f"{root}: post {row['id']} is there twice: {row['archive']} member '{row['member']}' and {row['other']}"
            f" member '{row['other_member']}'; remove one of them"
        )


def _number(name: str) -> int:
    return int(_MAIN_NAME.fullmatch(name)[1])


def _post_id(path: Path, member: tarfile.TarInfo) -> int:
    if not member.isreg() or member.issparse():
        kind = "a folder" if member.isdir() else "not a plain file"
        raise StageError(f"{path}: member '{member.name}' is {kind}; expected files named <post id>.<extension>")
    match = _MEMBER_NAME.fullmatch(member.name)
    if not match:
        raise StageError(f"{path}: member '{member.name}' is not named <post id>.<extension>")
    return int(match[1])


def _sha256(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    digest = hashlib.sha256()
    left = member.size
    file = tar.extractfile(member)
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise tarfile.ReadError(f"member '{member.name}' ends {left} bytes early")
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


class ImageIndex:
    """The index file, read in pieces.

    Raises:
        StageError: no such file, not parquet, or other columns than an image index has.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise StageError(f"{self.path}: no such image index; stages/index_images.py makes it")
        try:
            schema = pl.read_parquet_schema(self.path)
        except pl.exceptions.PolarsError:
            raise StageError(f"{self.path}: not a parquet file; stages/index_images.py makes the image index") from None
        for name, kind in INDEX_SCHEMA.items():
            if schema.get(name) != kind:
                found = f"is {schema[name]}" if name in schema else "is missing"
                raise StageError(f"{self.path}: column {name} {found}, expected {kind}; make it with stages/index_images.py")

    def ids(self) -> pl.Series:
        """Ids of all images, ascending."""
        ids = pl.read_parquet(self.path, columns=["id"])["id"]
        if not (ids.is_sorted() and ids.is_unique().all()):
            raise StageError(f"{self.path}: ids are not ascending and unique; make it again with stages/index_images.py")
        return ids

    def join_to(self, posts: pl.DataFrame) -> pl.DataFrame:
        """The posts (sorted by id, all in the index) with the index's columns behind their own."""
        span = pl.col("id").is_between(posts["id"].min(), posts["id"].max())
        places = pl.scan_parquet(self.path).filter(span).select(list(INDEX_SCHEMA)).collect(engine="in-memory")
        return posts.join(places, on="id", how="inner", maintain_order="left", validate="1:1")


class ImageArchives:
    """Reads images from the archives below `root` and checks each against its row of the index."""

    def __init__(self, root: Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise StageError(f"{self.root}: no such folder of image archives (set runtime.image_root or IMAGE_ROOT)")

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The image file's bytes.

        Args:
            row: id, archive, offset, size and sha256 of the image, as in the index.

        Raises:
            StageError: the archive is missing or cut short, or holds other bytes than were indexed.
        """
        path = self.root / row["archive"]
        try:
            with open(path, "rb") as file:
                file.seek(row["offset"])
                data = file.read(row["size"])
        except FileNotFoundError:
            raise StageError(
                f"{path}: missing, needed for post {row['id']}; fetch it, or set runtime.image_root to where the archives are"
            ) from None
        if len(data) != row["size"]:
            raise StageError(f"{path}: cut short, it ends before the image of post {row['id']}; fetch it again")
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise StageError(
                f"{path}: the image of post {row['id']} is not the one that was indexed; fetch the archive again,"
                " or index it again with stages/index_images.py and filter anew"
            )
        return data
