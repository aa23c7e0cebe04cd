"""Manifests notice every change of a folder, also those that keep size and time."""

import hashlib
import json
import os
from pathlib import Path

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, check_manifest, hash_tree, sha256_file, sha256_json, write_manifest

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
