"""Do a small job natively and on emulated CPUs, and compare every result.

    python stages/verify_cpu.py             (or: make verify-cpu)

The job (`proof/small_job.py`) is two updates of the trainer, sampling, CCIP features and the
fingerprint's operations. The other CPUs are those of QEMU's user-mode emulation: their vendor, model
and features are what the numeric libraries see and choose their kernels by. Exit code 0: all equal;
1: something differs; 2: QEMU is not installed. Takes about ten minutes a CPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from repro.errors import StageError, run_stage
from repro.numerics import PORTABLE_ENVIRONMENT

EMULATORS = ("qemu-x86_64-static", "qemu-x86_64")
DIFFERENCE_EXIT = 1
STAGES = Path(__file__).parent


def find_emulator() -> str:
    """The emulator's program.

    Raises:
        StageError: it is not installed.
    """
    for name in EMULATORS:
        if program := shutil.which(name):
            return program
    raise StageError(
        "QEMU's user-mode emulation is not installed: `apt-get install qemu-user-static` (Debian, Ubuntu), then again"
    )


def run_job(prefix: list[str], arguments: list[str]) -> dict[str, str]:
    """Digests of the job, run under the command `prefix` with the environment of a fresh shell.

    Raises:
        StageError: the job failed; its last words.
    """
    environment = {name: value for name, value in os.environ.items() if name not in PORTABLE_ENVIRONMENT}
    command = [*prefix, sys.executable, str(STAGES / "proof" / "small_job.py"), *arguments]
    result = subprocess.run(command, env=environment | {"PYTHONPATH": str(STAGES)}, capture_output=True, text=True)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line and not line.startswith("qemu-")]
        last = said[-1] if said else "no message"
        raise StageError(f"{' '.join(prefix) or 'natively'}: the job failed with exit code {result.returncode}: {last}")
    return json.loads(result.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cpus", nargs="+", default=["Haswell", "Skylake-Client"], help="as QEMU names them (default: %(default)s)"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--base", type=Path, default=Path("models/sample-base"), help="default: %(default)s")
    parser.add_argument("--ccip", type=Path, default=Path("models/sample-ccip"), help="default: %(default)s")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    emulator = find_emulator()
    job = ["--params", str(args.params), "--base", str(args.base), "--ccip", str(args.ccip)]
    digests: dict[str, dict[str, str]] = {}
    for cpu, prefix in {"native": [], **{cpu: [emulator, "-cpu", cpu] for cpu in args.cpus}}.items():
        start = time.monotonic()
        digests[cpu] = run_job(prefix, job)
        print(f"{cpu}: {len(digests[cpu])} results in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    differing = print_table(digests)
    if differing:
        print(f"{differing} of {len(digests['native'])} results differ between CPUs")
        sys.exit(DIFFERENCE_EXIT)
    print(f"all {len(digests['native'])} results are equal on {', '.join(digests)}")


def print_table(digests: dict[str, dict[str, str]]) -> int:
    """One line a result, its digest and the CPUs where it is another; returns how many lines have such."""
    native = digests["native"]
    width, differing = max(map(len, native)), 0
    for what, digest in native.items():
        others = [cpu for cpu, found in digests.items() if found[what] != digest]
        differing += bool(others)
        print(f"{what:<{width}}  {digest[:16]}  {'DIFFERENT on ' + ', '.join(others) if others else 'equal'}")
    return differing


if __name__ == "__main__":
    run_stage(main)
