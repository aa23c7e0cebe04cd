"""mend_dvc.py puts right what a killed dvc left cut off, and touches nothing that is whole or in use."""

import json
import subprocess
from pathlib import Path

from repro.errors import StageError

import pytest
from dvc.lock import make_lock
from dvc.rwlock import RWLOCK_LOCK

from mend_dvc import main

LOCK = (Path(__file__).parent.parent / "dvc.lock").read_text(encoding="utf-8")


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with a committed dvc.lock and DVC's folder, current."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text(LOCK)
    git("init", "--quiet")
    git("add", "dvc.lock")
    git("commit", "--quiet", "-m", "lock")
    return tmp_path


@pytest.mark.parametrize("text", ["", '{"read": {"a": [{"pid": 1'])
def test_a_cut_off_file_of_files_in_use_is_removed(repository: Path, text: str) -> None:
    in_use = repository / ".dvc" / "tmp" / "rwlock"
    in_use.write_text(text)
    main([])
    assert not in_use.exists()


def test_a_whole_file_of_files_in_use_stays(repository: Path) -> None:
    in_use = repository / ".dvc" / "tmp" / "rwlock"
    in_use.write_text(json.dumps({"read": {}}))
    main([])
    assert json.loads(in_use.read_text()) == {"read": {}}


def test_a_file_that_a_dvc_is_writing_stays(repository: Path) -> None:
    folder = repository / ".dvc" / "tmp"
    (folder / "rwlock").write_text("")
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):
        main([])
    assert (folder / "rwlock").exists()


@pytest.mark.parametrize("end", [60, len(LOCK) // 2, len(LOCK) - 30])
def test_a_lock_cut_off_anywhere_is_readable_afterwards(repository: Path, end: int) -> None:
    (repository / "dvc.lock").write_text(LOCK[:end])
    main([])
    assert (repository / "dvc.lock").read_text() in (LOCK, LOCK[:end])
    main([])


def test_an_unreadable_lock_is_put_back_as_committed(repository: Path) -> None:
    (repository / "dvc.lock").write_text(LOCK[: LOCK.index("    outs:") + 6])
    main([])
    assert (repository / "dvc.lock").read_text() == LOCK


def test_a_readable_lock_stays_as_it_is(repository: Path) -> None:
    shorter = LOCK[: LOCK.index("\n  filter:") + 1]
    (repository / "dvc.lock").write_text(shorter)
    main([])
    assert (repository / "dvc.lock").read_text() == shorter


def test_a_cut_off_lock_that_was_never_committed_is_named(repository: Path) -> None:
    git("rm", "--cached", "--quiet", "dvc.lock")
    git("commit", "--quiet", "-m", "no lock")
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages:\n  select:\n    cm")
    with pytest.raises(StageError, match=r"dvc\.lock: cut off, and git has no committed copy"):
        main([])
