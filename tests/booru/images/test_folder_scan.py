"""Picture folders as they are found on disks: sidecars, strays, links, names."""

import os
import unicodedata
from pathlib import Path

from repro.errors import StageError

import polars as pl
import pytest
from tiny_booru import make_tar

from booru.images import folder_scan
from booru.images.folder_scan import find_pictures, portions, read_pictures
from booru.images.folders import folder_id


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def put(root: Path, *names: str, data: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def found(root: Path) -> dict[str, str]:
    """{path: sidecar} of the pictures."""
    return dict(find_pictures(root)[0].sort("path").select("path", "sidecar").rows())


def rows(root: Path) -> dict[str, tuple]:
    """{path: (sidecar's name, its text)} of the rows that are read."""
    read = (row for portion in portions(find_pictures(root)[0]) for row in read_pictures(root, portion))
    return {row.archive: (row.sidecar_file, row.sidecar) for row in read}


def complaint(root: Path) -> str:
    with pytest.raises(StageError) as error:
        rows(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pictures_by_extension_at_any_depth(root):
    names = [
        f"pixiv/{i}/{i}.{ext}"
        for i, ext in enumerate(("png", "jpg", "JPEG", "webp", "avif", "bmp", "gif", "jfif", "TIF", "tiff"))
    ]
    put(root, *names, "wallpapers/a b/c.d.png")
    assert set(found(root)) == {*names, "wallpapers/a b/c.d.png"}


def test_ids_are_ascending_and_of_the_paths_alone(root, tmp_path):
    names = [f"pixiv/{i}.png" for i in range(50)]
    put(root, *names)
    put(tmp_path / "other", *names[::-1], data=b"other bytes")
    frame, _ = find_pictures(root)
    assert frame["id"].is_sorted()
    assert frame["id"].is_between(2**52, 2**53 - 1).all()
    assert frame["id"].to_list() == find_pictures(tmp_path / "other")[0]["id"].to_list()


def test_sidecars(root):
    put(root, "p/a.png", "p/a.json", "p/a.txt", "p/b.jpg", "p/b.txt", "p/c.png", "p/d.e.png", "p/d.e.txt")
    put(root, "p/f.jpg", "p/f.jpg.json", "p/f.txt", "p/g.jpg", "p/g.jpg.txt", data=b"solo")
    sidecars = {
        "a.png": "a.json",
        "b.jpg": "b.txt",
        "c.png": "",
        "d.e.png": "d.e.txt",
        "f.jpg": "f.jpg.json",
        "g.jpg": "g.jpg.txt",
    }
    assert found(root) == {f"p/{name}": sidecar for name, sidecar in sidecars.items()}
    assert find_pictures(root)[1].count == 0
    texts = rows(root)
    assert texts["p/c.png"] == (None, None)
    assert texts["p/f.jpg"] == ("f.jpg.json", "solo")


def test_sidecars_text_is_utf_8(root):
    put(root, "p/a.png", "p/b.png", "p/c.png")
    put(root, "p/a.txt", data="é, 猫".encode())
    put(root, "p/b.txt", data="\ufeffsolo\n".encode())
    put(root, "p/c.txt", data=b"")
    assert rows(root) == {"p/a.png": ("a.txt", "é, 猫"), "p/b.png": ("b.txt", "solo\n"), "p/c.png": ("c.txt", "")}
    put(root, "p/b.txt", data="é".encode("latin-1"))
    assert f"{root}/p/b.txt: not UTF-8 text" in complaint(root)


def test_hidden_files_and_folders_are_not_looked_at(root):
    put(root, "p/a.png", "p/.b.png", ".cache/c.png", "p/.d/e.png", ".DS_Store", "p/.f.psd")
    assert find_pictures(root)[1].count == 0
    assert set(found(root)) == {"p/a.png"}


def test_strays_are_counted(root):
    make_tar(root / "updates/x/0.tar", {})
    put(root, "p/a.png", "p/b.psd", "p/c.zip", "p/alone.txt", "README.md", "updates/notes.txt", "p/q/noextension", "data-3.TAR")
    _, strays = find_pictures(root)
    assert (strays.count, strays.first) == (7, "README.md")


def test_a_root_without_folders(root):
    make_tar(root / "data-0003.tar", {})
    frame, strays = find_pictures(root)
    assert (frame.height, strays.count) == (0, 0)
    assert portions(frame) == []


def test_two_pictures_of_one_stem(root):
    put(root, "p/a.png", "q/a.png", "p/b.webp", "p/b.jpg")
    assert f"{root}/p: b.jpg and b.webp would share a sidecar" in complaint(root)


def test_two_pictures_of_one_id(root):
    composed, decomposed = (unicodedata.normalize(form, "p/é.png") for form in ("NFC", "NFD"))
    put(root, composed, decomposed)
    assert f"{decomposed} and {composed} would have one id, {folder_id(composed)}" in complaint(root)


def test_links_are_followed(root, tmp_path):
    put(tmp_path, "far/a.png", "far/deep/b.png", "c.png")
    (root / "p").symlink_to(tmp_path / "far")
    (root / "q").mkdir()
    (root / "q" / "c.png").symlink_to(tmp_path / "c.png")
    assert set(found(root)) == {"p/a.png", "p/deep/b.png", "q/c.png"}


def test_links_that_lead_nowhere_or_in_a_circle(root):
    put(root, "p/a.png")
    (root / "p" / "b.png").symlink_to(root / "none")
    assert f"{root}/p/b.png: a link that leads nowhere" in complaint(root)
    (root / "p" / "b.png").unlink()
    (root / "p" / "c").symlink_to(root / "p")
    assert f"{root}/p/c: a link to a folder that it stands in" in complaint(root)


def test_a_name_that_is_not_utf_8(root):
    put(root, "p/a.png")
    Path(os.fsdecode(os.fsencode(root / "p") + b"/\xff.png")).write_bytes(b"x")
    assert "'\\xff.png' is not UTF-8" in complaint(root)


def test_what_is_no_file_is_a_stray(root):
    put(root, "p/a.png")
    os.mkfifo(root / "p" / "b.png")
    assert find_pictures(root)[1].first == "p/b.png"
    assert set(found(root)) == {"p/a.png"}


def test_a_picture_that_changes_while_it_is_indexed(root):
    put(root, "p/a.png")
    (portion,) = portions(find_pictures(root)[0])
    for data in (b"", b"longer"):
        (root / "p" / "a.png").write_bytes(data)
        with pytest.raises(StageError, match=r"a\.png: changed while the index was made"):
            list(read_pictures(root, portion))


def test_portions_are_spans_of_ids(root, monkeypatch):
    monkeypatch.setattr(folder_scan, "PORTION", 4)
    put(root, *(f"p/{i}.png" for i in range(30)))
    frame, _ = find_pictures(root)
    parts = portions(frame)
    assert [picture.id for part in parts for picture in part] == frame["id"].to_list()
    assert 4 < len(parts) <= 8
    put(root, "p/new.png")
    (changed,) = [part for part in portions(find_pictures(root)[0]) if part not in parts]
    assert [picture.path for picture in changed if picture.path == "p/new.png"]


def test_portions_of_a_full_one(monkeypatch):
    monkeypatch.setattr(folder_scan, "PORTION", 4)
    frame = pl.DataFrame(
        [(2**52 + i, f"p/{i}", 1, 1, "", 0, 0) for i in range(4)], schema=folder_scan.PICTURE_SCHEMA, orient="row"
    )
    assert len(portions(frame)) == 1
