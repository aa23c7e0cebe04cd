"""Score how well the base and the merged model draw the references' characters.

    python stages/evaluate_ccip.py --base models/base --merged models/sample --ccip models/sample-ccip \\
        --references data/sample/references.json --image-index data/sample/image_index \\
        --output reports/ccip.json --characters reports/ccip_characters.csv \\
        --plots reports/ccip --pictures reports/pictures

Both models get the same prompts and seeds. A character's CCIP score is the share of (reference,
generated picture) pairs that the CCIP encoder takes for one character; the models are compared by
the mean over characters. Pictures are kept below `state/evaluate_ccip/` as they come, so a run that
was killed goes on from there; `runtime.processes` workers make them, the same bytes by any number.
The archives' folder is `runtime.image_root`, or the environment variable IMAGE_ROOT.
"""

import os
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import hash_tree
from repro.outputs import whole_folder, write_json, write_text
from repro.params import Params
from repro.state import code_digest, forget_state, stage_state

from ccip.encoder import CcipEncoder
from ccip.features import encode_pictures
from ccip.gallery import write_gallery
from ccip.pictures import Sampling, check_model_folders, picture_jobs, picture_sources
from ccip.plots import ScoredCharacter, difference_histogram, write_plots
from ccip.prompts import PictureRequest, requests_for
from ccip.references import Skipped, read_references, with_enough_posts
from ccip.results import MODELS, CharacterFeatures, CharacterResult, characters_csv, group_features, score_all, summary
from ccip.sheets import cell_side
from ccip.sources import reference_sources
from ccip.statistics import Comparison, spread_and_comparison

STAGES = Path(__file__).parent


def evaluate_parser() -> ArgumentParser:
    parser = stage_parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder of the model before")
    parser.add_argument("--merged", type=Path, required=True, help="diffusers folder of the model after")
    parser.add_argument(
        "--ccip", type=Path, required=True, help="folder of the CCIP encoder (model_feat.onnx, metrics.json, ...)"
    )
    parser.add_argument("--references", type=Path, required=True, help="references.json: characters and their reference posts")
    parser.add_argument("--image-index", type=Path, required=True, help="folder of index_images")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write: scores and their comparison")
    parser.add_argument("--characters", type=Path, required=True, help="CSV to write: one row a character and model")
    parser.add_argument("--plots", type=Path, required=True, help="folder to write: plots as CSV and PNG")
    parser.add_argument("--pictures", type=Path, required=True, help="folder to write: sheets of pictures, grid, list")
    return parser


def determining_parts(models: dict[str, Path], requests: list[PictureRequest], sampling: Sampling) -> dict[str, Any]:
    """Everything that determines the pictures; how many processes make them is not among it."""
    return {
        "models": {name: hash_tree(folder) for name, folder in models.items()},
        "requests": [asdict(request) for request in requests],
        "sampling": asdict(sampling),
        "code": code_digest(STAGES / "families", STAGES / "ccip" / "pictures.py"),
        "torch": version("torch").split("+")[0],
    }


def write_scores(
    args: Namespace, params: Params, results: list[CharacterResult], skipped: list[Skipped], threshold: float
) -> Comparison:
    """Write the JSON and the characters' CSV; returns the models' comparison."""
    base, merged = ([result.scores[model].score for result in results] for model in MODELS)
    spreads, comparison = spread_and_comparison(base, merged, params.evaluate.bootstrap_samples, params.seed)
    write_text(args.characters, characters_csv(results, params.evaluate.reference_pictures))
    write_json(args.output, summary(results, skipped, spreads, comparison, threshold))
    return comparison


def draw_plots(folder: Path, results: list[CharacterResult], features: list[CharacterFeatures], threshold: float) -> None:
    characters = [ScoredCharacter(r.reference.character, r.scores["base"].score, r.scores["merged"].score) for r in results]
    histogram = difference_histogram(
        [f.references for f in features], [f.taught["base"] for f in features], [f.taught["merged"] for f in features]
    )
    with whole_folder(folder) as temporary:
        write_plots(temporary, characters, histogram, threshold)


def main(arguments: list[str]) -> None:
    args = evaluate_parser().parse_args(arguments)
    params = parameters(args)
    evaluate = params.evaluate
    image_root = Path(os.environ.get("IMAGE_ROOT", params.runtime.image_root))
    threshold = CcipEncoder(args.ccip).threshold
    references, skipped = with_enough_posts(read_references(args.references), evaluate.reference_pictures)
    posts = reference_sources(references, evaluate.reference_pictures, args.image_index, image_root)
    requests = [request for r in references for request in requests_for(r, evaluate.prompts, evaluate.pictures)]
    models = dict(zip(MODELS, (args.base, args.merged), strict=True))
    check_model_folders(models)
    sampling = Sampling(
        evaluate.negative_prompt, evaluate.steps, evaluate.guidance,
        evaluate.width, evaluate.height, evaluate.original_width, evaluate.original_height,
    )  # fmt: skip
    # By themselves and first: a broken reference stops the stage before the long part.
    post_features = encode_pictures(args.ccip, posts, params.runtime.processes, "reference pictures")
    with stage_state("evaluate_ccip", determining_parts(models, requests, sampling)) as state:
        jobs = picture_jobs(models, requests, state)
        pictures = picture_sources(jobs, sampling)
        picture_features = encode_pictures(args.ccip, pictures, params.runtime.processes, "generated pictures")
        features = group_features(references, post_features, jobs, picture_features)
        results = score_all(references, features, threshold)
        comparison = write_scores(args, params, results, skipped, threshold)
        draw_plots(args.plots, results, features, threshold)
        with whole_folder(args.pictures) as folder:
            side = cell_side(evaluate.width, evaluate.height)
            write_gallery(folder, results, posts, jobs, pictures, side, evaluate.grid_characters)
        forget_state(state)
    low, high = comparison.ci95
    print(
        f"{args.output}: {len(results)} characters, {len(skipped)} skipped; CCIP score changed by {comparison.mean:+.4f}"
        f" (95 %: {low:+.4f} to {high:+.4f}), {comparison.wins} better, {comparison.ties} equal, {comparison.losses} worse"
    )


if __name__ == "__main__":
    run_stage(main)
