"""A small booru with characters, for the choice of references: metadata, training captions, archives and their index."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_booru import make_metadata, make_tar, metadata_post

import caption_posts
from booru.images.indexing import index_here

GENERAL, ARTIST, CHARACTER, COPYRIGHT, META = range(5)
TAGS = [
    (1, "1girl", GENERAL), (2, "solo", GENERAL), (3, "1boy", GENERAL), (4, "2girls", GENERAL), (5, "1other", GENERAL),
    (10, "long_hair", GENERAL), (11, "blue_eyes", GENERAL), (12, "red_eyes", GENERAL), (13, "smile", GENERAL),
    (14, "hairband", GENERAL), (15, "monochrome", GENERAL), (16, "comic", GENERAL), (17, "loli", GENERAL),
    (18, "oppai_loli", GENERAL), (19, "cat_ears", GENERAL), (20, "cosplay", GENERAL), (21, "animated", META),
    (30, "zoish", ARTIST), (31, "aoi_a", ARTIST), (32, "rembrandt", ARTIST),
    (40, "mika_(lorelei)", CHARACTER), (41, "rin", CHARACTER), (42, "extra", CHARACTER),
    (50, "lorelei", COPYRIGHT), (51, "harbour", COPYRIGHT), (52, "aurora", COPYRIGHT),
]  # fmt: skip
ID = {name: number for number, name, _ in TAGS}
MIKA = "mika_(lorelei)"
PLAIN = ["1girl", "solo", MIKA, "lorelei", "zoish", "long_hair"]


def ids_of(names: Sequence[str]) -> list[int]:
    return [ID[name] for name in names]


def picture(seed: int, size: tuple[int, int] = (96, 96)) -> bytes:
    """A PNG unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Booru:
    """The folders and files that choose_references reads."""

    metadata: Path
    captions: Path
    characters: Path
    images: Path
    index: Path


def make_booru(
    folder: Path, posts: Mapping[int, dict], trained: Sequence[int], pictures: Mapping[int, bytes | None] | None = None,
    shard_posts: int = 200_000,
) -> Booru:  # fmt: skip
    """Write it: `posts` are changes of plain pictures of Mika by id, `trained` those with a caption; each post has a
    picture of its own unless `pictures` has another, or None for none. Ids are multiples of 1000: one archive holds all."""
    rows = {number: metadata_post(number, **({"tags": ids_of(PLAIN)} | changes)) for number, changes in posts.items()}
    metadata = make_metadata(folder / "metadata", list(rows.values()), TAGS, shard_posts=shard_posts)
    kept = make_metadata(folder / "kept", [rows[number] for number in trained], TAGS, shard_posts=shard_posts)
    caption_posts.main(
        ["--posts", str(kept), "--output", str(folder / "captions"), "--characters", str(folder / "characters.json")]
    )
    files = {number: picture(number) for number in posts} | dict(pictures or {})
    members = {f"{number}.png": data for number, data in sorted(files.items()) if data is not None}
    make_tar(folder / "images" / "data-0000.tar", members)
    index_here(folder / "images", folder / "image_index")
    return Booru(metadata, folder / "captions", folder / "characters.json", folder / "images", folder / "image_index")


def training_counts(booru: Booru) -> dict[str, int]:
    return {name: entry["posts"] for name, entry in json.loads(booru.characters.read_text()).items()}
