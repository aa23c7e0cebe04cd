"""The folder of pictures: byte-stable archives that any tar opens, and the list of what lies where."""

import pickle
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

from repro.errors import StageError
from repro.hashing import hash_tree, write_manifest
from repro.pictures import save_png

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from generation import picture_folder
from generation.picture_folder import LIST_NAME, PictureFolder, member_name, write_picture_folder
from generation.requests import PictureRequest

SAMPLING = {"sampler": "euler", "steps": 2}
FIRST = PictureRequest("mika", "name", "plain", "zoish", 0, '1girl, "mika", zoish', 7)
AWKWARD = ["eins/zwei", "../up", 'say_"no"', "雪_(東京)", "a" * 90, "re:zero,_rem", "don't\r\nbreak", "C:\\x", " "]


def picture(folder: Path, number: int) -> Path:
    file = folder / f"{number}.png"
    save_png(Image.new("RGB", (9, 9), (number, 0, 0)), file)
    return file


def rows_of(folder: Path, characters: list[str], models: tuple[str, ...] = ("merged", "base")) -> list:
    return [
        (model, replace(FIRST, character=character, number=number), picture(folder, 10 * place + number))
        for place, model in enumerate(models)
        for number, character in enumerate(characters)
    ]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, AWKWARD)
    write_picture_folder(tmp_path / "pictures", rows, SAMPLING)
    folder = PictureFolder(tmp_path / "pictures")
    assert folder.models == ("merged", "base")
    assert [(found.model, found.request) for found in folder.pictures] == [(model, request) for model, request, _ in rows]
    for found, (_, _, file) in zip(folder.pictures, rows, strict=True):
        assert folder.open(found).tobytes() == Image.open(file).tobytes()
        with open(tmp_path / "pictures" / found.archive, "rb") as archive:
            archive.seek(found.offset)
            assert archive.read(found.size) == file.read_bytes()


def test_any_tar_opens_the_archives_below_one_folder(tmp_path: Path) -> None:
    write_picture_folder(tmp_path / "pictures", rows_of(tmp_path, AWKWARD), SAMPLING)
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "pictures" / "pictures-00000.tar", "-C", tmp_path / "there"], check=True)
    members = [found.member for found in PictureFolder(tmp_path / "pictures").pictures]
    assert sorted(members) == sorted(str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*.png"))
    assert len(set(members)) == 2 * len(AWKWARD)


def test_members_tell_of_no_time_and_no_user(tmp_path: Path) -> None:
    write_picture_folder(tmp_path / "pictures", rows_of(tmp_path, ["mika"]), SAMPLING)
    with tarfile.open(tmp_path / "pictures" / "pictures-00000.tar") as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) == (0, 0, 0, "", "", 0o644)
            assert member.name == f"{member.name.split('/')[0]}/name/0000/mika.png"


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ["a", "b"])
    write_picture_folder(tmp_path / "one", rows, SAMPLING)
    for _, _, file in rows:
        file.touch()
    write_picture_folder(tmp_path / "other", iter(rows), SAMPLING)
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "other")


@pytest.mark.parametrize("limit", [10240, 20480, 30720])
def test_archives_are_of_at_most_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(picture_folder, "ARCHIVE_BYTES", limit)
    write_picture_folder(tmp_path / "pictures", rows_of(tmp_path, list("abcdefghijkl")), SAMPLING)
    folder = PictureFolder(tmp_path / "pictures")
    archives = sorted((tmp_path / "pictures").glob("*.tar"))
    assert [file.name for file in archives] == [f"pictures-{number:05d}.tar" for number in range(len(archives))]
    assert all(file.stat().st_size <= limit for file in archives)
    # A picture and its header take 1024 bytes, and the end of an archive as much.
    assert len(archives) == -(-24 // (limit // 1024 - 1))
    assert [folder.open(found).size for found in folder.pictures] == [(9, 9)] * 24


def test_a_picture_beyond_the_size_has_an_archive_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_folder, "ARCHIVE_BYTES", 10240)
    rows = rows_of(tmp_path, ["a", "b", "c"], models=("base",))
    Image.effect_noise((300, 300), 90).save(rows[1][2])
    assert rows[1][2].stat().st_size > 10240
    write_picture_folder(tmp_path / "pictures", rows, SAMPLING)
    folder = PictureFolder(tmp_path / "pictures")
    assert [found.archive for found in folder.pictures] == [f"pictures-{number:05d}.tar" for number in range(3)]
    assert folder.open(folder.pictures[1]).size == (300, 300)


def test_what_workers_are_sent_is_small(tmp_path: Path) -> None:
    write_picture_folder(tmp_path / "pictures", rows_of(tmp_path, ["a", "b"]), SAMPLING)
    folder = PictureFolder(tmp_path / "pictures")
    sent = pickle.dumps(folder.open)
    assert len(sent) < 500
    assert pickle.loads(sent)(folder.pictures[1]).getpixel((0, 0)) == (1, 0, 0)
    assert pickle.loads(pickle.dumps(folder)).pictures == folder.pictures


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="a\rb", prompt="a\r")
@given(text=st.text(st.characters(codec="utf-8"), max_size=120), prompt=st.text(st.characters(codec="utf-8")))
def test_any_text_survives_the_list(tmp_path: Path, text: str, prompt: str) -> None:
    request = replace(FIRST, character=text, artist=text[:5], prompt=prompt)
    write_picture_folder(tmp_path / "any", [("base", request, picture(tmp_path, 0))], SAMPLING)
    (found,) = PictureFolder(tmp_path / "any").pictures
    assert found.request == request
    assert member_name(text).isascii() and "/" not in member_name(text) and len(found.member) <= 100


def test_tags_that_differ_have_names_that_differ() -> None:
    tags = ["a/b", "a_b", "a?b", "雪", "月", "x" * 61, "x" * 60 + "y", "x" * 60]
    assert len({member_name(tag) for tag in tags}) == len(tags)
    assert member_name("mika_(lorelei)") == "mika_(lorelei)"


@pytest.mark.parametrize("file", [LIST_NAME, "pictures-00000.tar"])
def test_changed_and_missing_files_are_named(tmp_path: Path, file: str) -> None:
    write_picture_folder(tmp_path / "pictures", rows_of(tmp_path, ["a"]), SAMPLING)
    path = tmp_path / "pictures" / file
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(StageError, match=f"{file}: missing, unexpected or changed"):
        PictureFolder(tmp_path / "pictures")
    path.unlink()
    with pytest.raises(StageError, match=f"{file}: missing, unexpected or changed"):
        PictureFolder(tmp_path / "pictures")


def test_a_picture_that_changes_after_the_check_is_named(tmp_path: Path) -> None:
    write_picture_folder(tmp_path / "pictures", rows_of(tmp_path, ["mika"]), SAMPLING)
    folder = PictureFolder(tmp_path / "pictures")
    archive = tmp_path / "pictures" / "pictures-00000.tar"
    archive.write_bytes(archive.read_bytes().replace(b"IDAT", b"IDAX", 1))
    with pytest.raises(StageError, match=r"pictures-00000\.tar: the picture merged/name/0000/mika\.png is not the one"):
        folder.open(folder.pictures[0])
    folder.open(folder.pictures[1])
    archive.unlink()
    with pytest.raises(StageError, match=r"pictures-00000\.tar: missing, with the picture merged/name/0000/mika\.png"):
        folder.open(folder.pictures[0])


@pytest.mark.parametrize(
    ("content", "words"), [("a,b\n", "its columns are a, b, expected model, mode"), ("", "its columns are ,")]
)
def test_another_list_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / LIST_NAME).write_text(content)
    write_manifest(tmp_path, "")
    with pytest.raises(StageError, match=words):
        PictureFolder(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, "")
    with pytest.raises(StageError, match=r"pictures\.csv: missing; the folder is not one of the generate stage"):
        PictureFolder(tmp_path)


def test_a_lost_picture_leaves_nothing_half_written(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ["a", "b"])
    rows[-1][2].unlink()
    with pytest.raises(FileNotFoundError):
        write_picture_folder(tmp_path / "out" / "pictures", rows, SAMPLING)
    assert list((tmp_path / "out").iterdir()) == []
