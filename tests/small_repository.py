"""Small repositories of git and DVC that tests make, and commands in them."""

import os
import shutil
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


def copy_working_tree(folder: Path) -> Path:
    """Copies of this repository's files as they are in its working tree, but what git ignores; returns their folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, check=True, encoding="utf-8").stdout.split("\0"):
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, folder / name)
    return folder
