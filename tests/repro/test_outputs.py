"""Outputs appear whole or not at all: after an error, a kill, a full disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from repro.errors import StageError
from repro.outputs import json_text, whole_file, whole_folder, write_json, write_text

import pytest

STAGES = Path("stages").resolve()
KILLED_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
import repro.outputs as outputs
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
outputs.os.replace = die
outputs.write_text(Path(sys.argv[1]), "new " * 1000)
"""
KILLED_WHILE_FILLING = """
import os, signal, sys
from pathlib import Path
from repro.outputs import whole_folder
with whole_folder(Path(sys.argv[1])) as new:
    (new / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
FILL_THE_DISK = """
import sys
from pathlib import Path
from repro.errors import run_stage
from repro.outputs import whole_file, whole_folder
def main(arguments):
    kind, path = arguments
    if kind == "file":
        with whole_file(Path(path)) as new:
            new.write_bytes(b"x" * 200_000)
    else:
        with whole_folder(Path(path)) as new:
            for i in range(20):
                (new / f"{i}.bin").write_bytes(b"x" * 10_000)
run_stage(main)
"""


def python(program: str, *arguments: str, before: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(STAGES)}
    command = [*(before or []), sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_a_file_stays_what_it_was_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as new:
        new.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_folder_is_replaced_whole_and_stays_when_filling_fails(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_folder(path) as new:
        (new / "a").write_text("1")
    with pytest.raises(StageError), whole_folder(path) as new:
        (new / "b").write_text("2")
        raise StageError("no")
    assert [p.name for p in path.iterdir()] == ["a"]
    with whole_folder(path) as new:
        (new / "b").write_text("2")
    assert [p.name for p in path.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_text(path, "old")
    assert python(KILLED_BEFORE_RENAME, str(path)).returncode == -9
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_kill_while_a_folder_is_filled_leaves_no_folder_and_no_trace_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert python(KILLED_WHILE_FILLING, str(path)).returncode == -9
    assert not path.exists()
    with whole_folder(path) as new:
        (new / "whole").write_text("y")
    assert [p.name for p in path.iterdir()] == ["whole"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> list[str]:
    """A command prefix under which `tmp_path/disk` is a tmpfs of 64 KiB, in a mount namespace of its own."""
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=64k none "{tmp_path}/disk" && "$@"; code=$?; ls -A "{tmp_path}/disk"; exit $code'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this system gives no mount namespace to try a full disk in")
    return prefix


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_is_one_line_exit_code_2_and_nothing_half_written(tmp_path: Path, tiny_disk: list[str], kind: str) -> None:
    result = python(FILL_THE_DISK, kind, f"{tmp_path}/disk/out", before=tiny_disk)
    assert result.returncode == 2
    assert result.stdout == "", "nothing is left on the disk"
    assert "no space left on the device" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_canonical_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [0.1, "ü"]})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "a": [\n    0.1,\n    "ü"\n  ],\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text(float("nan"))
