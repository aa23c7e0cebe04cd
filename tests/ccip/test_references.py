"""references.json: read, refused in one line, short ones skipped with the reason."""

import json
from pathlib import Path

from repro.errors import StageError

import pytest

from ccip.references import Skipped, read_references, with_enough_posts

MIKA = {"series": "lorelei", "gender_tag": "1girl", "artists": ["zoish"], "core_tags": ["glasses"], "posts": [3, 1, 2]}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "references.json"
    path.write_text(json.dumps(content))
    return path


def test_characters_come_sorted_with_their_held_out_artists(tmp_path):
    content = {"characters": {"mika": MIKA, "aoi": {**MIKA, "posts": [9]}}, "held_out": [["mika", "johan_melin"]]}
    aoi, mika = read_references(written(tmp_path, content))
    assert (aoi.character, mika.character) == ("aoi", "mika")
    assert mika.posts == (3, 1, 2)
    assert (mika.held_out_artists, aoi.held_out_artists) == (("johan_melin",), ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"characters": {"mika": {**MIKA, "posts": ["1"]}}}, r"references.json: characters.mika.posts.0: .*integer"),
        ({"characters": {"mika": {"series": "x"}}}, r"characters.mika.gender_tag: Field required"),
        ({"characters": {}}, r"characters: .*at least 1"),
        ({"characters": {"mika": MIKA}, "held_out": [["aoi", "zoish"]]}, r"held_out names 'aoi'"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(StageError, match=message) as caught:
        read_references(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(StageError, match="no such file"):
        read_references(tmp_path / "references.json")
    (tmp_path / "references.json").write_text("{")
    with pytest.raises(StageError, match=r"references.json: Invalid JSON"):
        read_references(tmp_path / "references.json")


def test_characters_with_too_few_references_are_skipped_with_the_reason(tmp_path):
    references = read_references(written(tmp_path, {"characters": {"mika": MIKA, "aoi": {**MIKA, "posts": [9]}}}))
    scored, skipped = with_enough_posts(references, 2)
    assert [r.character for r in scored] == ["mika"]
    assert skipped == [Skipped("aoi", "1 reference pictures, evaluate.reference_pictures needs 2")]
    with pytest.raises(StageError, match="no character has 4 reference pictures"):
        with_enough_posts(references, 4)
