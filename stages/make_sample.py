"""Draw the embedded sample again: metadata database, image archives, image index, references, attribution.

    python stages/make_sample.py --art data/art --output data/sample

The same packages (extra `sample` in pyproject.toml: DiceBear's styles, librsvg) give the same bytes.
"""

import argparse
from pathlib import Path

from repro.errors import run_stage

from sample.command import refuse_other_art
from sample.population import write_dump


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, required=True, help="folder of the Ren'Py sprites and backgrounds")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    refuse_other_art(args.art)
    write_dump("taught", args.output, args.art)
    print(f"{args.output}: drawn, with its database, archives, index, references and attribution")


if __name__ == "__main__":
    run_stage(main)
