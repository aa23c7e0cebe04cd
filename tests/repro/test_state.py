"""State folders: one holder at a time, a lock that dies with it, no state for another recipe."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from repro import state
from repro.errors import StageError
from repro.state import INPUTS, forget_state, stage_state

import pytest

HOLD = """
import sys
import repro.state as state
from repro.errors import run_stage
state.LOCK_WAIT_SECONDS = 0
def main(arguments):
    with state.stage_state("train", {"recipe": arguments[0]}) as folder:
        print(folder, flush=True)
        sys.stdin.readline()
run_stage(main)
"""
DIGESTS = """
import sys
from pathlib import Path
from repro.state import code_digest
print(code_digest(Path(sys.argv[1])))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path("stages").resolve()), "STATE_ROOT": str(tmp_path / "state")}


def hold(recipe: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, recipe],
        env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_second_holder_is_refused_whatever_its_recipe(environment: dict[str, str]) -> None:
    first = hold("a", environment)
    assert first.stdout.readline()
    for recipe in ("a", "b"):
        second = hold(recipe, environment)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "another train process is running" in errors
        assert len(errors.splitlines()) == 1
    first.communicate("\n", timeout=60)
    assert first.returncode == 0


def test_the_lock_dies_with_a_killed_holder(environment: dict[str, str]) -> None:
    first = hold("a", environment)
    folder = first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    second = hold("a", environment)
    assert second.stdout.readline() == folder, "the same recipe finds its state again"
    second.communicate("\n", timeout=60)
    assert second.returncode == 0


def test_another_recipe_has_another_folder(environment: dict[str, str]) -> None:
    folders = set()
    for recipe in ("a", "b"):
        process = hold(recipe, environment)
        folders.add(process.stdout.readline())
        process.communicate("\n", timeout=60)
    assert len(folders) == 2


def test_state_knows_what_determined_it(environment: dict[str, str]) -> None:
    process = hold("a", environment)
    folder = Path(process.stdout.readline().strip())
    process.communicate("\n", timeout=60)
    assert (folder / "inputs.json").read_text() == '{\n  "recipe": "a"\n}\n'


PARTS = {
    "params": {"lr": 0.1, "train": {"updates": 5, "pictures": None}},
    "latents": {"content": "a", "files": {"x": "1"}},
    "code": "c",
}


def changed(**parts: object) -> dict[str, object]:
    return PARTS | parts


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (changed(params={"lr": 0.2, "train": {"updates": 5, "pictures": None}}), "lr: 0.2 there, 0.1 here"),
        (changed(params={"lr": 0.1, "train": {"updates": 9, "pictures": 3}}),
         "train.pictures: 3 there, None here; train.updates: 9 there, 5 here"),
        (changed(latents={"content": "b", "files": {"x": "2"}}), "latents.content; latents.files.x"),
        (changed(code="d"), "code"),
        (changed(latents={"content": "b", "files": {str(i): "1" for i in range(9)}}),
         "latents.content; latents.files.0; latents.files.1; latents.files.2; and 7 more"),
    ],
)  # fmt: skip
def test_a_named_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path, there: dict, said: str) -> None:
    with stage_state("train", there, tmp_path / "mine"):
        pass
    with pytest.raises(StageError) as caught, stage_state("train", PARTS, tmp_path / "mine"):
        pass
    text = f"{tmp_path / 'mine'}: holds the state of another run, which differs in {said}; continue that one as it was, or name"
    assert str(caught.value) == f"{text} another folder"
    with stage_state("train", there, tmp_path / "mine") as folder:
        assert (folder / INPUTS).exists(), "its own run goes on"


def test_the_default_folder_begins_anew_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(state, "STATE_ROOT", tmp_path)
    with stage_state("train", changed(code="d")) as other:
        (other / "update-00000001").write_text("kept")
    assert capsys.readouterr().err == ""
    for said in (f"{other}: the state of another run, which differs in code; beginning anew\n", ""):
        with stage_state("train", PARTS) as folder:
            assert folder != other and list(folder.iterdir()) == [folder / INPUTS]
        assert capsys.readouterr().err == said, "once: what goes on needs no word"
    assert (other / "update-00000001").read_text() == "kept"
    forget_state(folder)
    assert other.exists() and not folder.exists()


def test_two_runs_with_folders_of_their_own_live_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LOCK_WAIT_SECONDS", 0)
    with (
        stage_state("train", PARTS, tmp_path / "a"),
        stage_state("train", changed(code="d"), tmp_path / "b"),
        pytest.raises(StageError, match="a: another train process is running here"),
        stage_state("train", PARTS, tmp_path / "a"),
    ):
        pass


def test_the_code_digest_follows_the_code_and_nothing_else(tmp_path: Path, environment: dict[str, str]) -> None:
    def digest() -> str:
        command = [sys.executable, "-c", DIGESTS, str(tmp_path / "package")]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    (tmp_path / "package").mkdir()
    module = tmp_path / "package" / "a.py"
    module.write_text("x = 1\n")
    before = digest()
    (tmp_path / "package" / "notes.txt").write_text("no code")
    assert digest() == before
    module.write_text("x = 2\n")
    assert digest() != before
