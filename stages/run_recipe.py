"""Run a recipe in a clone of its own, beside the run in place, and renew its lock file.

    python stages/run_recipe.py sample-cascade        (or: make recipe-lock NAME=sample-cascade)

The clone lies in state/recipe-runs/<recipe> and shares DVC's cache with this repository; its reports are there to look at.
It holds what is committed here. The same command goes on where it was stopped, and after a commit does again what that
changed. At the end the clone's dvc.lock is recipes/<recipe>.lock, which `make verify-recipe` holds a fresh clone against.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

from repro.errors import StageError, run_stage

from proof.clone import clone, git, put_recipe, refuse_uncommitted_changes, split_stages

# What the run itself wrote into files that are committed here.
OWN_FILES = ("reports", "dvc.lock")


def bring_up_to_date(folder: Path) -> None:
    """Put the clone at the commit of the repository that it was cloned from, without undoing what its run has written.

    Where it is killed the next call goes on: what was put aside is the run's own, and is put back before anything else.
    """
    kept = folder.with_name(f"{folder.name} as run")
    put_back(kept, folder)
    git("fetch", "--quiet", "origin", "HEAD", folder=folder)
    kept.mkdir()
    for name in OWN_FILES:
        if (folder / name).exists():
            (folder / name).rename(kept / name)
    git("checkout", "--quiet", "--force", "--detach", "FETCH_HEAD", folder=folder)
    put_back(kept, folder)


def put_back(kept: Path, folder: Path) -> None:
    """Move a run's own files from where they were put aside, if they are there, into its clone."""
    if not kept.exists():
        return
    for name in OWN_FILES:
        if (kept / name).exists():
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (kept / name).replace(folder / name)
    kept.rmdir()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a file of recipes/")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    repository = Path(git("rev-parse", "--show-toplevel", folder=Path.cwd()).strip())
    refuse_uncommitted_changes(repository)
    recipe = Path("recipes", f"{args.recipe}.yaml")
    if not (repository / recipe).is_file():
        raise StageError(f"{recipe}: no such recipe")
    folder = repository / "state" / "recipe-runs" / args.recipe
    if folder.exists():
        bring_up_to_date(folder)
        shutil.copyfile(folder / recipe, folder / "params.yaml")
    else:
        clone(repository, folder)
        put_recipe(folder, args.recipe)
    if subprocess.run(["dvc", "cache", "dir", "--local", str(repository / ".dvc" / "cache")], cwd=folder).returncode:
        raise StageError(f"dvc cache dir failed in {folder}: its words are above; the clone needs this repository's cache")
    # A frozen stage's entry, of the lock file before, is otherwise left as it was: its code may be another by now.
    _, frozen = split_stages(folder / "dvc.yaml")
    if frozen and subprocess.run(["dvc", "commit", "--quiet", "--force", *frozen], cwd=folder).returncode:
        raise StageError(f"dvc commit failed in {folder}: its words are above")
    if code := subprocess.run(["dvc", "repro"], cwd=folder).returncode:
        raise StageError(f"dvc repro failed in {folder} with exit code {code}; the same command goes on from there")
    shutil.copyfile(folder / "dvc.lock", repository / "recipes" / f"{args.recipe}.lock")
    print(f"recipes/{args.recipe}.lock: renewed; the run's outputs are in {folder.relative_to(repository)}")


if __name__ == "__main__":
    run_stage(main)
