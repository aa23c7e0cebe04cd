"""Tell whether a file is the model that an attestation is of, and if not, where a run here first differs from that one's.

    python stages/check_model.py FILE ATTESTATION        (or: make check-model FILE=... ATTESTATION=...)

Exit code 0: the file is that model, to the last byte. 1: it is not; what it is instead, and, where the pipeline was run in this
folder, the first output in which that run differs, with all parameters, packages, code and inputs that do.
"""

import sys
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage

from proof.attestation import read_attestation
from proof.attested import judge_file, judge_run

DIFFERENCE_EXIT = 1


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("file", type=Path, help="a model's single file (.safetensors)")
    parser.add_argument("attestation", type=Path, help="the JSON that `make attest` wrote")
    args = parser.parse_args(arguments)
    attested = read_attestation(args.attestation)
    same, words = judge_file(args.file, attested)
    print(words)
    if same:
        return
    if Path("dvc.lock").exists():
        print("\n".join(judge_run(Path.cwd(), parameters(args), attested)))
    else:
        print("no run is in this folder; with the attested recipe in params.yaml, `make` and ask again")
    sys.exit(DIFFERENCE_EXIT)


if __name__ == "__main__":
    run_stage(main)
