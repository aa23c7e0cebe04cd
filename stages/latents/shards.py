"""The latents folder: shards of one bucket each, an index, and the list of lost images.

`latents-00000.safetensors`: mean and, of a VAE, std [n, channels, h, w] in `latents.dtype`, ids int64 [n], and as metadata
the digest of the encoder. `index.parquet`, sorted by id, says where each image is, how it was cut and what its sha256 is;
`lost.parquet` which images are not there and why.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.tensorfile import TensorSpec, spec_of, stream_tensors, tensor_bytes

import numpy as np
import polars as pl
import torch
from safetensors import safe_open

from booru.images.portions import Portion
from booru.shards import write_frame

INDEX_SCHEMA = {
    "id": pl.Int64, "shard": pl.String, "row": pl.Int32, "bucket_width": pl.Int32, "bucket_height": pl.Int32,
    "original_width": pl.Int32, "original_height": pl.Int32, "crop_left": pl.Int32, "crop_top": pl.Int32,
    "sha256": pl.String,
}  # fmt: skip
LOST_SCHEMA = {"id": pl.Int64, "reason": pl.String}
BUCKET = ("bucket_width", "bucket_height")


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of an encoded portion's tensors."""

    file: Path
    start: int
    stop: int


def encoded_images(images: pl.DataFrame, portions: Sequence[Portion], lost_rows: Iterable[int]) -> pl.DataFrame:
    """The list of images without the lost ones, and with `portion` and `portion_row`: where each one's latents are."""
    is_kept = np.ones(images.height, dtype=bool)
    is_kept[list(lost_rows)] = False
    number = np.repeat(np.arange(len(portions)), [len(portion) for portion in portions])
    kept = images.with_columns(pl.Series("portion", number)).filter(pl.Series(is_kept))
    return kept.with_columns(pl.int_range(pl.len()).over("portion").alias("portion_row"))


def assign_shards(images: pl.DataFrame, shard_bytes: int, bytes_per_pixel: float) -> pl.DataFrame:
    """Add `shard` and `row` to images sorted by bucket: shards of one bucket each, of at most `shard_bytes` (but one image
    at least)."""
    pixels = pl.col("bucket_width").cast(pl.Int64) * pl.col("bucket_height")
    capacity = (shard_bytes / (pixels * bytes_per_pixel)).floor().clip(1).cast(pl.Int64)
    of_bucket = pl.int_range(pl.len()).over(BUCKET) // capacity
    number = pl.struct(*BUCKET, of_bucket.alias("of_bucket")).rle_id()
    name = pl.format("latents-{}.safetensors", number.cast(pl.String).str.zfill(5))
    return images.with_columns(name.alias("shard")).with_columns(pl.int_range(pl.len()).over("shard").alias("row"))


def pieces_of(shard: pl.DataFrame, portions: Sequence[Portion]) -> list[Piece]:
    """Where the latents of a shard's images are, in their order."""
    spans = shard.group_by("portion", maintain_order=True).agg(
        pl.col("portion_row").first().alias("first"), pl.col("portion_row").last().alias("last")
    )
    return [Piece(portions[number].output, first, last + 1) for number, first, last in spans.rows()]


def write_shard(path: Path, ids: Sequence[int], pieces: Sequence[Piece], metadata: Mapping[str, str]) -> str:
    """Write the images of `pieces` as one shard, a piece in memory at a time; returns the digest of its tensors."""
    id_tensor = torch.tensor(ids, dtype=torch.int64)
    specs = {"ids": spec_of(id_tensor)}
    with safe_open(pieces[0].file, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            first = spec_of(file.get_slice(name)[:1])
            specs[name] = TensorSpec(first.dtype, (len(ids), *first.shape[1:]))

    def chunks(name: str) -> Iterator[memoryview]:
        if name == "ids":
            yield tensor_bytes(id_tensor)
            return
        for piece in pieces:
            with safe_open(piece.file, framework="pt") as file:
                yield tensor_bytes(file.get_slice(name)[piece.start : piece.stop])

    return stream_tensors(path, specs, chunks, lambda _: metadata)


def write_shards(
    folder: Path, images: pl.DataFrame, portions: Sequence[Portion], metadata: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Write the shards of `assign_shards`; yields of each (number of images, digest of its tensors)."""
    for shard in images.partition_by("shard", maintain_order=True):
        digest = write_shard(folder / shard["shard"][0], shard["id"].to_list(), pieces_of(shard, portions), metadata)
        yield shard.height, digest


def index_frame(images: pl.DataFrame) -> pl.DataFrame:
    """One row an image, sorted by id."""
    renamed = images.rename({"width": "original_width", "height": "original_height"})
    return renamed.select(pl.col(name).cast(kind) for name, kind in INDEX_SCHEMA.items()).sort("id")


def lost_frame(reasons: Mapping[int, str]) -> pl.DataFrame:
    """The images that are not in the cache, sorted by id."""
    return pl.DataFrame(sorted(reasons.items()), schema=LOST_SCHEMA, orient="row")


def write_tables(folder: Path, index: pl.DataFrame, lost: pl.DataFrame) -> None:
    write_frame(folder / "index.parquet", index)
    write_frame(folder / "lost.parquet", lost)
