"""How encoded images are put together into shards."""

import json
from pathlib import Path

from repro.tensorfile import write_tensors

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from booru.images.portions import Portion
from latents.encode import lost_in
from latents.shards import assign_shards, encoded_images, index_frame, lost_frame, pieces_of, write_shards

SQUARE, TALL = (64, 64), (48, 80)
COLUMNS = ["id", "sha256", "width", "height", "bucket_width", "bucket_height", "crop_left", "crop_top"]


def image_list(buckets: dict[int, tuple[int, int]]) -> pl.DataFrame:
    """Images by id, sorted as the stage sorts them."""
    rows = [(i, f"{i:064x}", 100, 90, *bucket, 3, 4) for i, bucket in buckets.items()]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row").sort("bucket_width", "bucket_height", "id")


def ids_by_shard(images: pl.DataFrame) -> list[list[int]]:
    return [shard["id"].to_list() for shard in images.partition_by("shard", maintain_order=True)]


def write_portions(
    images: pl.DataFrame, folder: Path, length: int, lost: set[int], names: tuple[str, ...] = ("mean", "std")
) -> list[Portion]:
    """Portion files of `length` images; an image's mean is full of its id, its deviation of the negative."""
    portions = []
    for start in range(0, images.height, length):
        rows = images[start : start + length]
        portion = Portion(folder / "list", start, start + rows.height, folder / f"{start}.safetensors")
        kept = [i for i in rows["id"].to_list() if i not in lost]
        values = torch.tensor(kept, dtype=torch.float32).view(-1, 1, 1, 1)
        filled = {"mean": values.expand(-1, 4, 2, 3), "std": -values.expand(-1, 4, 2, 3)}
        tensors = {name: filled[name] for name in names} if kept else {}
        gone = {n: "gone" for n, i in enumerate(rows["id"].to_list()) if i in lost}
        write_tensors(portion.output, tensors, {"lost": json.dumps(gone)})
        portions.append(portion)
    return portions


def test_shards_have_one_bucket_and_a_limited_size() -> None:
    images = image_list({i: TALL if i % 3 == 0 else SQUARE for i in (5, 3, 9, 8, 1, 2, 7)})
    shards = assign_shards(images, shard_bytes=2 * 64 * 64 * 2, bytes_per_pixel=2)
    assert ids_by_shard(shards) == [[3, 9], [1, 2], [5, 7], [8]]
    assert shards["shard"].unique(maintain_order=True).to_list() == [f"latents-0000{n}.safetensors" for n in range(4)]
    assert shards["row"].to_list() == [0, 1, 0, 1, 0, 1, 0]


def test_an_image_larger_than_a_shard_has_one_to_itself() -> None:
    shards = assign_shards(image_list({1: SQUARE, 2: SQUARE}), shard_bytes=1, bytes_per_pixel=2)
    assert ids_by_shard(shards) == [[1], [2]]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(1, 9), st.sets(st.integers(0, 11)))
def test_every_image_lies_where_the_index_says(scratch: Path, length: int, capacity: int, lost: set[int]) -> None:
    images = image_list(dict.fromkeys(range(12), SQUARE))
    portions = write_portions(images, scratch, length, lost)
    lost_rows = [row for portion in portions for row in lost_in(portion)]
    assert set(lost_rows) == lost
    encoded = assign_shards(encoded_images(images, portions, lost_rows), capacity * 64 * 64, 1)
    written = list(write_shards(scratch, encoded, portions, {"vae": "x"}))
    assert sum(count for count, _ in written) == 12 - len(lost)
    index = index_frame(encoded)
    assert index["id"].to_list() == [i for i in range(12) if i not in lost]
    for name, rows in index.group_by("shard"):
        tensors = load_file(scratch / name[0])
        assert len(tensors["ids"]) == rows.height <= capacity
        for row in rows.to_dicts():
            assert tensors["ids"][row["row"]] == row["id"]
            assert torch.equal(tensors["mean"][row["row"]], torch.full((4, 2, 3), float(row["id"])))
            assert torch.equal(tensors["std"][row["row"]], torch.full((4, 2, 3), -float(row["id"])))


def test_a_shard_says_by_which_vae(tmp_path: Path) -> None:
    images = image_list({1: SQUARE, 2: SQUARE})
    portions = write_portions(images, tmp_path, 1, set())
    encoded = assign_shards(encoded_images(images, portions, []), 1 << 20, 1)
    assert len(pieces_of(encoded, portions)) == 2
    list(write_shards(tmp_path, encoded, portions, {"vae": "some digest"}))
    with safe_open(tmp_path / "latents-00000.safetensors", framework="pt") as file:
        assert file.metadata() == {"vae": "some digest"}


def test_shards_hold_what_the_encoder_gave(tmp_path: Path) -> None:
    """The first portion has lost all its images, and with them the tensors."""
    images = image_list(dict.fromkeys(range(6), SQUARE))
    for number, names in enumerate([("mean",), ("mean", "std")]):
        portions = write_portions(images, tmp_path, 2, {0, 1}, names)
        folder = tmp_path / str(number)
        folder.mkdir()
        encoded = assign_shards(encoded_images(images, portions, [0, 1]), 1 << 20, 1)
        list(write_shards(folder, encoded, portions, {"vae": "x"}))
        tensors = load_file(folder / "latents-00000.safetensors")
        assert set(tensors) == {"ids", *names}
        assert tensors["mean"][:, 0, 0, 0].tolist() == tensors["ids"].tolist() == [2, 3, 4, 5]


def test_index_is_sorted_by_id() -> None:
    images = image_list({7: SQUARE, 9: SQUARE, 8: TALL}).with_columns(shard=pl.lit("a"), row=pl.lit(5))
    index = index_frame(images)
    assert index.rows()[1] == (8, "a", 5, 48, 80, 100, 90, 3, 4, f"{8:064x}")
    assert index["id"].to_list() == [7, 8, 9]


def test_lost_images_are_sorted_by_id() -> None:
    assert lost_frame({9: "b", 2: "a"}).rows() == [(2, "a"), (9, "b")]
    assert lost_frame({}).columns == ["id", "reason"]
