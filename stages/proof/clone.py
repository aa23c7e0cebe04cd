"""A clone of the repository in surroundings that differ in all that must not matter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from repro.errors import StageError
from repro.numerics import PORTABLE_ENVIRONMENT
from repro.params import read_yaml

FOREIGN_SURROUNDINGS = {
    "PYTHONHASHSEED": "4242",
    "TZ": "NPT-5:45",
    "LANG": "C",
    "LC_ALL": "C",
    "DVC_NO_ANALYTICS": "1",
}
# What the caller may have set for runs of their own: stages of the clone find none of it (but IMAGE_ROOT: data is not cloned).
FORGOTTEN = {*PORTABLE_ENVIRONMENT, "COST_LOG", "GOLDEN", "PYTHONPATH", "STATE_ROOT"}
FOREIGN_UMASK = 0o077


def git(*arguments: str, folder: Path, umask: int = -1) -> str:
    """Output of a git command.

    Raises:
        StageError: git failed; its own words.
    """
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, umask=umask)
    if result.returncode:
        raise StageError(f"git {arguments[0]}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def refuse_uncommitted_changes(repository: Path) -> None:
    """A clone holds what is committed; with other files in the tree its result would prove something else.

    Raises:
        StageError: tracked files are changed; names the first.
    """
    changed = git("status", "--porcelain", "--untracked-files=no", folder=repository).splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise StageError(f"uncommitted changes ({changed[0][3:]}{more}); commit them first: a clone has committed files only")


def clone(repository: Path, folder: Path) -> None:
    """Clone HEAD into `folder` under another umask.

    Raises:
        StageError: git failed; its own words.
    """
    git("clone", "--quiet", str(repository), str(folder), folder=repository, umask=FOREIGN_UMASK)


def committed_lock(repository: Path, recipe: str | None) -> Path:
    """The lock file of a recipe's run, or of the one in place, as a path in the repository.

    Raises:
        StageError: the recipe has none.
    """
    if recipe is None:
        return Path("dvc.lock")
    lock = Path("recipes", f"{recipe}.lock")
    if not (repository / lock).exists():
        raise StageError(f"{lock}: not found; `make recipe-lock NAME={recipe}` runs the recipe and writes it")
    return lock


def put_recipe(folder: Path, recipe: str) -> None:
    """Give a clone a recipe, and its lock if there is one, instead of those in place.

    Raises:
        StageError: no such recipe.
    """
    source, lock = folder / "recipes" / f"{recipe}.yaml", folder / "recipes" / f"{recipe}.lock"
    if not source.exists():
        raise StageError(f"{source.relative_to(folder)}: no such recipe")
    shutil.copyfile(source, folder / "params.yaml")
    if lock.exists():
        shutil.copyfile(lock, folder / "dvc.lock")


def set_processes(params: Path, processes: int) -> None:
    """Write `runtime.processes`, which no stage's entry in dvc.lock holds, into a clone's params.yaml."""
    text = params.read_text(encoding="utf-8")
    changed, count = re.subn(r"^(runtime:\n(?:  .*\n)*?  processes:) .*$", rf"\1 {processes}", text, flags=re.MULTILINE)
    if count != 1:
        raise StageError(f"{params}: found no line 'processes:' in section 'runtime'")
    params.write_text(changed, encoding="utf-8")


def foreign_environment(scratch: Path) -> dict[str, str]:
    """The caller's environment without its settings for runs, with this interpreter's programs first and
    with caches, configuration, locale, time zone and hash seed of the clone's own."""
    kept = {name: value for name, value in os.environ.items() if name not in FORGOTTEN and not name.startswith(("DVC_", "LC_"))}
    own = {name: str(scratch / name.lower()) for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")}
    return kept | FOREIGN_SURROUNDINGS | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def split_stages(pipeline: Path) -> tuple[list[str], list[str]]:
    """Names of the stages of a dvc.yaml: those that run, and those that are frozen (outputs committed)."""
    stages = read_yaml(pipeline.read_text(encoding="utf-8"), str(pipeline))["stages"]
    frozen = [name for name, stage in stages.items() if stage.get("frozen")]
    return [name for name in stages if name not in frozen], frozen


def run_pipeline(folder: Path, stages: list[str], environment: dict[str, str]) -> int:
    """Make the stages anew, without DVC's run cache; returns DVC's exit code. Output goes to the terminal."""
    command = ["dvc", "repro", "--force", "--no-run-cache", *stages]
    return subprocess.run(command, cwd=folder, env=environment, umask=FOREIGN_UMASK).returncode
