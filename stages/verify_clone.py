"""Make every output again from nothing in a fresh clone and compare with the committed dvc.lock.

    python stages/verify_clone.py            (or: make verify)
    python stages/verify_clone.py --processes 1

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

from proof.clone import clone, foreign_environment, git, refuse_uncommitted_changes, run_pipeline, set_processes, split_stages
from proof.comparison import Comparison, compare_locks, table

DIFFERENCE_EXIT = 1


def refuse_stages_that_are_gone(folder: Path) -> None:
    """What nobody makes any more would be compared with itself.

    Raises:
        StageError: dvc.lock has a stage that dvc.yaml has not.
    """
    kept = read_yaml((folder / "dvc.lock").read_text(encoding="utf-8"), "dvc.lock")["stages"]
    gone = sorted(kept.keys() - {name for names in split_stages(folder / "dvc.yaml") for name in names})
    if gone:
        raise StageError(f"dvc.lock: stage '{gone[0]}' is not in dvc.yaml; take its lines out of dvc.lock and commit that")


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


def report(comparison: Comparison, same_lock: bool) -> bool:
    """Print the table and what differs; returns whether all is equal."""
    print(table(comparison.rows))
    if not comparison.equal:
        print("\n".join(comparison.finding))
    elif not same_lock:
        print("all outputs are equal, dvc.lock is not: a stage's command, parameters or inputs are not the committed ones")
        print("  `dvc status` names them; `dvc repro` and a commit of dvc.lock put it right")
    else:
        print(f"all {len(comparison.rows)} outputs and dvc.lock are equal")
    return comparison.equal and same_lock


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, help="runtime.processes of the clone (default: as committed)")
    parser.add_argument("--keep", action="store_true", help="keep the clone also when all is equal")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    repository = Path(git("rev-parse", "--show-toplevel", folder=Path.cwd()).strip())
    refuse_uncommitted_changes(repository)
    refuse_stages_that_are_gone(repository)
    scratch = Path(tempfile.mkdtemp(prefix="verify in another place "))
    copy, start = scratch / "a clone", time.monotonic()
    clone(repository, copy)
    committed = (copy / "dvc.lock").read_bytes()
    (scratch / "committed.lock").write_bytes(committed)
    make_again(copy, scratch, args.processes)
    comparison = compare_locks(repository, copy, scratch / "committed.lock")
    equal = report(comparison, (copy / "dvc.lock").read_bytes() == committed)
    print(f"took {(time.monotonic() - start) / 60:.1f} minutes")
    if not equal:
        print(f"the clone is kept: {copy}")
        sys.exit(DIFFERENCE_EXIT)
    if not args.keep:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    run_stage(main)
