"""Folders of pictures: what is taken, what is skipped with a reason, what stops."""

import os
from io import BytesIO
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file

import pytest
from damaged_pictures import png_with_broken_chunk, tiff_with_text_as_offset
from PIL import Image
from tiny_pictures import tiny_picture, write_character_folders

from ccip.folders import GIVEN, character_pictures, read_picture_folders
from characters.references import Skipped


def pictures(count: int, *key: str) -> list[bytes]:
    return [tiny_picture(*key, n) for n in range(count)]


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write_character_folders(tmp_path / "references", {"mika": pictures(2, "mika"), "aoi (harbour)": pictures(3, "aoi")})


def test_characters_with_their_pictures_by_name(references, tmp_path):
    generated = write_character_folders(tmp_path / "after", {"mika": pictures(1, "m"), "aoi (harbour)": pictures(4, "a")})
    (generated / "mika/.DS_Store").write_bytes(b"hidden")
    (references / ".hidden").mkdir()
    folders = read_picture_folders(references, {"after": generated})
    aoi, mika = folders.characters
    assert folders.skipped == []
    assert (aoi.reference.character, mika.reference.character) == ("aoi (harbour)", "mika")
    assert aoi.labels == ("00.png", "01.png", "02.png")
    assert [len(one.pictures["after", GIVEN].sources) for one in (aoi, mika)] == [4, 1]
    assert aoi.pictures["after", GIVEN].numbers == (0, 1, 2, 3)
    source = aoi.pictures["after", GIVEN].sources[3]
    file = generated / "aoi (harbour)/03.png"
    assert (source.name, source.sha256) == (str(file), sha256_file(file))
    assert list(source.open().getdata()) == list(Image.open(BytesIO(tiny_picture("a", 3))).getdata())


def test_characters_that_cannot_be_scored_are_listed(references, tmp_path):
    write_character_folders(references, {"rin": pictures(1, "r"), "empty": []})
    before = write_character_folders(tmp_path / "before", {"mika": pictures(1, "m"), "rin": [], "empty": pictures(1, "e")})
    after = write_character_folders(tmp_path / "after", {"mika": pictures(1, "m"), "nia": pictures(1, "n")})
    folders = read_picture_folders(references, {"before": before, "after": after})
    assert [one.reference.character for one in folders.characters] == ["mika"]
    assert folders.skipped == [
        Skipped("aoi (harbour)", "no pictures of before and after"),
        Skipped("empty", "no reference pictures"),
        Skipped("nia", "no reference pictures"),
        Skipped("rin", "no pictures of before and after"),
    ]


def test_nothing_in_common_is_refused(references, tmp_path):
    other = write_character_folders(tmp_path / "other", {"Mika": pictures(1, "m")})
    with pytest.raises(StageError, match=r"references: none of its characters has pictures in .*other; sub-folders must"):
        read_picture_folders(references, {"other": other})


@pytest.mark.parametrize("name", ["notes.txt", "moving.gif", "no_suffix"])
def test_a_file_that_is_no_picture_is_refused(references, name):
    (references / "mika" / name).write_bytes(b"text")
    with pytest.raises(StageError, match=rf"mika/{name}: no picture; .*\.png"):
        character_pictures(references)


def test_a_folder_among_pictures_is_refused(references):
    (references / "mika/deeper.png").mkdir()
    with pytest.raises(StageError, match=r"mika/deeper\.png: no picture"):
        character_pictures(references)


def test_a_picture_beside_the_sub_folders_is_refused(references):
    (references / "00.png").write_bytes(tiny_picture("beside"))
    with pytest.raises(StageError, match=r"references/00\.png: a file beside the characters' sub-folders"):
        character_pictures(references)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StageError, match=r"nowhere: no such folder; expected one with a sub-folder"):
        character_pictures(tmp_path / "nowhere")


@pytest.mark.parametrize("place", [b"", b"mika"])
@pytest.mark.parametrize(("name", "shown"), [(b"caf\xe9", r"'caf\udce9'"), (b"two\nlines", r"'two\nlines'")])
def test_a_name_that_the_outputs_cannot_hold_is_refused_before_anything_is_read(references, place, name, shown):
    folder = os.path.join(os.fsencode(references), place)
    os.mkdir(os.path.join(folder, name))
    with pytest.raises(StageError) as caught:
        character_pictures(references)
    assert f"{os.fsdecode(folder).rstrip('/')}: the name {shown} in it is not UTF-8 or has control" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG not quite", tiny_picture("cut")[:200], tiff_with_text_as_offset(), png_with_broken_chunk()]
)
def test_a_broken_picture_is_named(references, data):
    (references / "mika/00.png").write_bytes(data)
    with pytest.raises(StageError, match=r"mika/00\.png: cannot be decoded as a picture"):
        character_pictures(references)["mika"][0].open()


@pytest.mark.parametrize("kind", ["webp", "png", "tiff"])
def test_a_moving_picture_is_refused(references, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = references / f"mika/moving.{kind}"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    with pytest.raises(StageError, match=rf"moving\.{kind}: has 2 frames"):
        next(one for one in character_pictures(references)["mika"] if one.name == str(file)).open()


@pytest.mark.parametrize("kind", ["bmp", "jpg", "JPEG", "png", "tif", "TIFF", "webp"])
def test_kinds_of_pictures(references, kind):
    file = references / f"mika/one.{kind}"
    Image.new("RGB", (9, 8), "red").save(file)
    image = next(one for one in character_pictures(references)["mika"] if one.name == str(file)).open()
    assert image.size == (9, 8)
