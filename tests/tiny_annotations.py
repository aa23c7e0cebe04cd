"""Small folders of kept posts with pictures, and of annotations, for tests of the stages that make and use them."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from repro.outputs import json_text

import polars as pl
from tiny_booru import TAGS, make_metadata, make_tar, metadata_post, seal_metadata
from tiny_pictures import tiny_picture

from booru.captioning.annotations import MODELS_FILE, PICTURES_FILE, SCHEMAS, VOCABULARY_SCHEMA, pictures_digest
from booru.shards import shard_name, shard_number

READER_PROMPT = "<image>\nuser: what does the text say?\nassistant:"
PREFIX = READER_PROMPT.removeprefix("<image>")
# Rows of a tagger's selected_tags.csv; places 4 to 11 are general, the others characters.
VOCABULARY = [
    *((name, 9) for name in ("general", "sensitive", "questionable", "explicit")),
    *((name, 0) for name in ("1girl", "solo", "long_hair", "^_^", "english_text", "loli", "oppai_loli", "lollipop")),
    *((name, 4) for name in ("hatsune_miku", "skadi_(arknights)", "amiya_(arknights)", "saber_(fate)")),
]
PLACE = {name: place for place, (name, _) in enumerate(VOCABULARY)}


def write_kept(folder: Path, posts: list[dict], pictures: dict[int, bytes] | None = None, tags=TAGS) -> tuple[Path, Path]:
    """A folder as filter_posts writes it, shards of 100 ids, and the folder of the archive with the posts' pictures, by
    default `tiny_picture`s; returns both."""
    files = {row["id"]: tiny_picture(row["id"]) for row in posts} | (pictures or {})
    root = make_tar(folder / "images" / "data-0000.tar", {f"{i}.webp": files[i] for i in sorted(files)}).parent
    places, offset = {}, 0
    for i in sorted(files):
        places[i] = {
            "archive": "data-0000.tar", "member": f"{i}.webp", "offset": offset + 512, "size": len(files[i]),
            "sha256": hashlib.sha256(files[i]).hexdigest(),
        }  # fmt: skip
        offset += 512 + -(-len(files[i]) // 512) * 512
    kept = make_metadata(folder / "kept", posts, tags=tags, shard_posts=100)
    for shard in kept.glob("posts-*.parquet"):
        frame = pl.read_parquet(shard)
        columns = pl.DataFrame([places[i] for i in frame["id"]])
        frame.hstack(columns).write_parquet(shard)
    seal_metadata(kept)
    return kept, root


def copy_with_digests(posts: Path, copy: Path) -> Path:
    """A copy of a folder of posts that names a picture's sha256 for each, as the filter stage does; no picture is there."""
    shutil.copytree(posts, copy)
    for shard in copy.glob("posts-*.parquet"):
        frame = pl.read_parquet(shard)
        digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in frame["id"]]
        frame.with_columns(sha256=pl.Series(digests)).write_parquet(shard)
    seal_metadata(copy)
    return copy


def kept_posts(ids: range | list[int], **changes: Any) -> list[dict]:
    return [metadata_post(i, **changes) for i in ids]


def tagger_row(probabilities: dict[str, float], rating: str = "general") -> dict[str, Any]:
    """A picture's row of the tagger, of probabilities by tag; the rating is the likeliest."""
    found = sorted((PLACE[name], value) for name, value in probabilities.items())
    ratings = [0.7 if name == rating else 0.1 for name in ("general", "sensitive", "questionable", "explicit")]
    return {"ratings": ratings, "tags": [place for place, _ in found], "probabilities": [value for _, value in found]}


def write_annotations(
    folder: Path, found: dict[str, dict[int, dict[str, Any]]], vocabulary=VOCABULARY, kept: Path | None = None
) -> Path:
    """A folder as annotate_images writes it, of {kind: {post: row}}, shards of 100 ids; about the pictures of `kept`."""
    folder.mkdir(parents=True)
    models: dict[str, Any] = {}
    for kind, rows in found.items():
        (folder / kind).mkdir()
        schema = {"id": pl.Int64} | SCHEMAS[kind]
        frame = pl.DataFrame([{"id": i} | row for i, row in sorted(rows.items())], schema=schema)
        numbers = sorted({i // 100 if i < 2**52 else 1_000_000 for found in found.values() for i in found})
        for number in numbers:
            of_shard = pl.when(pl.col("id") < 2**52).then(pl.col("id") // 100).otherwise(1_000_000) == number
            frame.filter(of_shard).write_parquet(folder / kind / shard_name(kind, number))
        models[kind] = {"prompt": READER_PROMPT} if kind == "text" else {}
    if "tags" in found:
        table = pl.DataFrame(vocabulary, schema=VOCABULARY_SCHEMA, orient="row")
        table.write_parquet(folder / "tags" / "vocabulary.parquet")
    if kept:
        shards = {str(shard_number(file)): pl.read_parquet(file) for file in kept.glob("posts-*.parquet")}
        pictures = {number: pictures_digest(frame) for number, frame in shards.items()}
        (folder / PICTURES_FILE).write_text(json_text(pictures))
    (folder / MODELS_FILE).write_text(json_text(models))
    seal_metadata(folder)
    return folder
