"""Tell what a change did to the run, as Markdown for a pull request's comment.

    python stages/report_change.py origin/main [--out FILE]        (or: make change BASE=origin/main)

Compares the run in this folder with the one committed at a revision of git: which outputs are still the same bytes, by dvc.lock,
which parameters and metrics differ, and the training's losses. Without --out it is printed.
"""

import argparse
from pathlib import Path

from repro.errors import run_stage
from repro.outputs import write_text

from proof.change import change_report


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the revision of git to compare with")
    parser.add_argument("--out", type=Path, help="output: a Markdown file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    report = change_report(Path.cwd(), args.base)
    if args.out:
        write_text(args.out, report)
    else:
        print(report, end="")


if __name__ == "__main__":
    run_stage(main)
