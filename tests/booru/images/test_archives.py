"""The image index read in pieces, and images read with a check."""

import hashlib
import io
from pathlib import Path

from repro.errors import StageError
from repro.hashing import write_manifest

import polars as pl
import pytest
from PIL import Image
from tiny_booru import make_archives, make_tar

from booru.images.archives import FOLDER_SHARD, INDEX_SCHEMA, PLACE_COLUMNS, ImageArchives, ImageIndex
from booru.images.folders import folder_id
from booru.images.indexing import index_here
from booru.shards import ShardWriter

ID = 1003
SPREAD = [3, 1003, 200_003, 400_003, 400_004]


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def index_of(tmp_path: Path, ids: list[int]) -> ImageIndex:
    index_here(make_archives(tmp_path / "images", ids), tmp_path / "index")
    return ImageIndex(tmp_path / "index")


@pytest.fixture
def archives(tmp_path):
    index = index_of(tmp_path, [ID, ID + 1000])
    row = index.frame(list(INDEX_SCHEMA)).row(0, named=True)
    return ImageArchives(tmp_path / "images"), row, tmp_path / "images" / row["archive"]


def read_complaint(reader, row) -> str:
    with pytest.raises(StageError) as error:
        reader.read(row)
    assert str(ID) in str(error.value)
    assert "data-0003.tar" in str(error.value)
    return str(error.value)


def test_reading_an_image(archives):
    reader, row, _ = archives
    assert reader.read(row) == b"picture 1003"


def test_reading_from_a_missing_archive(archives):
    reader, row, path = archives
    path.unlink()
    assert "missing, needed for post 1003; fetch it" in read_complaint(reader, row)


@pytest.mark.parametrize("length", [0, 512, 520])
def test_reading_from_a_short_archive(archives, length):
    reader, row, path = archives
    path.write_bytes(path.read_bytes()[:length])
    assert "cut short" in read_complaint(reader, row)


def test_reading_changed_bytes(archives):
    reader, row, path = archives
    data = bytearray(path.read_bytes())
    data[row["offset"] + 3] ^= 1
    path.write_bytes(data)
    assert "not the one that was indexed" in read_complaint(reader, row)


def test_archives_folder_must_be_there(tmp_path):
    with pytest.raises(StageError, match="IMAGE_ROOT"):
        ImageArchives(tmp_path / "none")


def test_reading_a_picture_of_a_folder(tmp_path):
    path = tmp_path / "images" / "wall papers" / "été" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png(7))
    index_here(tmp_path / "images", tmp_path / "index")
    (row,) = ImageIndex(tmp_path / "index").frame(list(INDEX_SCHEMA)).to_dicts()
    assert (row["id"], row["archive"]) == (folder_id("wall papers/été/a.png"), "wall papers/été/a.png")
    assert ImageArchives(tmp_path / "images").read(row) == png(7)


def test_index_is_read_by_columns(tmp_path):
    index = index_of(tmp_path, SPREAD[::-1])
    assert [file.name for file in sorted((tmp_path / "index").glob("images-*"))] == [
        "images-00000.parquet", "images-00001.parquet", "images-00002.parquet",
    ]  # fmt: skip
    assert index.ids().to_list() == SPREAD
    frame = index.frame(["sha256", "id"])
    assert frame.columns == ["sha256", "id"]
    assert frame["sha256"].to_list() == [hashlib.sha256(f"picture {i}".encode()).hexdigest() for i in SPREAD]


@pytest.mark.parametrize("ids", [[3], [1003, 200_003], [3, 400_004], SPREAD])
def test_index_joins_to_posts_by_id(tmp_path, ids):
    index = index_of(tmp_path, SPREAD)
    posts = pl.DataFrame({"id": ids, "rating": [0] * len(ids)})
    joined = index.join_to(posts)
    assert joined.columns == ["id", "rating", *PLACE_COLUMNS]
    expected = index.frame(["id", *PLACE_COLUMNS]).filter(pl.col("id").is_in(ids))
    assert joined.drop("rating").equals(expected)
    assert index.join_to(posts, ["width", "phash"]).columns == ["id", "rating", "width", "phash"]


def test_posts_outside_of_the_index_are_not_joined(tmp_path):
    index = index_of(tmp_path, SPREAD)
    assert index.join_to(pl.DataFrame({"id": [2, 3, 4, 200_000, 10**9]}))["id"].to_list() == [3]
    assert index.join_to(pl.DataFrame({"id": [7]}, schema={"id": pl.Int64})).height == 0
    assert index.join_to(pl.DataFrame({"id": []}, schema={"id": pl.Int64})).height == 0


def test_a_join_reads_only_the_shards_of_its_posts(tmp_path):
    index = index_of(tmp_path, SPREAD)
    assert index.join_to(pl.DataFrame({"id": [3]})).height == 1
    (tmp_path / "index" / "images-00002.parquet").write_bytes(b"gone bad since it was opened")
    assert index.join_to(pl.DataFrame({"id": [3, 200_003]})).height == 2


def test_posts_come_before_folder_pictures(tmp_path):
    root = tmp_path / "images"
    make_tar(root / "data-0003.tar", {"150000000003.png": png(1)})
    (root / "pixiv").mkdir()
    (root / "pixiv" / "a.png").write_bytes(png(2))
    index_here(root, tmp_path / "index")
    index = ImageIndex(tmp_path / "index")
    assert index.ids().to_list() == [150_000_000_003, folder_id("pixiv/a.png")]
    assert (tmp_path / "index" / f"images-{FOLDER_SHARD}.parquet").exists()
    posts = pl.DataFrame({"id": [150_000_000_003, folder_id("pixiv/a.png")]})
    assert index.join_to(posts)["archive"].to_list() == ["data-0003.tar", "pixiv/a.png"]


def write_shard(folder: Path, frame: pl.DataFrame) -> Path:
    folder.mkdir()
    shards = ShardWriter(folder, "images")
    shards.write(0, frame)
    write_manifest(folder, shards.content_digest())
    return folder


def test_index_folders_that_are_none(tmp_path):
    with pytest.raises(StageError, match="no such image index"):
        ImageIndex(tmp_path / "none")
    (tmp_path / "images.parquet").write_text("id\n")
    with pytest.raises(StageError, match="an image index is a folder"):
        ImageIndex(tmp_path / "images.parquet")
    frame = index_of(tmp_path, [3, 1003]).frame(list(INDEX_SCHEMA))
    with pytest.raises(StageError, match="column sha256 is missing"):
        ImageIndex(write_shard(tmp_path / "a", frame.drop("sha256")))
    with pytest.raises(StageError, match="column offset is Int32, expected Int64"):
        ImageIndex(write_shard(tmp_path / "b", frame.with_columns(pl.col("offset").cast(pl.Int32))))
    with pytest.raises(StageError, match="not ascending and unique"):
        ImageIndex(write_shard(tmp_path / "c", pl.concat([frame, frame]))).ids()


def test_a_changed_shard_is_refused(tmp_path):
    index_of(tmp_path, SPREAD)
    shard = tmp_path / "index" / "images-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StageError, match=r"images-00001.parquet: missing, unexpected or changed"):
        ImageIndex(tmp_path / "index")
