"""Commands in a small repository of git and DVC that a test makes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "1",
    **{f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
NOTHING: Mapping[str, str] = {}


def run(folder: Path, *command: str, environment: Mapping[str, str] = NOTHING) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**ENVIRONMENT, **environment})


def made(folder: Path, *command: str, environment: Mapping[str, str] = NOTHING) -> str:
    """What a command prints that must end well."""
    result = run(folder, *command, environment=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
