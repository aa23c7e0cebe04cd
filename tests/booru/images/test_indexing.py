"""Archives and folders joined to one index: which image of a post stands, and which bytes come out."""

import io
import unicodedata
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import polars as pl
import pytest
from PIL import Image
from tiny_booru import folder_bytes, make_archives, make_tar

from booru.images import indexing
from booru.images.archives import FOLDER_SHARD, INDEX_SCHEMA, ImageIndex
from booru.images.folders import folder_id
from booru.images.indexing import EARLIER_UPDATE, MAIN_STANDS, SAME_BYTES, index_here


def index(root: Path) -> pl.DataFrame:
    index_here(root, root.with_name("index"))
    return ImageIndex(root.with_name("index")).frame(list(INDEX_SCHEMA))


def passed_over(root: Path) -> list[tuple]:
    return pl.read_parquet(root.with_name("index") / "passed_over.parquet").rows()


def complaint(root: Path) -> str:
    with pytest.raises(StageError) as error:
        index(root)
    assert "\n" not in str(error.value)
    assert not root.with_name("index").exists()
    return str(error.value)


def picture(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour % 256, colour // 256, 0)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def test_shards_are_blocks_of_ids(root):
    make_archives(root, [7_400_003, 3, 199_999, 200_000, 1003])
    frame = index(root)
    check_manifest(root.with_name("index"))
    assert frame.schema == INDEX_SCHEMA
    assert frame["id"].to_list() == [3, 1003, 199_999, 200_000, 7_400_003]
    shards = {file.name: pl.read_parquet(file)["id"].to_list() for file in root.with_name("index").glob("images-*")}
    assert shards == {
        "images-00000.parquet": [3, 1003, 199_999], "images-00001.parquet": [200_000], "images-00037.parquet": [7_400_003],
    }  # fmt: skip
    assert passed_over(root) == []


def test_main_archives_beat_updates(root):
    make_tar(root / "data-0003.tar", {"1003.webp": b"old"})
    make_tar(root / "updates/a/0.tar", {"1003.webp": b"new", "77.jpg": b"x"})
    assert index(root).select("id", "archive").rows() == [(77, "updates/a/0.tar"), (1003, "data-0003.tar")]
    assert passed_over(root) == [(1003, "updates/a/0.tar", "1003.webp", MAIN_STANDS)]


def test_the_first_update_by_folder_and_name_wins(root):
    for name in ("updates/b/0.tar", "updates/a-c/9.tar", "updates/a/2.tar", "updates/a/10.tar"):
        make_tar(root / name, {"1003.webp": name.encode()})
    assert index(root)["archive"].to_list() == ["updates/a/10.tar"]
    assert passed_over(root) == [
        (1003, name, "1003.webp", EARLIER_UPDATE) for name in ("updates/a/2.tar", "updates/a-c/9.tar", "updates/b/0.tar")
    ]


def test_the_same_bytes_twice_in_one_archive(root):
    make_tar(root / "data-0003.tar", {"0/1003.webp": b"a", "1003.webp": b"a", "1003.png": b"a"})
    make_tar(root / "updates/a/0.tar", {"77.webp": b"a", "0/77.webp": b"a"})
    assert index(root).select("id", "member").rows() == [(77, "77.webp"), (1003, "0/1003.webp")]
    assert passed_over(root) == [
        (77, "updates/a/0.tar", "0/77.webp", SAME_BYTES),
        (1003, "data-0003.tar", "1003.webp", SAME_BYTES),
        (1003, "data-0003.tar", "1003.png", SAME_BYTES),
    ]


def test_the_same_bytes_in_two_main_archives(root):
    make_tar(root / "data-1003.tar", {"1003.webp": b"a"})
    make_tar(root / "data-0003.tar", {"1003.jpg": b"a"})
    assert index(root)["archive"].to_list() == ["data-0003.tar"]
    assert passed_over(root) == [(1003, "data-1003.tar", "1003.webp", SAME_BYTES)]


@pytest.mark.parametrize("archive", ["data-0003.tar", "updates/a/0.tar"])
def test_different_bytes_in_one_archive(root, archive):
    make_tar(root / "data-0005.tar", {"5.webp": b"a"})
    make_tar(root / archive, {"1003.webp": b"a", "1003.jpg": b"b"})
    text = complaint(root)
    assert "post 1003 is there twice with different bytes" in text
    assert f"{archive} member '1003.webp' and {archive} member '1003.jpg'" in text


def test_different_bytes_in_two_main_archives(root):
    make_tar(root / "data-0003.tar", {"1003.webp": b"a", "2003.webp": b"x"})
    make_tar(root / "data-1003.tar", {"1003.webp": b"a", "2003.webp": b"y"})
    assert "post 2003 is there twice with different bytes: data-0003.tar member '2003.webp' and data-1003.tar" in complaint(root)


def test_different_bytes_in_the_loser_of_two(root):
    """An archive that contradicts itself is refused even where another one wins."""
    make_tar(root / "data-0003.tar", {"1003.webp": b"a"})
    make_tar(root / "updates/a/0.tar", {"1003.webp": b"b", "1003.png": b"c"})
    assert "updates/a/0.tar member '1003.webp' and updates/a/0.tar member '1003.png'" in complaint(root)


def test_nothing_to_index(root):
    assert "neither data-<number>.tar nor a folder of pictures in it" in complaint(root)
    make_tar(root / "data-0003.tar", {})
    assert "there is no image to index" in complaint(root)
    make_tar(root / "data-0004.tar", {"4.webp": b"a"})
    assert index(root)["id"].to_list() == [4]


def test_counts(root):
    make_tar(root / "data-0003.tar", {"1003.webp": b"a", "2003.mp4": b"b"})
    make_tar(root / "updates/a/0.tar", {"1003.webp": b"c"})
    picture(root / "pixiv" / "a.png").with_name("a.txt").write_text("solo")
    picture(root / "pixiv" / "b.png").write_bytes(b"")
    counts = index_here(root, root.with_name("index"))
    assert counts == indexing.Counts(images=2, pictures=2, without_sidecar=1, unreadable=3, passed_over=1)


def test_folders_alone(root):
    for name in ("pixiv/b.png", "pixiv/c/a.png", "wallpapers/a.png"):
        picture(root / name)
    frame = index(root)
    assert set(frame["archive"]) == {"pixiv/b.png", "pixiv/c/a.png", "wallpapers/a.png"}
    assert frame["id"].to_list() == sorted(folder_id(name) for name in frame["archive"])
    assert frame["member"].to_list() == [name.rsplit("/")[-1] for name in frame["archive"]]
    assert frame["offset"].to_list() == [0, 0, 0]
    assert frame["width"].to_list() == [8, 8, 8]
    assert [file.name for file in root.with_name("index").glob("images-*")] == [f"images-{FOLDER_SHARD}.parquet"]


def test_pictures_of_folders_are_cut_into_runs(root, monkeypatch):
    for number in range(25):
        picture(root / "pixiv" / f"{number}.png", number)
    monkeypatch.setattr(indexing, "SHARD_ROWS", 10)
    monkeypatch.setattr("booru.images.folder_scan.PORTION", 3)
    frame = index(root)
    assert frame.height == 25
    heights = {file.name: pl.read_parquet(file).height for file in root.with_name("index").glob("images-*")}
    assert heights == {
        f"images-{FOLDER_SHARD}.parquet": 10,
        f"images-{FOLDER_SHARD + 1}.parquet": 10,
        f"images-{FOLDER_SHARD + 2}.parquet": 5,
    }
    whole = folder_bytes(root.with_name("index"))
    monkeypatch.setattr("booru.images.folder_scan.PORTION", 1000)
    index(root)
    assert folder_bytes(root.with_name("index")) == whole


def test_one_id_whatever_the_form_of_the_name(root):
    picture(root / "pixiv" / unicodedata.normalize("NFD", "été.png"))
    (row,) = index(root).to_dicts()
    assert row["id"] == folder_id("pixiv/été.png")
    assert row["archive"] == unicodedata.normalize("NFD", "pixiv/été.png")
