"""Pictures of plain folders as posts: their ids, and their sidecars' words as tags of the booru's table."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from repro.params import FIRST_FOLDER_ID

import polars as pl

from booru.images.archives import INDEX_SCHEMA
from booru.images.image_rows import extension_of
from booru.images.sidecars import Name, Sidecar, parse_sidecar
from booru.metadata.reader import POST_SCHEMA
from booru.ratings import RATINGS
from booru.tags import TAG_TYPES

# Posts of boorus have ids below 2^52, folder pictures from there to 2^53: whole numbers that JSON still holds exactly.
ID_BITS = 52
GENERAL = TAG_TYPES.index("general")
CUSTOM = TAG_TYPES.index("custom")
# What of the image index is needed to make posts of folder pictures.
ROW_SCHEMA = {name: INDEX_SCHEMA[name] for name in ("id", "archive", "member", "width", "height", "sidecar_file", "sidecar")}


def folder_id(path: str) -> int:
    """Id of a folder's picture: 2^52 + the first 52 bits of the sha256 of its path below the image root.

    Args:
        path: posix form; NFC-normalised here, since file systems keep a name in either form.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", path).encode("utf-8")).digest()
    return FIRST_FOLDER_ID + (int.from_bytes(digest[:8], "big") >> (64 - ID_BITS))


def told_types(frames: Iterable[pl.DataFrame]) -> dict[str, int]:
    """{name with underscores: type} of the names whose type some sidecar tells, custom words aside; of two the lower id's.

    Args:
        frames: rows as for `folder_posts`, in the order of their ids.

    Raises:
        StageError: as `folder_posts`.
    """
    types: dict[str, int] = {}
    for frame in frames:
        for row in frame.sort("id").select("archive", "sidecar_file", "sidecar").iter_rows():
            for name in _sidecar(*row).tags:
                if name.type is not None and name.type != CUSTOM:
                    types.setdefault(_underscored(name.text), name.type)
    return types


def folder_posts(
    rows: pl.DataFrame, tags: pl.DataFrame, settings: Mapping[str, Any], types: Mapping[str, int]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Posts of folder pictures, sorted by id, and the tag table grown by the tags that it did not have.

    A post's tags are its folder's custom words, then the sidecar's names in their order, each tag once. A name without
    a type is the tag of that name, else of that name with underscores for spaces, custom tags aside; a name with a
    type is looked up among the tags of that type only. What is new has the type that any sidecar tells, else general.
    New tags get the ids above the table's greatest in the order of their first appearance, popularity 0, and
    underscores for spaces unless they are custom.

    Args:
        rows: rows of the image index with the columns of `ROW_SCHEMA`, of folder pictures alone.
        tags: id, name, type, popularity, sorted by id. To go through many rows in pieces, hand the grown table to the next.
        settings: {folder: object with `custom`, the words for all of its pictures, and `rating`, the name of the rating
            of those whose sidecar has none, or None}; a folder that is missing there has neither.
        types: `told_types` of all rows, so that a tag does not hang on which sidecar comes first.

    Raises:
        StageError: a sidecar that cannot be understood; names the file and the key.
    """
    rows = rows.sort("id")
    sources = [PurePosixPath(archive).parts[0] for archive in rows["archive"]]
    sidecars = [_sidecar(*row) for row in rows.select("archive", "sidecar_file", "sidecar").iter_rows()]
    custom = {name: tuple(Name(word, CUSTOM) for word in folder.custom) for name, folder in settings.items()}
    names = [custom.get(source, ()) + sidecar.tags for source, sidecar in zip(sources, sidecars, strict=True)]
    vocabulary = _Vocabulary(tags, {name.text for post in names for name in post}, types)
    posts = pl.DataFrame(
        {
            "id": rows["id"],
            "source": sources,
            "created_at": [sidecar.created_at for sidecar in sidecars],
            "rating": [_rating(sidecar, settings.get(source)) for source, sidecar in zip(sources, sidecars, strict=True)],
            "score": [sidecar.score for sidecar in sidecars],
            "fav_count": [sidecar.fav_count for sidecar in sidecars],
            "md5": [sidecar.md5 for sidecar in sidecars],
            "has_file": [True] * rows.height,
            "file_ext": [extension_of(member) for member in rows["member"]],
            "image_width": rows["width"],
            "image_height": rows["height"],
            "is_deleted": [False] * rows.height,
            "is_banned": [False] * rows.height,
            "tags": [vocabulary.ids(post) for post in names],
        },
        schema=POST_SCHEMA,
    )
    return posts, pl.concat([tags, vocabulary.new_tags(tags)])


def _sidecar(archive: str, file: str | None, text: str | None) -> Sidecar:
    return Sidecar() if file is None else parse_sidecar(str(PurePosixPath(archive).with_name(file)), text)


def _rating(sidecar: Sidecar, folder: Any) -> int | None:
    if sidecar.rating is None and folder is not None and folder.rating is not None:
        return RATINGS.index(folder.rating)
    return sidecar.rating


def _underscored(name: str) -> str:
    return name.replace(" ", "_")


class _Vocabulary:
    """Tag ids by name, of a tag table that grows.

    Args:
        tags: the table; names: all that will be asked for; types: of new names that come without one.
    """

    def __init__(self, tags: pl.DataFrame, names: set[str], types: Mapping[str, int]):
        self._types = types
        asked = names | set(map(_underscored, names))
        known = tags.filter(pl.col("name").is_in(list(asked))).sort("id").select("id", "name", "type")
        self._by_name: dict[str, int] = {}
        self._by_type: dict[tuple[str, int], int] = {}
        for number, name, kind in known.iter_rows():
            self._remember(number, name, kind)
        self._first_new = self._next = int(tags["id"].max() or 0) + 1
        self._new: list[tuple[str, int]] = []

    def ids(self, names: Iterable[Name]) -> list[int]:
        """Ids of a post's names, each once. What has a type in one place has it in all others of the post."""
        names = list(names)
        types = {_underscored(name.text): name.type for name in reversed(names) if name.type is not None}
        typed = (Name(name.text, types.get(_underscored(name.text)) if name.type is None else name.type) for name in names)
        return list(dict.fromkeys(self._id(name) for name in typed))

    def new_tags(self, tags: pl.DataFrame) -> pl.DataFrame:
        """The tags that were not there, in the columns of `tags`."""
        names, kinds = zip(*self._new, strict=True) if self._new else ((), ())
        ids = range(self._first_new, self._next)
        columns = {"id": ids, "name": names, "type": kinds, "popularity": [0] * len(names)}
        return pl.DataFrame(columns, schema={name: tags.schema[name] for name in columns}).select(tags.columns)

    def _id(self, name: Name) -> int:
        for text in (name.text, _underscored(name.text)):
            known = self._by_name.get(text) if name.type is None else self._by_type.get((text, name.type))
            if known is not None:
                return known
        return self._add(name)

    def _add(self, name: Name) -> int:
        kind = self._types.get(_underscored(name.text), GENERAL) if name.type is None else name.type
        text = name.text if kind == CUSTOM else _underscored(name.text)
        self._remember(self._next, text, kind)
        self._new.append((text, kind))
        self._next += 1
        return self._next - 1

    def _remember(self, number: int, name: str, kind: int) -> None:
        """Where a name stands twice, the lower id is meant."""
        self._by_type.setdefault((name, kind), number)
        if kind != CUSTOM:
            self._by_name.setdefault(name, number)
