"""The portable numeric environment: set before anything numeric, refused too late or on an old CPU."""

import os
import subprocess
import sys
from pathlib import Path

from repro.errors import StageError
from repro.numerics import PORTABLE_ENVIRONMENT, refuse_old_cpu

import pytest


def python(program: str, keep_settings: bool = False) -> subprocess.CompletedProcess[str]:
    settings = os.environ if keep_settings else {k: v for k, v in os.environ.items() if k not in PORTABLE_ENVIRONMENT}
    environment = dict(settings) | {"PYTHONPATH": str(Path("stages").resolve())}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("module", ["numpy", "torch", "polars"])
def test_a_numeric_library_imported_first_is_refused(module: str) -> None:
    result = python(f"import {module}\nimport repro")
    assert result.returncode != 0
    assert f"import repro before {module}" in result.stderr


def test_inherited_settings_may_come_with_any_order() -> None:
    assert python("import numpy\nimport repro", keep_settings=True).returncode == 0


def test_settings_are_in_place_after_import_and_make_no_warnings() -> None:
    result = python(
        "import repro, os\nfrom repro.numerics import PORTABLE_ENVIRONMENT as p\n"
        "assert all(os.environ[k] == v for k, v in p.items())\nimport numpy\n"
        "numpy.exp(numpy.ones(3))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_torch_has_one_thread_and_strict_determinism() -> None:
    program = (
        "import repro\nfrom repro.numerics import fix_torch\nimport torch\nfix_torch()\nfix_torch()\n"
        "print(torch.get_num_threads(), torch.get_num_interop_threads(), torch.are_deterministic_algorithms_enabled(),"
        " torch.backends.cpu.get_cpu_capability())"
    )
    assert python(program).stdout.split() == ["1", "1", "True", "AVX2"]


def test_a_cpu_without_avx2_or_fma_is_refused_in_words(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Old\nflags\t\t: fpu sse2 avx fma\n")
    with pytest.raises(StageError, match="this CPU lacks avx2:"):
        refuse_old_cpu(info)
    info.write_text("flags\t\t: fpu sse2 avx\n")
    with pytest.raises(StageError, match="this CPU lacks avx2 and fma:"):
        refuse_old_cpu(info)
    info.write_text("flags\t\t: fpu avx2 fma\n")
    refuse_old_cpu(info)


def test_a_machine_of_another_make_is_refused_in_words(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    with pytest.raises(StageError, match="not x86-64"):
        refuse_old_cpu(info)
