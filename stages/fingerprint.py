"""Say whether this machine computes the bits that dvc.lock was made with, in a few seconds.

    python stages/fingerprint.py            (or: make fingerprint)

Runs the operations that the stages rest on, at small shapes, and compares digests of their results with
those of the machines the promise was verified on. Exit code 0: inside the promise; 1: some operation
differs. Nothing of it enters an output.
"""

import argparse
import sys
from pathlib import Path

from repro.errors import run_stage

from proof.fingerprint import GOLDEN, measure, read_golden, write_golden

DIFFERENCE_EXIT = 1


def verdicts(digests: dict[str, str], golden: dict[str, str]) -> dict[str, str]:
    """What to say of each operation; an encoder that the golden digests do not know is not judged."""

    def verdict(name: str) -> str:
        if name not in golden:
            return "no golden digest"
        return "equal" if digests[name] == golden[name] else f"DIFFERENT ({golden[name]} expected)"

    return {name: verdict(name) for name in digests}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, default=Path("models/sample-ccip/model_feat.onnx"), help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="for maintainers: make this machine's digests the golden ones")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    digests = measure(args.encoder)
    if args.write:
        write_golden(digests)
        print(f"{GOLDEN.name}: {len(digests)} digests written")
        return
    judged = verdicts(digests, read_golden())
    width = max(map(len, digests))
    for name, digest in digests.items():
        print(f"{name:<{width}}  {digest}  {judged[name]}")
    differing = [name for name, verdict in judged.items() if verdict.startswith("DIFFERENT")]
    if differing:
        print(f"outside the promise: {len(differing)} of {len(digests)} operations differ: {', '.join(differing)}")
        sys.exit(DIFFERENCE_EXIT)
    print(f"inside the promise: {len(digests)} operations give the same bits as on the machines it was verified on")


if __name__ == "__main__":
    run_stage(main)
