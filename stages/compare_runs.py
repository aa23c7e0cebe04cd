"""Compare two runs of the pipeline and name where they part: stage, file, tensor, row or pixel.

    python stages/compare_runs.py A B

A and B are two copies of the repository after a run (folders with dvc.lock). Prints every output as
equal or different and then, for the first stage in graph order that differs, the first difference
inside its output. Exit code 0 when all are equal, 1 when not. Outputs that are not there as files
are compared by their digests in dvc.lock.
"""

import argparse
import sys
from pathlib import Path

from repro.errors import StageError, run_stage

from proof.comparison import compare_folders, table

DIFFERENCE_EXIT = 1


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="A", help="repository folder of one run")
    parser.add_argument("second", type=Path, metavar="B", help="repository folder of the other run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    comparison = compare_folders(args.first, args.second)
    if not comparison.rows:
        raise StageError(f"{args.first / 'dvc.lock'}: names no outputs; run the pipeline first")
    print(table(comparison.rows))
    if not comparison.equal:
        print("\n".join(comparison.finding))
        sys.exit(DIFFERENCE_EXIT)
    print(f"all {len(comparison.rows)} outputs are equal")


if __name__ == "__main__":
    run_stage(main)
