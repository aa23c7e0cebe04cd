"""Validate a parameter file, and the formulas in it, without running anything.

python stages/check_params.py [--params FILE] [--set key=value]
"""

from repro.command import parameters, stage_parser
from repro.errors import run_stage

from checkpoints.formula import require_formulas


def main(arguments: list[str]) -> None:
    require_formulas(parameters(stage_parser(__doc__).parse_args(arguments)))


if __name__ == "__main__":
    run_stage(main)
