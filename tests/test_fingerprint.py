"""The fingerprint: this machine is inside the promise, and another arithmetic is not."""

import os
import subprocess
import sys

import pytest

from fingerprint import verdicts
from proof.fingerprint import read_golden


def test_this_machine_is_inside_the_promise() -> None:
    result = subprocess.run([sys.executable, "stages/fingerprint.py"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].startswith("inside the promise")


def test_a_changed_digest_is_named() -> None:
    golden = read_golden()
    assert set(verdicts(golden, golden).values()) == {"equal"}
    judged = verdicts(golden | {"linear": "0" * 16, "onnxruntime int8 encoder 01234567": "1" * 16}, golden)
    assert judged["linear"] == f"DIFFERENT ({golden['linear']} expected)"
    assert judged["onnxruntime int8 encoder 01234567"] == "no golden digest"


@pytest.mark.slow
def test_the_default_settings_of_the_libraries_are_outside_of_it() -> None:
    """The digests do depend on what numerics.py fixes: with settings of its own the program says so and fails."""
    program = (
        "import sys; sys.path.insert(0, 'stages')\n"
        "import repro.numerics as n, os\n"
        "for name in ('ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'MKL_CBWR', 'NPY_DISABLE_CPU_FEATURES'):\n"
        "    os.environ.pop(name)\n"
        "import runpy; sys.argv = ['stages/fingerprint.py']; runpy.run_path('stages/fingerprint.py', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", program], env=os.environ.copy(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, result.stderr
    assert result.stdout.splitlines()[-1].startswith("outside the promise")
