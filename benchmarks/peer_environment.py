"""A peer's packages from PyPI, in a virtual environment of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_with(packages: Sequence[str], folder: Path) -> Path:
    """The Python of an environment in `folder` with exactly `packages` (no dependencies), made unless it is there."""
    python = folder / "bin" / "python"
    done = folder / "packages.txt"
    if not done.exists() or done.read_text(encoding="utf-8").split() != list(packages):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "--no-deps", *packages], check=True)
        done.write_text("\n".join(packages) + "\n", encoding="utf-8")
    return python
