"""references.json: read, written so that it is read again, refused in one line."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.outputs import json_text

import pytest

from characters.references import Reference, ReferenceList, Skipped, read_references, references_content

MIKA = {"series": "lorelei", "gender_tag": "1girl", "artists": ["zoish"], "core_tags": ["glasses"], "posts": [3, 1, 2]}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "references.json"
    path.write_text(json.dumps(content))
    return path


def test_characters_come_sorted_with_their_held_out_artists(tmp_path: Path):
    content = {"characters": {"mika": MIKA, "aoi": {**MIKA, "posts": [9]}}, "held_out": [["mika", "johan_melin"]]}
    aoi, mika = read_references(written(tmp_path, content)).characters
    assert (aoi.character, mika.character) == ("aoi", "mika")
    assert mika.posts == (3, 1, 2)
    assert (mika.held_out_artists, aoi.held_out_artists) == (("johan_melin",), ())
    assert read_references(written(tmp_path, {"characters": {"mika": {**MIKA, "posts": [0, 2**63 - 1]}}})).characters[0].posts
    assert (mika.training_pictures, mika.series, mika.gender_tag) == (0, "lorelei", "1girl")


def test_what_is_written_is_read_again(tmp_path: Path):
    mika = Reference("mika", "lorelei", "1girl", ("glasses", "tail"), ("zoish",), (3, 1), ("johan_melin", "amon"), 59)
    rin = Reference("rin", "", "", (), (), (4, 5), (), 40)
    references = ReferenceList((mika, rin), (Skipped("aoi", "7 unseen pictures"),))
    path = tmp_path / "references.json"
    path.write_text(json_text(references_content(references.characters, references.skipped)))
    assert read_references(path) == references
    assert set(json.loads(path.read_text())["characters"]["rin"]) == {
        "series", "gender_tag", "core_tags", "artists", "posts", "training_pictures",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"characters": {"mika": {**MIKA, "posts": ["1"]}}}, r"references.json: characters.mika.posts.0: .*integer"),
        ({"characters": {"mika": {**MIKA, "posts": [3, -1]}}}, r"characters.mika.posts.1: .*greater than or equal to 0"),
        ({"characters": {"mika": {**MIKA, "posts": [2**63]}}}, r"mika.posts.0: .*less than or equal to 9223372036854775807"),
        ({"characters": {"mika": {**MIKA, "posts": [3, 7, 1, 7, 3]}}}, r"json: characters.mika.posts: post 3 stands there twice"),
        ({"characters": {"mika": {"series": "x"}}}, r"characters.mika.gender_tag: Field required"),
        ({"characters": {}}, r"characters: .*at least 1"),
        ({"characters": {"mika": MIKA}, "held_out": [["aoi", "zoish"]]}, r"held_out names 'aoi'"),
        ({"characters": {"mika": MIKA}, "skipped": [{"character": "aoi"}]}, r"skipped.0.reason: Field required"),
        ({"characters": {"mika": {**MIKA, "training_pictures": -1}}}, r"training_pictures: .*greater than or equal to 0"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: object, message: str):
    with pytest.raises(StageError, match=message) as caught:
        read_references(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path):
    with pytest.raises(StageError, match="no such file"):
        read_references(tmp_path / "references.json")
    (tmp_path / "references.json").write_text("{")
    with pytest.raises(StageError, match=r"references.json: Invalid JSON"):
        read_references(tmp_path / "references.json")
