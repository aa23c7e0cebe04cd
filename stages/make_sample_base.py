"""Make the sample's base model again, from nothing: draw its posts, train its VAE, then all of its other weights.

    python stages/make_sample_base.py --params recipes/sample-base.yaml --art data/art --output models/sample-base

The characters are neither those that the sample run teaches nor those of the sample's CCIP encoder. Between drawing and
training it runs the pipeline's own stages. Each step's output stands below `state/sample-base/` until all are done, so a
run that was killed goes on where it was.
"""

import os
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import hash_tree
from repro.params import Params
from repro.processes import die_with_parent
from repro.state import code_digest, forget_state, stage_state

import torch

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import open_folder, read_configs
from checkpoints.layouts import write_diffusers
from sample.base_model import write_start, write_trained
from sample.population import write_dump
from sample.vae import Job, Settings, train_vae

STAGES = Path(__file__).parent
# What decides the model; checkpoints only writes it.
PACKAGES = ("booru", "families", "latents", "sample", "training")
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
# Tokens that no caption of the base has stay where they were drawn, at 0.4 of the deviation that the others grow to.
# A name made of such tokens would be a whisper among shouts, and hard to teach.
UNSEEN_TOKEN_SCALE = 2.5


def determining_parts(params: Params, art: Path) -> dict:
    """Everything that determines the steps' outputs, so that none of another recipe or code is taken for this one's."""
    return {
        "params": params.model_dump(include={"seed", "lr", "te_lr", "select", "filter", "caption", "latents", "train"}),
        "art": hash_tree(art),
        "code": code_digest(*(STAGES / package for package in PACKAGES)),
        "torch": torch.__version__.split("+")[0],
    }


def run_stage_script(script: str, params_file: Path, state: Path, **options: Path) -> None:
    """Run stages/<script> with `--<option> <path>`; it dies with this process.

    Raises:
        StageError: it failed; its own message has been printed.
    """
    command = [sys.executable, str(STAGES / script), "--params", str(params_file)]
    for option, path in options.items():
        command += [f"--{option.replace('_', '-')}", str(path)]
    environment = os.environ | {"STATE_ROOT": str(state / "stages"), "IMAGE_ROOT": str(state / "dump" / "images")}
    # The forked child asks for its death with this process before it becomes the script.
    result = subprocess.run(command, env=environment, preexec_fn=partial(die_with_parent, os.getpid()))
    if result.returncode:
        raise StageError(f"{script} failed; the same command goes on from here")


def draw_posts(state: Path, art: Path) -> None:
    if not (state / "dump").exists():
        write_dump("base", state / "dump", art)


def keep_posts(state: Path, params_file: Path) -> None:
    """Select and filter by the recipe."""
    run = partial(run_stage_script, params_file=params_file, state=state)
    if not (state / "metadata").exists():
        run("ingest_posts.py", database=state / "dump" / "metadata.db", output=state / "metadata")
    if not (state / "posts").exists():
        run(
            "select_posts.py", metadata=state / "metadata", output=state / "posts", ledger=state / "selection.parquet",
            report=state / "select.json",
        )  # fmt: skip
    if not (state / "kept").exists():
        run(
            "filter_posts.py", posts=state / "posts", image_index=state / "dump" / "image_index", output=state / "kept",
            funnel=state / "filter.json", ledger=state / "ledger.parquet",
        )  # fmt: skip


def caption_posts(state: Path, params_file: Path, **sources: Path) -> None:
    """Caption the kept posts by the recipe; `sources` are further inputs of that stage."""
    if not (state / "captions").exists():
        run_stage_script(
            "caption_posts.py", params_file, state, posts=state / "kept", **sources, output=state / "captions",
            artists=state / "artists.json", characters=state / "characters.json",
        )  # fmt: skip


def make_start(state: Path, params: Params, art: Path) -> None:
    """Train the VAE and write the pipeline with it and otherwise random weights."""
    if (state / "start").exists():
        return
    dump, folder = state / "dump", state / "vae"
    folder.mkdir(exist_ok=True)
    job = Job(dump / "image_index", dump / "images", params.latents, params.seed, folder, Settings())
    vae, _ = train_vae(job, params.runtime.processes)
    write_start(state / "start", vae, art / MERGES_FILE, params.seed)


def cache_latents(state: Path, params_file: Path) -> None:
    if not (state / "latents").exists():
        run_stage_script(
            "cache_latents.py", params_file, state,
            captions=state / "captions", posts=state / "kept", base=state / "start", output=state / "latents",
        )  # fmt: skip


def train_all_weights(state: Path, params_file: Path) -> Path:
    """Train UNet and text encoders from the start; the trained checkpoint."""
    trained = state / "trained.safetensors"
    if not (state / "trained.json").exists():
        run_stage_script(
            "train.py", params_file, state, latents=state / "latents", captions=state / "captions", base=state / "start",
            output=trained, checkpoints=state / "checkpoints", pictures=state / "pictures",
            history=state / "trained.csv", metrics=state / "trained.json",
        )  # fmt: skip
    return trained


def trained_tensors(trained: Path, start: Path) -> dict[str, torch.Tensor]:
    """The tensors of a trained checkpoint by their names in diffusers, `<component>.<name>`; leaves it as a folder beside it."""
    folder = trained.with_suffix("")
    write_diffusers(folder, Checkpoint(trained), read_configs(start))
    models = open_folder(folder).tensors
    return {f"{part}.{name}": file.whole(inner) for part, tensors in models.items() for name, (file, inner) in tensors.items()}


def make_base(args: Namespace, params: Params, state: Path) -> None:
    draw_posts(state, args.art)
    keep_posts(state, args.params)
    caption_posts(state, args.params)
    make_start(state, params, args.art)
    cache_latents(state, args.params)
    trained = trained_tensors(train_all_weights(state, args.params), state / "start")
    write_trained(args.output, state / "start", trained, unseen_token_scale=UNSEEN_TOKEN_SCALE)


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--art", type=Path, default=Path("data/art"), help="Ren'Py art and CLIP's merges (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="diffusers folder to make")
    args = parser.parse_args(arguments)
    params = parameters(args)
    if args.overrides:
        raise StageError("--set: not here; the stages that this one runs read the recipe file itself, so edit that")
    if params.train.method != "full":
        raise StageError(f"{args.params}: train.method is {params.train.method}; a model from nothing needs full")
    if not (args.art / MERGES_FILE).exists():
        raise StageError(f"{args.art}: no {MERGES_FILE} in it; expected data/art")
    with stage_state("sample-base", determining_parts(params, args.art)) as state:
        make_base(args, params, state)
        forget_state(state)
    print(f"{args.output}: drawn, captioned, trained {params.train.updates} updates, written as fp16")


if __name__ == "__main__":
    run_stage(main)
