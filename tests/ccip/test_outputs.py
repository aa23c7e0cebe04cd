"""Where an evaluation may write: nothing is replaced that no evaluation wrote, no input is written over."""

from pathlib import Path

from repro.errors import StageError
from repro.hashing import hash_tree

import pytest

from ccip.outputs import check_output_folders


def write_earlier(out: Path) -> None:
    """The two folders of an earlier evaluation, as far as they are looked at."""
    for name, mark in (("ccip", "rank.csv"), ("pictures", "grid.png")):
        (out / name).mkdir(parents=True)
        (out / name / mark).write_bytes(b"earlier")
        (out / name / "MANIFEST.json").write_text("{}")


def test_new_folders_empty_ones_and_those_of_an_earlier_evaluation_are_taken(tmp_path):
    inputs = [tmp_path / "references", tmp_path / "pictures-of-base"]
    check_output_folders(tmp_path / "new", inputs)
    (tmp_path / "empty/ccip").mkdir(parents=True)
    check_output_folders(tmp_path / "empty", inputs)
    write_earlier(tmp_path / "earlier")
    before = hash_tree(tmp_path)
    check_output_folders(tmp_path / "earlier", inputs)
    assert hash_tree(tmp_path) == before


@pytest.mark.parametrize(("name", "mark"), [("ccip", "rank.csv"), ("pictures", "grid.png")])
def test_a_folder_of_another_stage_is_not_replaced(tmp_path, name, mark):
    write_earlier(tmp_path / "out")
    (tmp_path / "out" / name / mark).rename(tmp_path / "out" / name / "pictures-00000.tar")
    with pytest.raises(StageError, match=rf"out/{name}: it is there, and no {mark} in it says that an evaluation wrote it"):
        check_output_folders(tmp_path / "out", [])


@pytest.mark.parametrize("name", ["ccip", "pictures"])
@pytest.mark.parametrize("where", ["out/{}", "out/{}/base", "out", "other/../out/{}/deep/deeper", "link"])
def test_an_input_is_never_written_over_or_into(tmp_path, name, where):
    write_earlier(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out" / name)
    path = tmp_path / where.format(name)
    with pytest.raises(StageError) as caught:
        check_output_folders(tmp_path / "out", [tmp_path / "elsewhere", path])
    assert f"would be written over or into the input {path};" in str(caught.value)


def test_an_input_beside_the_outputs_is_taken(tmp_path):
    check_output_folders(tmp_path, [tmp_path / "ccip-model", tmp_path / "references", tmp_path / "pictures.old"])
