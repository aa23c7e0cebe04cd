"""Manifests notice every change of a folder, also those that keep size and time."""

import hashlib
import json
import os
from pathlib import Path

from repro.errors import StageError
from repro.hashing import (
    MANIFEST_NAME,
    check_manifest,
    hash_tree,
    manifest_revision,
    refuse_foreign_folder,
    sha256_file,
    sha256_json,
    write_manifest,
)

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "latents"
    (made / "sub").mkdir(parents=True)
    (made / "a.bin").write_bytes(bytes(range(256)) * 100)
    (made / "sub" / "b.txt").write_text("b")
    write_manifest(made, "content digest")
    return made


def test_a_whole_folder_passes_and_gives_its_digests(folder: Path) -> None:
    manifest = check_manifest(folder)
    assert manifest["content"] == "content digest"
    assert manifest["files"] == {
        "a.bin": hashlib.sha256((folder / "a.bin").read_bytes()).hexdigest(),
        "sub/b.txt": hashlib.sha256(b"b").hexdigest(),
    }


def test_one_flipped_bit_with_size_and_time_kept_is_found(folder: Path) -> None:
    path = folder / "a.bin"
    data, times = bytearray(path.read_bytes()), path.stat()
    data[12345] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(StageError, match=r"a\.bin: missing, unexpected or changed"):
        check_manifest(folder)


def test_a_missing_and_an_unexpected_file_are_found(folder: Path) -> None:
    (folder / "new").write_text("")
    with pytest.raises(StageError, match="new: missing, unexpected"):
        check_manifest(folder)
    (folder / "new").unlink()
    (folder / "sub" / "b.txt").unlink()
    with pytest.raises(StageError, match=r"b\.txt: missing"):
        check_manifest(folder)


def test_a_folder_without_a_manifest_is_refused(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(StageError, match="no MANIFEST"):
        check_manifest(folder)


def test_hashes_of_files_trees_and_values(folder: Path) -> None:
    (folder / "empty").touch()
    assert sha256_file(folder / "empty") == hashlib.sha256().hexdigest()
    assert list(hash_tree(folder)) == [MANIFEST_NAME, "a.bin", "empty", "sub/b.txt"]
    assert hash_tree(folder / "a.bin") == {"a.bin": sha256_file(folder / "a.bin")}
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 2.5})
    assert sha256_json([1]) == hashlib.sha256(json.dumps([1], indent=2).encode() + b"\n").hexdigest()


def test_only_folders_of_stages_may_be_replaced(folder: Path, tmp_path: Path) -> None:
    refuse_foreign_folder(folder)
    refuse_foreign_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refuse_foreign_folder(tmp_path / "empty")
    (folder / MANIFEST_NAME).unlink()
    before = hash_tree(folder)
    with pytest.raises(StageError, match=r"latents: it is there, and no MANIFEST\.json in it says that a stage wrote it"):
        refuse_foreign_folder(folder)
    assert hash_tree(folder) == before


def test_a_folder_of_folders_alone_is_foreign_too(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "2024").mkdir(parents=True)
    with pytest.raises(StageError, match="pictures: it is there"):
        refuse_foreign_folder(tmp_path / "pictures")


def test_a_manifest_names_the_revision_if_there_is_one(folder: Path) -> None:
    assert "revision" not in check_manifest(folder)
    assert manifest_revision(folder) is None
    write_manifest(folder, "content digest", "the revision")
    assert check_manifest(folder)["revision"] == manifest_revision(folder) == "the revision"


def test_a_file_or_a_link_is_no_place_for_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("file", "link"):
        with pytest.raises(StageError, match=f"{name}: a {name}, but a stage writes a folder there"):
            refuse_foreign_folder(tmp_path / name)
