"""danbooru2023's image archives: which they are, and one of them read from its first to its last byte.

Layout (the data set's, as HakuBooru 3b00e14 reads it): `data-XXXX.tar` in the root holds the images
of the posts whose id modulo 1000 is XXXX modulo 1000; `updates/<folder>/*.tar` hold later ones. The
members are `<post id>.<extension>`, perhaps below a folder. HakuBooru passes over what it does not
find and dies of a folder among the members; here folders are passed over, and an archive that is
cut short or holds anything else is refused.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from repro.errors import StageError

from booru.images.archives import FOLDER_SHARD, SHARD_IDS
from booru.images.image_rows import CutShortError, ImageRow, Place, read_row

BUCKETS = 1000
UPDATES = "updates"
# A tar ends with two blocks of zeros; without them the file was cut, perhaps between two members.
END_MARK = bytes(1024)
# Ids from here on would lie in the shards of folder pictures.
END_OF_IDS = SHARD_IDS * FOLDER_SHARD
_MAIN_NAME = re.compile(r"data-(\d+)\.tar")
_FILE_NAME = re.compile(r"([0-9]{1,18})\.[A-Za-z0-9]+")


def is_update(archive: str) -> bool:
    """Whether an archive (its path below the root) is an update of the main archives."""
    return archive.startswith(UPDATES + "/")


def archive_names(root: Path) -> list[str]:
    """Archives below `root`, relative to it: the main ones by number, then the updates by folder and name.

    An earlier one of the same kind wins where two hold an image of one post. Hidden files are not looked at.

    Raises:
        StageError: no such folder, a tar with another kind of name in the root, or one in `updates/` that does
            not stand in a folder there.
    """
    root = Path(root)
    if not root.is_dir():
        raise StageError(f"{root}: no such folder; --images names the folder of the image archives and picture folders")
    main = [path.name for path in root.glob("*.tar") if not path.name.startswith(".")]
    for name in sorted(main):
        if not _MAIN_NAME.fullmatch(name):
            raise StageError(f"{root / name}: not a name of danbooru2023's archives, data-<number>.tar; move it away")
    updates = [name for name in update_files(root) if name.endswith(".tar")]
    for name in updates:
        if len(PurePosixPath(name).parts) != 3:
            raise StageError(f"{root / name}: expected updates as {UPDATES}/<folder>/<name>.tar; move it")
    return sorted(main, key=lambda name: (_number(name), name)) + updates


def update_files(root: Path) -> list[str]:
    """All files below `updates/` but hidden ones, relative to `root`, by folder and name."""
    found = []
    for folder, folders, files in os.walk(root / UPDATES, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(found, key=lambda name: PurePosixPath(name).parts)


def scan_archive(root: Path, name: str) -> Iterator[ImageRow]:
    """Read one archive from its first to its last byte and yield its images in its own order.

    Raises:
        StageError: not a tar, cut short, a member that is no file of a post, or a post that belongs into another
            archive; names archive and member.
    """
    path = Path(root) / name
    main = _MAIN_NAME.fullmatch(name)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                post = _post_id(path, member)
                if main and post % BUCKETS != _number(name) % BUCKETS:
                    raise StageError(
                        f"{path}: member '{member.name}' belongs into the archive of bucket {post % BUCKETS}"
                        f" (post id modulo {BUCKETS}), not into this one"
                    )
                place = Place(post, name, member.name, member.offset_data, member.size)
                yield read_row(place, tar.extractfile(member))
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(len(END_MARK)) != END_MARK:
                raise tarfile.ReadError("no end mark after the last member")
    except (tarfile.TarError, CutShortError) as error:
        raise StageError(f"{path}: not a whole tar archive ({error}); it was cut short or damaged, fetch it again") from None


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # there need not be any updates
        raise error


def _number(name: str) -> int:
    return int(_MAIN_NAME.fullmatch(name)[1])


def _post_id(path: Path, member: tarfile.TarInfo) -> int:
    if not member.isreg() or member.issparse():
        raise StageError(f"{path}: member '{member.name}' is not a plain file; expected files named <post id>.<extension>")
    match = _FILE_NAME.fullmatch(PurePosixPath(member.name).name)
    if not match:
        raise StageError(f"{path}: member '{member.name}' is not named <post id>.<extension>")
    post = int(match[1])
    if post >= END_OF_IDS:
        raise StageError(f"{path}: member '{member.name}' has a post id of {END_OF_IDS} or more, which no booru has reached")
    return post
