"""Manifests notice every change of a folder, also those that keep size and time."""

import hashlib
import json
import os
import pwd
from pathlib import Path

from repro import hashing
from repro.errors import StageError
from repro.hashing import (
    MANIFEST_NAME,
    check_manifest,
    hash_tree,
    manifest_revision,
    refuse_foreign_folder,
    remembered_sha256,
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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of remembered digests, at first not there; files are remembered at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "SETTLED_NS", 0)
    return tmp_path / "cache" / hashing.CACHE_NAME / "sha256"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 9000)
    return path


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A folder with a file of the size from which on hashes are remembered, and a small one."""
    folder = tmp_path / "base"
    folder.mkdir()
    with open(folder / "unet.safetensors", "wb") as file:
        file.truncate(hashing.REMEMBERED_BYTES)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_tree_remembers_its_big_files_only(cache: Path, big: Path) -> None:
    first = hash_tree(big)
    assert len(list(cache.iterdir())) == 1
    other = falsify(next(cache.iterdir()))
    assert hash_tree(big) == first | {"unet.safetensors": other}


def test_a_tree_notices_a_big_file_of_other_content_though_size_and_time_are_kept(cache: Path, big: Path) -> None:
    path = big / "unet.safetensors"
    before, times = hash_tree(big), path.stat()
    with open(path, "r+b") as file:
        file.seek(1 << 20)
        file.write(b"!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = hash_tree(big)
    assert after["unet.safetensors"] != before["unet.safetensors"]
    assert after["unet.safetensors"] == sha256_file(path)


def falsify(entry: Path) -> str:
    """Puts another digest into an entry, to show whether it is used."""
    key, digest = entry.read_text().split("\n")
    entry.write_text(f"{key}\n{digest[::-1]}")
    return digest[::-1]


def test_a_remembered_digest_is_the_files(cache: Path, model: Path) -> None:
    assert remembered_sha256(model) == remembered_sha256(model) == sha256_file(model)
    assert len(list(cache.iterdir())) == 1


def test_a_remembered_file_is_not_read_again(cache: Path, model: Path) -> None:
    remembered_sha256(model)
    (entry,) = cache.iterdir()
    other = falsify(entry)
    assert remembered_sha256(model) == other != sha256_file(model)


def test_a_changed_file_of_the_same_size_and_time_is_read_again(cache: Path, model: Path) -> None:
    before, times = remembered_sha256(model), model.stat()
    with open(model, "r+b") as file:
        file.write(b"changed")
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert model.stat().st_mtime_ns == times.st_mtime_ns and model.stat().st_size == times.st_size
    assert before != remembered_sha256(model) == sha256_file(model)


def test_another_file_under_the_same_name_is_read_again(cache: Path, model: Path) -> None:
    before, times = remembered_sha256(model), model.stat()
    other = model.with_name("other")
    other.write_bytes(model.read_bytes()[::-1])
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, model)
    assert before != remembered_sha256(model) == sha256_file(model)


def test_a_file_that_has_just_changed_is_not_remembered(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    os.utime(model, ns=(0, 0))  # its time may say what it likes: the change just now counts
    assert remembered_sha256(model) == sha256_file(model)
    assert not cache.exists()


@pytest.mark.parametrize("broken", ["empty", "cut", "other key", "no digest", "bytes", "long", "folder"])
def test_a_broken_entry_is_ignored(cache: Path, model: Path, broken: str) -> None:
    digest = remembered_sha256(model)
    (entry,) = cache.iterdir()
    key, whole = entry.read_text(), entry.read_bytes()
    wrong = "0" * 64
    contents = {
        "empty": b"",
        "cut": whole[:-1],
        "other key": f"1 {key.splitlines()[0]}\n{wrong}".encode(),
        "no digest": key.splitlines()[0].encode(),
        "bytes": b"\xff" + whole,
        "long": whole + b"\n" + wrong.encode(),
    }
    if broken == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        entry.write_bytes(contents[broken])
    assert remembered_sha256(model) == digest == sha256_file(model)
    assert broken == "folder" or entry.read_bytes() == whole  # made anew


def test_without_a_folder_to_write_to_the_file_is_read_each_time(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parents[1].write_text("a file where the folder should be")
    assert remembered_sha256(model) == sha256_file(model)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert remembered_sha256(model) == sha256_file(model)


def test_without_a_home_the_file_is_read_each_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have neither HOME nor a line in /etc/passwd."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert remembered_sha256(model) == sha256_file(model)


def test_the_cache_stands_in_the_home_by_default(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hashing, "SETTLED_NS", 0)
    remembered_sha256(model)
    assert len(list((tmp_path / "home" / ".cache" / hashing.CACHE_NAME / "sha256").iterdir())) == 1


def test_a_missing_file_is_an_error_of_the_file(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        remembered_sha256(tmp_path / "none.safetensors")
