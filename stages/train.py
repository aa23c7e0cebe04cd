"""Train a LoKr (or all weights) on cached latents and captions.

    python stages/train.py --latents data/latents --captions data/captions --base models/base \\
        --output models/lokr.safetensors --checkpoints models/checkpoints --pictures reports/training_pictures \\
        --history reports/train.csv --metrics reports/train.json

The same bytes come out of 1, 2, 4, ... processes (`runtime.processes`, or the ranks of `accelerate launch stages/train.py
...` on one or several machines), and of a run that was killed and started again, also in another number of processes:
state is saved below `state/train/` every `train.save_every` updates and on Ctrl-C or SIGTERM; outputs are written at the
end. `--dry-run` tells what would be trained, and in how much memory, and trains nothing.
"""

import functools
import importlib.metadata
import math
import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.cost import RunCost, measured
from repro.devices import gpu_libraries, refuse_unfit_gpus
from repro.errors import StageError, run_stage
from repro.hashing import check_manifest, hash_tree, refuse_foreign_folder
from repro.outputs import write_json, write_text
from repro.params import Params
from repro.processes import extra_ranks
from repro.state import code_digest, fingerprint, forget_state, stage_state

import torch

from families.picture_sizes import refuse_undrawable_size
from families.pipelines import refuse_other_family
from latents.vae_identity import refuse_latents_of_another_vae
from training.loop import Job, run_updates
from training.milestones import (
    CHECKPOINTS,
    PICTURES,
    checkpoint_name,
    kept_checkpoints,
    picture_name,
    picture_updates,
    publish,
)
from training.pictures import SHEET, draw_sheet
from training.plan import plan_text
from training.ranks import Ranks, join_ranks, launched_ranks, leave_ranks
from training.resume import Row
from training.stopping import StopRequest, held_for_new_processes, stop_request
from training.weight_file import write_weights

STAGES = Path(__file__).parent
HISTORY_HEADER = "update,loss,lr,te_lr,grad_norm"
# Their versions can change the bits of a run.
PACKAGES = ("torch", "diffusers", "transformers", "bitsandbytes", "numpy")


def determining_parts(params: Params, latents: Path, captions: Path, base: Path) -> dict:
    """Everything that determines the trained weights; how many processes there are is not among it.

    Raises:
        StageError: an input is not whole, the base model is of another family or draws no pictures of the size that is asked
            for, or the latents come from another encoder than its.
    """
    refuse_other_family(base, params.family)
    refuse_latents_of_another_vae(latents, base, params.family)
    if params.train.pictures:
        refuse_undrawable_size(base, params.family, params.train.pictures)
    return {
        "params": params.model_dump(include={"device", "family", "seed", "lr", "te_lr", "train"}),
        "latents": check_manifest(latents),
        "captions": check_manifest(captions),
        "base": hash_tree(base),
        "code": code_digest(STAGES / "training", STAGES / "families", STAGES / "repro"),
        "packages": {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES} | gpu_libraries(params.device),
    }


def _other_rank(rank: int, world_size: int, job: Job, meeting_point: Path) -> None:
    """Ranks 1 and up: rank 0 says what went wrong, so an error ends these without a word."""
    try:
        with stop_request(speaks=False) as stop:
            run_updates(job, join_ranks(rank, world_size, meeting_point, job.params.device), stop)
            leave_ranks()
    except StageError:
        sys.exit(2)


def train_on_this_machine(job: Job, stop: StopRequest, cost: RunCost) -> tuple[dict[str, torch.Tensor], list[Row]]:
    """Run the updates in `runtime.processes` processes, this one being rank 0."""
    processes, meeting_point = job.params.runtime.processes, job.state / "meeting-point"
    meeting_point.unlink(missing_ok=True)
    with ExitStack() as others:
        with held_for_new_processes():
            others.enter_context(extra_ranks(_other_rank, processes, (processes, job, meeting_point)))
        result = run_updates(job, join_ranks(0, processes, meeting_point, job.params.device), stop, cost)
        leave_ranks()
    return result


def refuse_differing_machines(own: str | None, ranks: Ranks) -> None:
    """Machines that were given other inputs, parameters or code, or other GPUs, would train another model without a word.

    Args:
        own: fingerprint of the run as this rank sees it; None where another rank of the machine looks.

    Raises:
        StageError: a rank's fingerprint or model of GPU is not rank 0's.
    """
    gpu = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    first, first_gpu = ranks.text_from_first(own or ""), ranks.text_from_first(gpu)
    differs = torch.tensor([float(own not in (None, first)), float(gpu != first_gpu)])
    for rank, (run, device) in enumerate(ranks.gather(differs).view(-1, 2).tolist()):
        if run:
            raise StageError(f"rank {rank} has other inputs, parameters, packages or code than rank 0; make them the same")
        if device:
            raise StageError(f"rank {rank} has another model of GPU than rank 0 ({first_gpu}); choose with CUDA_VISIBLE_DEVICES")


def tell_of_another_gpu(state: Path) -> None:
    """A continued run has the same bits on the same model of GPU only; say so when it is another."""
    name, file = torch.cuda.get_device_name(), state / "gpu.txt"
    if file.exists() and file.read_text() != name:
        print(f"train: this run was begun on {file.read_text()} and goes on on {name}: its bits will be its own", file=sys.stderr)
    else:
        write_text(file, name)


def mean_loss(rows: list[Row]) -> float | None:
    applied = [row.loss for row in rows if row.grad_norm is not None]
    return round(math.fsum(applied) / len(applied), 6) if applied else None


def history_line(row: Row) -> str:
    norm = "" if row.grad_norm is None else f"{row.grad_norm:.8g}"
    return f"{row.update},{row.loss:.8g},{row.lr:.8g},{row.te_lr:.8g},{norm}"


def write_outputs(args: Namespace, params: Params, trained: dict[str, torch.Tensor], history: list[Row], state: Path) -> None:
    settings = params.train
    write_weights(args.output, trained, params, args.base)
    checkpoints = kept_checkpoints(len(history), settings.checkpoints)
    publish(args.checkpoints, state / CHECKPOINTS, [checkpoint_name(update) for update in checkpoints])
    pictures = picture_updates(len(history), settings.pictures)
    names = [picture_name(update, i) for update in pictures for i in range(len(settings.pictures.prompts))]
    if settings.pictures:
        draw_sheet(settings.pictures, pictures, state / PICTURES)
        names.append(SHEET)
    publish(args.pictures, state / PICTURES, names)
    write_text(args.history, "\n".join([HISTORY_HEADER, *map(history_line, history)]) + "\n")
    tenth = max(1, len(history) // 10)
    write_json(
        args.metrics,
        {
            "updates": len(history),
            "skipped_updates": sum(row.grad_norm is None for row in history),
            "trained_numbers": sum(t.numel() for t in trained.values()),
            "loss_first_tenth": mean_loss(history[:tenth]),
            "loss_last_tenth": mean_loss(history[-tenth:]),
        },
    )


def train(args: Namespace, params: Params, launched: Ranks | None) -> None:
    """Rank 0, or the only process that was started: hold the state, train, write the outputs."""
    if params.device == "cuda" and not launched:
        refuse_unfit_gpus(params.runtime.processes)
    parts = determining_parts(params, args.latents, args.captions, args.base)
    own, processes = fingerprint(**parts), launched.world_size if launched else params.runtime.processes
    gpu = torch.cuda.get_device_name() if params.device == "cuda" else None
    with (
        stage_state("train", parts, args.state) as state,
        stop_request() as stop,
        measured("train", params.recipe, own[:8], "updates", processes, gpu) as cost,
    ):
        if launched:
            refuse_differing_machines(own, launched)
        if params.device == "cuda":
            tell_of_another_gpu(state)
        curves = params.runtime.tensorboard and Path(params.runtime.tensorboard) / f"{params.recipe}-{own[:8]}"
        job = Job(params, args.base, args.latents, args.captions, state, curves or None)
        if launched:
            trained, history = run_updates(job, launched, stop, cost)
            leave_ranks()
        else:
            trained, history = train_on_this_machine(job, stop, cost)
        write_outputs(args, params, trained, history, state)
        forget_state(state)


def train_beside(args: Namespace, params: Params, launched: Ranks) -> None:
    """Ranks 1 and up of a launch: rank 0 has the state and writes the outputs."""
    looks = os.environ.get("LOCAL_RANK", "0") == "0"
    own = fingerprint(**determining_parts(params, args.latents, args.captions, args.base)) if looks else None
    refuse_differing_machines(own, launched)
    with stop_request() as stop:
        run_updates(Job(params, args.base, args.latents, args.captions, Path(os.devnull)), launched, stop)
        leave_ranks()


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--latents", type=Path, required=True, help="folder of the latents stage")
    parser.add_argument("--captions", type=Path, required=True, help="folder of the caption stage")
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder to train on")
    parser.add_argument("--dry-run", action="store_true", help="only tell the steps, buckets, parameters and memory of the run")
    outputs = functools.partial(parser.add_argument, type=Path, required="--dry-run" not in arguments)
    outputs("--output", help="LoKr (or full weights) to write, safetensors")
    outputs("--checkpoints", help="folder to write: those of the run's middle that train.checkpoints keeps")
    outputs("--pictures", help="folder to write: pictures of the run's middle (train.pictures)")
    outputs("--history", help="CSV to write: loss and rates of each update")
    outputs("--metrics", help="JSON to write: summary")
    parser.add_argument("--state", type=Path, help="folder for the run's state (default: one of its own below state/train)")
    args = parser.parse_args(arguments)
    params = parameters(args)
    if args.dry_run:
        print(plan_text(params, args.latents, args.captions, args.base))
        return
    for folder in (args.checkpoints, args.pictures):
        refuse_foreign_folder(folder)
    launched = launched_ranks(params.device)
    if launched is None or launched.rank == 0:
        train(args, params, launched)
    else:
        train_beside(args, params, launched)


if __name__ == "__main__":
    run_stage(main)
