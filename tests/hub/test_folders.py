"""Folders that are there already, and names of their files; fetching is tested through the scripts that do it."""

import hashlib
from pathlib import Path

from repro.errors import StageError
from repro.params import HubFolder

import pytest

from hub.folders import bring_folder, is_there, wanted_files

SOURCE = HubFolder(repo="someone/model", revision="0" * 40, path="")
RIGHT = hashlib.sha256(b"weights").hexdigest()


def bring(folder: Path, sha256: dict[str, str | None]) -> None:
    """The hub is off in the tests' own process, so what is not there cannot come."""
    bring_folder(folder, SOURCE, sha256, "some.model.sha256", "some.folder")


def test_files_that_are_always_wanted_come_first_with_the_sha256_that_is_known() -> None:
    wanted = wanted_files(["b", "a"], {"c": "3", "a": "1"}, "some.model")
    assert list(wanted.items()) == [("b", None), ("a", "1"), ("c", "3")]


@pytest.mark.parametrize("name", ["", "../a", "sub/a", "/a", ".", ".."])
def test_a_name_that_is_no_files_is_refused(name: str) -> None:
    with pytest.raises(StageError, match=r"^some\.model\.sha256: '.*' is no file's name; .* such as b$"):
        wanted_files(["b"], {name: RIGHT}, "some.model")


def test_a_right_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_there(tmp_path)
    (tmp_path / "a").write_bytes(b"weights")
    assert is_there(tmp_path)
    bring(tmp_path, {"a": RIGHT})
    assert capsys.readouterr().out == f"{tmp_path}: already there, with the sha256 of some.model.sha256\n"


@pytest.mark.parametrize(
    ("name", "expected", "found", "told"),
    [
        ("a", "0" * 64, RIGHT, "0" * 64),
        ("a", None, RIGHT, "nothing"),
        ("b", RIGHT, "missing", RIGHT),
        ("b", None, "missing", "nothing"),
    ],
)
def test_another_folder_is_told_and_stays(tmp_path: Path, name: str, expected: str | None, found: str, told: str) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    with pytest.raises(StageError) as caught:
        bring(tmp_path, {name: expected})
    assert str(caught.value).startswith(f"{tmp_path / name}: {found}, but some.model.sha256 has {told} for it; ")
    assert "name another as some.folder" in str(caught.value)
    assert (tmp_path / "a").read_bytes() == b"weights"


def test_nothing_is_written_where_nothing_comes(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="someone/model"):
        bring(tmp_path / "new", {"a": RIGHT})
    assert list(tmp_path.iterdir()) == []
