"""stages/make_sample.py as a process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


def make(*arguments: str, **surroundings: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "stages/make_sample.py", *arguments]
    return subprocess.run(command, env={**os.environ, **surroundings}, capture_output=True, text=True, check=False)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def test_missing_art_is_told_in_one_line(tmp_path):
    answer = make("--art", str(tmp_path), "--output", str(tmp_path / "sample"))
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "eileen-happy.webp" in answer.stderr
    assert not (tmp_path / "sample").exists()


@pytest.mark.slow
def test_committed_sample_is_made_again_byte_for_byte(tmp_path):
    answer = make(
        "--art",
        "data/art",
        "--output",
        str(tmp_path / "elsewhere" / "s"),
        PYTHONHASHSEED="5",
        TZ="Asia/Kolkata",
        LANG="C",
        LC_ALL="C",
    )
    assert answer.returncode == 0, answer.stderr
    assert hashes(tmp_path / "elsewhere" / "s") == hashes(Path("data/sample"))
