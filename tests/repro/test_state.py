"""State folders: one holder at a time, a lock that dies with it, no state for another recipe."""

import os
import signal
import subprocess
import sys
from pathlib import Path

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
