"""Exit codes and messages of a stage."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STAGE = """
import errno, os, signal, sys
from repro.errors import StageError, run_stage
def main(arguments):
    what = arguments[0]
    if what == "user":
        raise StageError("params.yaml: lr: must be above 0")
    if what == "missing":
        open("no/such/file")
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models/x.safetensors")
    if what == "quota":
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "models/x.safetensors")
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if what == "defect":
        {}["key"]
    if what == "pipe":
        for i in range(1_000_000):
            print("line")
    print("done")
run_stage(main)
"""


def stage(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "stage.py"
    script.write_text(STAGE)
    environment = os.environ | {"PYTHONPATH": str(Path("stages").resolve())}
    return subprocess.run([sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("user", "stage.py: params.yaml: lr: must be above 0"),
        ("missing", "stage.py: no/such/file: No such file or directory"),
        ("full", "stage.py: models/x.safetensors: no space left on the device; free some and run again"),
        ("quota", "stage.py: models/x.safetensors: disk quota exceeded; free some and run again"),
    ],
)
def test_a_users_error_is_one_line_and_code_2(tmp_path: Path, what: str, line: str) -> None:
    result = stage(tmp_path, what)
    assert result.returncode == 2
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1


def test_debug_shows_the_traceback_too(tmp_path: Path) -> None:
    result = stage(tmp_path, "user", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "stage.py: params.yaml: lr: must be above 0"


def test_success_interruption_and_defects_have_codes_of_their_own(tmp_path: Path) -> None:
    assert stage(tmp_path, "well").returncode == 0
    interrupted = stage(tmp_path, "interrupt")
    assert interrupted.returncode == 128 + signal.SIGINT
    assert len(interrupted.stderr.splitlines()) == 1
    defect = stage(tmp_path, "defect")
    assert defect.returncode == 1
    assert "KeyError" in defect.stderr


def test_a_closed_pipe_says_nothing(tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text(STAGE)
    environment = os.environ | {"PYTHONPATH": str(Path("stages").resolve())}
    command = f'"{sys.executable}" "{script}" pipe | head -n 1'
    result = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout == "line\n"
    assert result.stderr == ""
