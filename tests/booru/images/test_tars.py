"""Tars read from the first to the last byte: where each image lies, and refusals in words."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

from repro.errors import StageError

import pytest
from PIL import Image
from tiny_booru import make_archives, make_tar

from booru.images.archives import ImageArchives
from booru.images.image_hashes import measure
from booru.images.tars import archive_names, scan_archive


def scan(root: Path) -> list:
    return [row for name in archive_names(root) for row in scan_archive(root, name)]


def complaint(root: Path) -> str:
    with pytest.raises(StageError) as error:
        scan(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def webp(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, 40)).save(buffer, "WEBP")
    return buffer.getvalue()


def test_rows_say_where_each_image_lies_and_what_it_shows(tmp_path):
    images = {"1003.webp": webp(50), "3.webp": webp(60), "9000000003.webp": b"no picture"}
    make_tar(tmp_path / "data-0003.tar", images)
    rows = scan(tmp_path)
    assert [row.id for row in rows] == [1003, 3, 9_000_000_003]
    archive = (tmp_path / "data-0003.tar").read_bytes()
    for row, (member, data) in zip(rows, images.items(), strict=True):
        assert (row.archive, row.member) == ("data-0003.tar", member)
        assert archive[row.offset :][: row.size] == data
        assert row.sha256 == hashlib.sha256(data).hexdigest()
        assert (row.width, row.height, row.dhash, row.phash, row.unreadable) == measure(data)
        assert (row.sidecar_file, row.sidecar) == (None, None)
    assert [(row.width, row.height) for row in rows] == [(50, 40), (60, 40), (0, 0)]
    assert rows[2].unreadable == "not an image file"


def test_an_image_without_bytes_or_cut_short_is_a_row(tmp_path):
    make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"", "2003.webp": webp(50)[:30], "3003.webp": webp(50)})
    assert [bool(row.unreadable) for row in scan(tmp_path)] == [True, True, False]


@pytest.mark.parametrize("extension", ["mp4", "zip", "swf", "WEBM", "txt"])
def test_what_is_no_image_is_not_decoded(tmp_path, extension):
    data = webp(50)
    make_tar(tmp_path / "data-0003.tar", {f"1003.{extension}": data})
    (row,) = scan(tmp_path)
    assert row.unreadable == f"not an image ({extension.lower()})"
    assert (row.size, row.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (row.width, row.height, row.dhash, row.phash) == (0, 0, 0, bytes(32))


def test_archives_are_those_of_the_data_set(tmp_path):
    updates = ["updates/a/1.tar", "updates/a/2.tar", "updates/a-b/0.tar"]
    for name in ("data-0010.tar", "data-2.tar", "data-1000.tar", *updates, ".hidden.tar", "updates/.b/0.tar"):
        make_tar(tmp_path / name, {})
    (tmp_path / "README.md").write_text("")
    (tmp_path / "updates" / "notes.txt").write_text("")
    assert archive_names(tmp_path) == ["data-2.tar", "data-0010.tar", "data-1000.tar", *updates]


def test_second_thousand_of_archives_holds_the_same_buckets(tmp_path):
    make_tar(tmp_path / "data-1003.tar", {"5003.png": b"a"})
    assert [row.archive for row in scan(tmp_path)] == ["data-1003.tar"]


def test_updates_hold_any_post(tmp_path):
    make_tar(tmp_path / "updates" / "20240319" / "7.tar", {"5003.png": b"a", "1.jpg": b"b"})
    assert [row.id for row in scan(tmp_path)] == [5003, 1]


@pytest.mark.parametrize("size", [1024, 10240])
def test_an_empty_archive_is_fine(tmp_path, size):
    (tmp_path / "data-0003.tar").write_bytes(bytes(size))
    assert scan(tmp_path) == []


@pytest.mark.parametrize("name", ["./1003.webp", "0003/1003.webp", "a/b.c/1003.webp", "001003.webp"])
def test_members_below_folders(tmp_path, name):
    make_tar(tmp_path / "data-0003.tar", {name: b"a"})
    assert [(row.id, row.member) for row in scan(tmp_path)] == [(1003, name)]


def test_folders_among_the_members_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "data-0003.tar", "w") as tar:
        for name in (".", "0003", "1003.webp"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        info = tarfile.TarInfo("0003/2003.webp")
        tar.addfile(info)
    assert [row.id for row in scan(tmp_path)] == [2003]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_padding_between_members(tmp_path, form):
    headers = {"comment": "é" * 600} if form == tarfile.PAX_FORMAT else None
    with tarfile.open(tmp_path / "data-0003.tar", "w", format=form, pax_headers=headers) as tar:
        for name, size in (("1003.webp", 513), ("2003.webp", 0), ("é" * 90 + "/3003.webp", 2_500_000)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(os.urandom(size)))
    archives = ImageArchives(tmp_path)
    assert [len(archives.read(row._asdict())) for row in scan(tmp_path)] == [513, 0, 2_500_000]


def test_no_folder(tmp_path):
    assert "no such folder" in complaint(tmp_path / "none")


def test_tar_of_another_name(tmp_path):
    make_tar(tmp_path / "images.tar", {})
    assert "images.tar: not a name" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["updates/0.tar", "updates/a/b/0.tar"])
def test_update_in_another_place(tmp_path, name):
    make_tar(tmp_path / name, {})
    assert f"{name}: expected updates as updates/<folder>/<name>.tar" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "1003", "x1003.webp", "-5.webp", "img/._1003.webp", "1003.tar.gz", "1003.webp/x"])
def test_member_of_another_name(tmp_path, name):
    make_tar(tmp_path / "data-0003.tar", {"1003.webp": b"a", name: b"b"})
    assert f"data-0003.tar: member '{name}' is not named" in complaint(tmp_path)


def test_post_id_of_another_world(tmp_path):
    make_tar(tmp_path / "data-0003.tar", {"199999999003.webp": b"a"})
    assert [row.id for row in scan(tmp_path)] == [199_999_999_003]
    make_tar(tmp_path / "data-0003.tar", {"200000000003.webp": b"a"})
    assert "member '200000000003.webp' has a post id of 200000000000 or more" in complaint(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_member_that_is_no_file(tmp_path, kind):
    with tarfile.open(tmp_path / "data-0003.tar", "w") as tar:
        info = tarfile.TarInfo("1003.webp")
        info.type = kind
        info.linkname = "2003.webp"
        tar.addfile(info)
    assert "data-0003.tar: member '1003.webp' is not a plain file" in complaint(tmp_path)


def test_member_in_the_wrong_bucket(tmp_path):
    make_tar(tmp_path / "data-0003.tar", {"1004.webp": b"a"})
    assert "data-0003.tar: member '1004.webp' belongs into the archive of bucket 4" in complaint(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 512, 700, 1024, 1200, 2048, 2100])
@pytest.mark.parametrize("extension", ["webp", "mp4"])
def test_tar_cut_short_anywhere(tmp_path, length, extension):
    # Two members of 600 bytes: headers at 0 and 1536, the end mark at 3072.
    path = make_tar(tmp_path / "data-0003.tar", {f"1003.{extension}": bytes(600), f"2003.{extension}": bytes(600)})
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


def test_no_tar_at_all(tmp_path):
    make_archives(tmp_path, [3])
    (tmp_path / "data-0004.tar").write_bytes(webp(50) * 20)
    assert "data-0004.tar: not a whole tar archive" in complaint(tmp_path)


def test_compressed_tar(tmp_path):
    with tarfile.open(tmp_path / "data-0003.tar", "w:gz"):
        pass
    assert "not a whole tar archive" in complaint(tmp_path)
