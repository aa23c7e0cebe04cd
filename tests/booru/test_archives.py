"""Image archives: indexing from the first to the last byte, reading with a check, refusing in words."""

import hashlib
import io
import os
import tarfile

from repro.errors import StageError

import polars as pl
import pytest
from tiny_booru import make_archives, make_tar

from booru.archives import INDEX_SCHEMA, ImageArchives, ImageIndex, archive_names, index_archives
from booru.shards import write_frame

ID = 1003


def index(root):
    return index_archives(root, lambda size: None)[0]


def complaint(root) -> str:
    with pytest.raises(StageError) as error:
        index(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_index_says_where_each_image_lies(tmp_path):
    root = make_archives(tmp_path, [1003, 3, 2001, 9_000_000_003])
    frame = index(root)
    assert frame.schema == INDEX_SCHEMA
    assert frame["id"].to_list() == [3, 1003, 2001, 9_000_000_003]
    assert frame["archive"].to_list() == ["data-0003.tar", "data-0003.tar", "data-0001.tar", "data-0003.tar"]
    for row in frame.iter_rows(named=True):
        data = (root / row["archive"]).read_bytes()[row["offset"] :][: row["size"]]
        assert data == f"picture {row['id']}".encode()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["member"] == f"{row['id']}.webp"


def test_archives_are_those_of_the_data_set(tmp_path):
    for name in ("data-0010.tar", "data-2.tar", "data-1000.tar", "updates/20240319/7.tar"):
        make_tar(tmp_path / name, {})
    (tmp_path / "README.md").write_text("")
    assert archive_names(tmp_path) == ["data-2.tar", "data-0010.tar", "data-1000.tar", "updates/20240319/7.tar"]


def test_second_thousand_of_archives_holds_the_same_buckets(tmp_path):
    make_tar(tmp_path / "data-1003.tar", {"5003.png": b"a"})
    assert index(tmp_path)["archive"].to_list() == ["data-1003.tar"]


def test_main_archives_beat_updates(tmp_path):
    make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"old"})
    make_tar(tmp_path / "updates/a/0.tar", {"1003.webp": b"new", "77.jpg": b"x"})
    frame, passed_over = index_archives(tmp_path, lambda size: None)
    assert frame.select("id", "archive").rows() == [(77, "updates/a/0.tar"), (1003, "data-0003.tar")]
    assert passed_over == 1


def test_long_names_and_padding_between_members(tmp_path):
    with tarfile.open(tmp_path / "data-0003.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é" * 600}) as tar:
        for name, size in (("1003.webp", 513), ("2003.webp", 0), ("3003.webp", 2_500_000)):
            info = tarfile.TarInfo(name)
            info.size = size
            info.pax_headers = {"comment": "c" * 300}
            tar.addfile(info, io.BytesIO(os.urandom(size)))
    archives = ImageArchives(tmp_path)
    assert [len(archives.read(row)) for row in index(tmp_path).iter_rows(named=True)] == [513, 0, 2_500_000]


def test_folder_without_archives(tmp_path):
    assert "no data-<number>.tar in it" in complaint(tmp_path)
    assert "no such folder" in complaint(tmp_path / "none")


def test_tar_of_another_name(tmp_path):
    make_tar(tmp_path / "images.tar", {})
    assert "images.tar: not a name" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "img/1003.webp", "1003", "x1003.webp", "-5.webp"])
def test_member_of_another_name(tmp_path, name):
    make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"a", name: b"b"})
    assert f"data-0003.tar: member '{name}' is not named" in complaint(tmp_path)


@pytest.mark.parametrize(("kind", "text"), [(tarfile.DIRTYPE, "is a folder"), (tarfile.SYMTYPE, "is not a plain file")])
def test_member_that_is_no_file(tmp_path, kind, text):
    with tarfile.open(tmp_path / "data-0003.tar", "w") as tar:
        info = tarfile.TarInfo("1003.webp")
        info.type = kind
        info.linkname = "2003.webp"
        tar.addfile(info)
    assert f"data-0003.tar: member '1003.webp' {text}" in complaint(tmp_path)


def test_member_in_the_wrong_bucket(tmp_path):
    make_tar(tmp_path / "data-0003.tar", {"1004.webp": b"a"})
    assert "data-0003.tar: member '1004.webp' belongs into the archive of bucket 4" in complaint(tmp_path)


def test_post_that_is_there_twice(tmp_path):
    make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"a", "1003.jpg": b"b"})
    assert "post 1003 is there twice: data-0003.tar member '1003.webp' and data-0003.tar member '1003.jpg'" in complaint(tmp_path)
    make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"a"})
    make_tar(tmp_path / "data-1003.tar", {"1003.webp": b"a"})
    assert "data-0003.tar member '1003.webp' and data-1003.tar member '1003.webp'" in complaint(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 512, 700, 1024, 1200, 2048, 2100])
def test_tar_cut_short_anywhere(tmp_path, length):
    # Two members of 600 bytes: headers at 0 and 1536, the end mark at 3072.
    path = make_tar(tmp_path / "data-0003.tar", {"1003.webp": bytes(600), "2003.webp": bytes(600)})
    path.write_bytes(path.read_bytes()[:length])
    text = complaint(tmp_path)
    assert "data-0003.tar: not a whole tar archive" in text
    assert "fetch it again" in text


@pytest.mark.parametrize("length", [1536, 3072, 3072 + 512])
def test_tar_cut_exactly_between_members(tmp_path, length):
    path = make_tar(tmp_path / "data-0003.tar", {"1003.webp": bytes(600), "2003.webp": bytes(600)})
    path.write_bytes(path.read_bytes()[:length])
    assert "no end mark" in complaint(tmp_path)


def test_tar_with_a_broken_header(tmp_path):
    path = make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"a", "2003.webp": b"b"})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0xFF
    path.write_bytes(data)
    assert "not a whole tar archive" in complaint(tmp_path)


def test_compressed_tar(tmp_path):
    with tarfile.open(tmp_path / "data-0003.tar", "w:gz"):
        pass
    assert "not a whole tar archive" in complaint(tmp_path)


@pytest.fixture
def archives(tmp_path):
    root = make_archives(tmp_path / "images", [ID, ID + 1000])
    row = index(root).row(0, named=True)
    return ImageArchives(root), row, root / row["archive"]


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


def test_index_file_joins_to_posts_by_id(tmp_path):
    frame = index(make_archives(tmp_path / "images", [3, 1003, 2003, 3003]))
    write_frame(tmp_path / "images.parquet", frame)
    image_index = ImageIndex(tmp_path / "images.parquet")
    assert image_index.ids().to_list() == [3, 1003, 2003, 3003]
    joined = image_index.join_to(pl.DataFrame({"id": [1003, 2003], "rating": [0, 1]}))
    assert joined.equals(frame[1:3].with_columns(rating=pl.Series([0, 1])).select("id", "rating", *list(INDEX_SCHEMA)[1:]))


def test_index_files_that_are_none(tmp_path):
    path = tmp_path / "images.parquet"
    with pytest.raises(StageError, match="no such image index"):
        ImageIndex(path)
    path.write_text("id\n")
    with pytest.raises(StageError, match="not a parquet file"):
        ImageIndex(path)
    frame = index(make_archives(tmp_path / "images", [3, 1003]))
    write_frame(path, frame.drop("sha256"))
    with pytest.raises(StageError, match="column sha256 is missing"):
        ImageIndex(path)
    write_frame(path, frame.with_columns(pl.col("offset").cast(pl.Int32)))
    with pytest.raises(StageError, match="column offset is Int32, expected Int64"):
        ImageIndex(path)
    write_frame(path, pl.concat([frame, frame]))
    with pytest.raises(StageError, match="not ascending and unique"):
        ImageIndex(path).ids()
