"""Train a LoKr (or all weights) on cached latents and captions.

    python stages/train.py --latents data/latents --captions data/captions --base models/base \\
        --output models/lokr.safetensors --history reports/train.csv --metrics reports/train.json

The same bytes come out of 1, 2, 4, ... processes (`runtime.processes`, or the ranks of
`accelerate launch stages/train.py ...`), and of a run that was killed and started again: state is
saved below `state/train/` every `train.save_every` updates, and outputs are written at the end.
"""

import math
import sys
from argparse import Namespace
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import check_manifest, hash_tree
from repro.outputs import write_json, write_text
from repro.params import Params
from repro.processes import extra_ranks
from repro.state import code_digest, forget_state, stage_state
from repro.tensorfile import write_tensors

import torch

from training.adapters import lokr_tensors
from training.loop import Job, run_updates
from training.ranks import join_ranks, launched_ranks
from training.resume import Row

STAGES = Path(__file__).parent
HISTORY_HEADER = "update,loss,lr,te_lr,grad_norm"


def determining_parts(params: Params, latents: Path, captions: Path, base: Path) -> dict:
    """Everything that determines the trained weights; how many processes there are is not among it."""
    return {
        "params": params.model_dump(include={"seed", "lr", "te_lr", "train"}),
        "latents": check_manifest(latents),
        "captions": check_manifest(captions),
        "base": hash_tree(base),
        "code": code_digest(STAGES / "training", STAGES / "families"),
        "torch": torch.__version__.split("+")[0],
    }


def _other_rank(rank: int, world_size: int, job: Job, meeting_point: Path) -> None:
    """Ranks 1 and up: rank 0 says what went wrong, so an error ends these without a word."""
    try:
        run_updates(job, join_ranks(rank, world_size, meeting_point))
    except StageError:
        sys.exit(2)


def train_on_this_machine(job: Job, processes: int) -> tuple[dict[str, torch.Tensor], list[Row]]:
    """Run the updates in `processes` processes, this one being rank 0."""
    meeting_point = job.state / "meeting-point"
    meeting_point.unlink(missing_ok=True)
    with extra_ranks(_other_rank, processes, (processes, job, meeting_point)):
        return run_updates(job, join_ranks(0, processes, meeting_point))


def mean_loss(rows: list[Row]) -> float:
    return round(math.fsum(row.loss for row in rows) / len(rows), 6)


def write_outputs(arguments: Namespace, params: Params, trained: dict[str, torch.Tensor], history: list[Row]) -> None:
    tensors = lokr_tensors(trained) if params.train.method == "lokr" else dict(trained)
    write_tensors(arguments.output, tensors, {"ss_network_module": "lycoris.kohya"} if params.train.method == "lokr" else None)
    rows = [f"{r.update},{r.loss:.8g},{r.lr:.8g},{r.te_lr:.8g},{r.grad_norm:.8g}" for r in history]
    write_text(arguments.history, "\n".join([HISTORY_HEADER, *rows]) + "\n")
    tenth = max(1, len(history) // 10)
    write_json(
        arguments.metrics,
        {
            "updates": len(history),
            "trained_numbers": sum(t.numel() for t in trained.values()),
            "loss_first_tenth": mean_loss(history[:tenth]),
            "loss_last_tenth": mean_loss(history[-tenth:]),
        },
    )


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--latents", type=Path, required=True, help="folder of the latents stage")
    parser.add_argument("--captions", type=Path, required=True, help="folder of the caption stage")
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder to train on")
    parser.add_argument("--output", type=Path, required=True, help="LoKr (or full weights) to write, safetensors")
    parser.add_argument("--history", type=Path, required=True, help="CSV to write: loss and rates of each update")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write: summary")
    args = parser.parse_args(arguments)
    params = parameters(args)
    launched = launched_ranks()
    parts = determining_parts(params, args.latents, args.captions, args.base)
    with stage_state("train", parts, shared=launched is not None and launched.rank > 0) as state:
        job = Job(params, args.base, args.latents, args.captions, state)
        trained, history = run_updates(job, launched) if launched else train_on_this_machine(job, params.runtime.processes)
        if launched is None or launched.rank == 0:
            write_outputs(args, params, trained, history)
            forget_state(state)


if __name__ == "__main__":
    run_stage(main)
