"""Make every output again from nothing in a fresh clone and compare with the committed dvc.lock.

    python stages/verify_clone.py                            (or: make verify)
    python stages/verify_clone.py --processes 1
    python stages/verify_clone.py --recipe sample-cascade    (or: make verify-recipe NAME=sample-cascade)

With --recipe the clone gets that recipe and its committed lock, recipes/<name>.lock, instead of params.yaml and dvc.lock.

The clone lies in a temporary folder with a space in its name and has another hash seed, time zone,
locale and umask, caches of its own and no run cache. Outputs of frozen stages are committed; they are
hashed against dvc.lock instead of being made. Prints a table of outputs; exit code 1 if one differs,
with the first stage, file and tensor that do, and the clone is kept to look at.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from repro.errors import StageError, run_stage
from repro.params import read_yaml

from proof.clone import (
    clone,
    committed_lock,
    foreign_environment,
    git,
    put_recipe,
    refuse_uncommitted_changes,
    run_pipeline,
    set_processes,
    split_stages,
)
from proof.comparison import Comparison, compare_locks, table

DIFFERENCE_EXIT = 1


def refuse_stages_that_are_gone(folder: Path, lock: Path) -> None:
    """What nobody makes any more would be compared with itself.

    Raises:
        StageError: the lock file (a path in `folder`) has a stage that dvc.yaml has not.
    """
    kept = read_yaml((folder / lock).read_text(encoding="utf-8"), str(lock))["stages"]
    gone = sorted(kept.keys() - {name for names in split_stages(folder / "dvc.yaml") for name in names})
    if gone:
        raise StageError(f"{lock}: stage '{gone[0]}' is not in dvc.yaml; take its lines out of {lock} and commit that")


def make_again(copy: Path, scratch: Path, processes: int | None) -> None:
    """Run the clone's pipeline. DVC removes a stage's outputs before it runs, so that no committed one can stand in.

    Raises:
        StageError: a stage failed.
    """
    if processes is not None:
        set_processes(copy / "params.yaml", processes)
    running, frozen = split_stages(copy / "dvc.yaml")
    print(f"making {len(running)} stages in {copy} (frozen, checked only: {', '.join(frozen) or 'none'})", flush=True)
    if code := run_pipeline(copy, running, foreign_environment(scratch)):
        raise StageError(f"dvc repro failed in {copy} with exit code {code}; the clone is kept")


def report(comparison: Comparison, same_lock: bool, lock: Path) -> bool:
    """Print the table and what differs; returns whether all is equal. `lock`: the committed lock file."""
    print(table(comparison.rows))
    if not comparison.equal:
        print("\n".join(comparison.finding))
    elif not same_lock:
        print(f"all outputs are equal, {lock} is not: a stage's command, parameters or inputs are not the committed ones")
        print(f"  `dvc status` names them; `dvc repro` and a commit of {lock} put it right")
    else:
        print(f"all {len(comparison.rows)} outputs and {lock} are equal")
    return comparison.equal and same_lock


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, help="runtime.processes of the clone (default: as committed)")
    parser.add_argument("--recipe", help="verify this recipe's run instead of the one in place")
    parser.add_argument("--keep", action="store_true", help="keep the clone also when all is equal")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    repository = Path(git("rev-parse", "--show-toplevel", folder=Path.cwd()).strip())
    refuse_uncommitted_changes(repository)
    lock = committed_lock(repository, args.recipe)
    refuse_stages_that_are_gone(repository, lock)
    scratch = Path(tempfile.mkdtemp(prefix="verify in another place "))
    copy, start = scratch / "a clone", time.monotonic()
    clone(repository, copy)
    if args.recipe:
        put_recipe(copy, args.recipe)
    committed = (copy / "dvc.lock").read_bytes()
    (scratch / "committed.lock").write_bytes(committed)
    make_again(copy, scratch, args.processes)
    # The repository's own files, which show what a difference is, are those of the recipe in place.
    comparison = compare_locks(scratch if args.recipe else repository, copy, scratch / "committed.lock")
    equal = report(comparison, (copy / "dvc.lock").read_bytes() == committed, lock)
    print(f"took {(time.monotonic() - start) / 60:.1f} minutes")
    if not equal:
        print(f"the clone is kept: {copy}")
        sys.exit(DIFFERENCE_EXIT)
    if not args.keep:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    run_stage(main)
