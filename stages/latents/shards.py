"""The latents folder: shards of one bucket each, an index, and the list of lost images.

`latents-00000.safetensors`: mean, std float32 [n, channels, h, w] and ids int64 [n]. `index.parquet`,
sorted by id, says where each image is and how it was cut; `lost.parquet` which images are not there and why.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from repro.tensorfile import write_tensors

import polars as pl
import torch
from safetensors import safe_open

from booru.shards import row_lines, write_frame
from latents.buckets import Placement, Size
from latents.encode import Row

INDEX_SCHEMA = {
    "id": pl.Int64, "shard": pl.String, "row": pl.Int32, "bucket_width": pl.Int32, "bucket_height": pl.Int32,
    "original_width": pl.Int32, "original_height": pl.Int32, "crop_left": pl.Int32, "crop_top": pl.Int32,
}  # fmt: skip
LOST_SCHEMA = {"id": pl.Int64, "reason": pl.String}
NOT_FINITE = "latents not finite"
# Images of one worker task, and so what a kill can cost a worker.
PORTION = 32


@dataclass(frozen=True)
class PlacedImage:
    """An image that can be read: its row of the image index, its size and its bucket."""

    row: Row
    size: Size
    placement: Placement


def plan_shards(images: Iterable[PlacedImage], shard_bytes: int, bytes_per_pixel: float) -> list[list[PlacedImage]]:
    """Shards of one bucket each, buckets ascending, ids ascending inside, at most `shard_bytes` (but one image at least)."""
    shards = []
    ordered = sorted(images, key=lambda image: (image.placement.bucket, image.row["id"]))
    for (width, height), group in groupby(ordered, key=lambda image: image.placement.bucket):
        same = list(group)
        capacity = max(1, int(shard_bytes / (width * height * bytes_per_pixel)))
        shards += [same[i : i + capacity] for i in range(0, len(same), capacity)]
    return shards


def portions(shard: list[PlacedImage]) -> list[list[PlacedImage]]:
    return [shard[i : i + PORTION] for i in range(0, len(shard), PORTION)]


def not_finite_ids(file: Path) -> list[int]:
    """Ids of a portion file's images that gave no finite latents."""
    with safe_open(file, framework="pt") as portion:
        return json.loads(portion.metadata()["not_finite"])


def join_portions(files: list[Path]) -> dict[str, torch.Tensor]:
    """The tensors of portion files, one after another; empty when no image of them was encoded."""
    parts: dict[str, list[torch.Tensor]] = {"mean": [], "std": [], "ids": []}
    for file in files:
        with safe_open(file, framework="pt") as portion:
            if "mean" in portion.keys():  # noqa: SIM118 - safe_open is no mapping
                for name, tensors in parts.items():
                    tensors.append(portion.get_tensor(name))
    return {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}


def write_shards(
    folder: Path, shards: list[list[PlacedImage]], portion_files: list[list[Path]]
) -> Iterator[tuple[str, list[PlacedImage], str]]:
    """Write each shard that has an image; yields (file name, its images in row order, digest of its tensors)."""
    number = 0
    for shard, files in zip(shards, portion_files, strict=True):
        tensors = join_portions(files)
        if not tensors:
            continue
        name = f"latents-{number:05d}.safetensors"
        digest = write_tensors(folder / name, tensors)
        encoded = set(tensors["ids"].tolist())
        yield name, [image for image in shard if image.row["id"] in encoded], digest
        number += 1


def index_frame(shards: Iterable[tuple[str, list[PlacedImage]]]) -> pl.DataFrame:
    """One row an image, sorted by id."""
    rows = [
        (image.row["id"], name, row, *image.placement.bucket, *image.size, image.placement.left, image.placement.top)
        for name, images in shards
        for row, image in enumerate(images)
    ]
    return pl.DataFrame(rows, schema=INDEX_SCHEMA, orient="row").sort("id")


def lost_frame(reasons: dict[int, str]) -> pl.DataFrame:
    """The images that are not in the cache, sorted by id."""
    return pl.DataFrame(sorted(reasons.items()), schema=LOST_SCHEMA, orient="row")


def write_tables(folder: Path, index: pl.DataFrame, lost: pl.DataFrame) -> bytes:
    """Write index.parquet and lost.parquet; returns their rows' canonical text."""
    write_frame(folder / "index.parquet", index)
    write_frame(folder / "lost.parquet", lost)
    return row_lines(index) + row_lines(lost)
