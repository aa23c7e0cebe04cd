"""Make the sample's small Stable Cascade again: draw its posts, then train its image encoder, stage B and stage C in turn.

    python stages/make_sample_cascade.py --params recipes/sample-cascade-base.yaml --art data/art \\
        --text-encoder models/sample-base --output models/sample-cascade-base

The posts are those of the sample's base model, and so is the text encoder that stage C begins with. Stage A is set, not
trained (sample/cascade_architecture.py). Between drawing and training it runs the pipeline's own stages. Each step's output
stands below `state/sample-cascade/` until all are done, so a run that was killed goes on where it was.
"""

from argparse import Namespace
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import hash_tree
from repro.params import Params
from repro.state import code_digest, forget_state, stage_state

import torch

from make_sample_base import cache_latents, caption_posts, draw_posts, keep_posts
from sample.cascade_architecture import make_stage_a
from sample.cascade_decoder import StageBLesson, train_stage_b
from sample.cascade_image_encoder import ImageEncoderLesson, train_image_encoder
from sample.cascade_model import write_decoder, write_image_encoder, write_start, write_trained
from sample.cascade_scores import write_scores
from sample.cascade_stage_c import StageCLesson, train_stage_c

STAGES = Path(__file__).parent
# What decides the model; checkpoints only writes it.
PACKAGES = ("booru", "families", "latents", "sample", "training")


def determining_parts(params: Params, art: Path, sample_base: Path) -> dict:
    """Everything that determines the steps' outputs, so that none of another recipe or code is taken for this one's."""
    return {
        "params": params.model_dump(include={"seed", "lr", "te_lr", "select", "filter", "caption", "latents", "train"}),
        "art": hash_tree(art),
        "text": hash_tree(sample_base),
        "code": code_digest(*(STAGES / package for package in PACKAGES)),
        "torch": torch.__version__.split("+")[0],
    }


def score_posts(state: Path) -> None:
    if not (state / "scores").exists():
        write_scores(state / "scores", state / "kept")


def make_image_encoder(state: Path, params: Params) -> None:
    if not (state / "effnet").exists():
        dump = state / "dump"
        lesson = ImageEncoderLesson(dump / "image_index", dump / "images", params.latents, params.seed, state / "effnet-updates")
        trained = train_image_encoder(lesson, params.runtime.processes)
        write_image_encoder(state / "effnet", trained.encoder)


def make_decoder(state: Path, params: Params, sample_base: Path) -> None:
    if not (state / "decoder").exists():
        dump, updates = state / "dump", state / "stage-b-updates"
        lesson = StageBLesson(dump / "image_index", dump / "images", params.latents, state / "effnet", params.seed, updates)
        stage_b = train_stage_b(lesson, params.runtime.processes)
        write_decoder(state / "decoder", stage_b, make_stage_a(), sample_base)


def make_cascade(args: Namespace, params: Params, state: Path) -> None:
    draw_posts(state, args.art)
    keep_posts(state, args.params)
    score_posts(state)
    caption_posts(state, args.params, annotations=state / "scores")
    make_image_encoder(state, params)
    make_decoder(state, params, args.text_encoder)
    if not (state / "start").exists():
        write_start(state / "start", state / "effnet", state / "decoder", args.text_encoder, params.seed)
    cache_latents(state, args.params)
    lesson = StageCLesson(state / "start", state / "latents", state / "captions", params, state / "stage-c-updates")
    write_trained(args.output, state / "start", train_stage_c(lesson, params.runtime.processes))


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--art", type=Path, default=Path("data/art"), help="Ren'Py art (default: %(default)s)")
    parser.add_argument(
        "--text-encoder", type=Path, default=Path("models/sample-base"),
        help="diffusers folder of the sample's SDXL, whose second text encoder is the start (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="diffusers folder to make")
    args = parser.parse_args(arguments)
    params = parameters(args)
    if args.overrides:
        raise StageError("--set: not here; the stages that this one runs read the recipe file itself, so edit that")
    if params.family != "cascade" or params.train.method != "full" or params.train.updates is None:
        raise StageError(
            f"{args.params}: family {params.family}, train.method {params.train.method}, updates {params.train.updates}; a"
            " Stable Cascade from nothing needs cascade, full and a number"
        )
    if not (args.text_encoder / "text_encoder_2").is_dir():
        raise StageError(f"{args.text_encoder}: no text_encoder_2 in it; expected models/sample-base")
    with stage_state("sample-cascade", determining_parts(params, args.art, args.text_encoder)) as state:
        make_cascade(args, params, state)
        forget_state(state)
    print(f"{args.output}: drawn, captioned, trained {params.train.updates} updates of stage C, written as fp16")


if __name__ == "__main__":
    run_stage(main)
