"""Tell what the run of a recipe would be, without data and weights, and hold it against its published card.

    python stages/plan_run.py [--params FILE] [--set KEY=VALUE] [--images-per-second RATE]      (or: make plan RATE=...)

Posts that the ranges give (counted, where the metadata database is there), buckets, updates, what is trained and how large its
file is, disk for latents, memory of each process, and time: by --images-per-second, or by what training of this recipe took on
this machine (`make cost`). Figures that the card states stand beside; exit code 1 where one differs and card.differs does not
tell why. With the data on disk `python stages/train.py --dry-run` counts exactly.
"""

import argparse
import sys

from repro.command import parameters, stage_parser
from repro.cost import cost_log
from repro.errors import run_stage
from repro.params import Params

from checkpoints.formula import require_formulas
from planning.plan import make_plan
from show_cost import read_runs

DIFFERENCE_EXIT = 1


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("it must be above 0")
    return number


def measured_rate(params: Params) -> float | None:
    """Images a second that training of this recipe has had on this machine; None where it has not run."""
    if not cost_log().exists():
        return None
    runs = [r for r in read_runs(cost_log()) if (r.stage, r.recipe, r.unit) == ("train", params.recipe, "updates")]
    seconds = sum(run.wall_s for run in runs)
    return sum(run.done for run in runs) * params.train.batch_size / seconds if seconds else None


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--images-per-second", type=positive, metavar="RATE", help="of training, by all GPUs together")
    args = parser.parse_args(arguments)
    params = parameters(args)
    require_formulas(params)
    plan = make_plan(params, args.images_per_second or measured_rate(params))
    print("\n".join(plan.lines))
    if plan.differences:
        print(f"why         {params.card.differs or 'not told: put the recipe right, or the reason into card.differs'}")
        if not params.card.differs:
            sys.exit(DIFFERENCE_EXIT)


if __name__ == "__main__":
    run_stage(main)
