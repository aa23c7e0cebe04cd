"""Write down what made the finished model: recipe, code, packages, inputs and every stage's outputs.

    python stages/attest_model.py [--out FILE]        (or: make attest)

For a run that is complete and up to date in this folder; the code must be committed. The default output is
models/<name>.attestation.json. `stages/check_model.py` holds a file, or another run, against it.
"""

import json
import subprocess
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.outputs import write_json

from proof.attestation import attest


def refuse_stale_run() -> None:
    """Raises:
    StageError: DVC says that a stage is not up to date, or cannot say."""
    result = subprocess.run(["dvc", "status", "--json"], capture_output=True, text=True)
    if result.returncode:
        raise StageError(f"dvc status failed: {result.stderr.strip()}")
    stale = json.loads(result.stdout)
    if stale:
        raise StageError(f"stage {next(iter(stale))} is not up to date with its inputs or outputs; `make` first")


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--out", type=Path, help="output (default: models/<name>.attestation.json)")
    args = parser.parse_args(arguments)
    params = parameters(args)
    refuse_stale_run()
    out = args.out or Path("models", f"{params.merge.name}.attestation.json")
    attestation = attest(Path.cwd(), params)
    write_json(out, attestation)
    outputs = sum(len(stage["outputs"]) for stage in attestation["stages"])
    model = attestation["model"]
    print(
        f"{out}: {outputs} outputs of {len(attestation['stages'])} stages; {model['path']} is {model['autov2'].upper()} (AutoV2)"
    )


if __name__ == "__main__":
    run_stage(main)
