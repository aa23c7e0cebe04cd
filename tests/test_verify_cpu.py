"""verify_cpu.py: equal results natively and under emulated Intel CPUs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from verify_cpu import EMULATORS, print_table

SCRIPT = [sys.executable, "stages/verify_cpu.py"]


def test_without_the_emulator_it_says_how_to_get_it(tmp_path: Path) -> None:
    result = subprocess.run(SCRIPT, env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "apt-get install qemu-user-static" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_table_names_the_cpus_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    same = {"operation: linear": "0123456789abcdef" * 4, "training: weights": "f" * 64}
    assert print_table({"native": same, "Haswell": same}) == 0
    other = same | {"training: weights": "e" * 64}
    assert print_table({"native": same, "Haswell": same, "Skylake-Client": other}) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "training: weights  ffffffffffffffff  DIFFERENT on Skylake-Client"


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, EMULATORS)), reason="QEMU's user-mode emulation is not installed")
def test_emulated_intel_cpus_give_the_same_bits() -> None:
    result = subprocess.run(SCRIPT, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "are equal on native, Haswell, Skylake-Client" in result.stdout.splitlines()[-1]
