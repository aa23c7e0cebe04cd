"""Score how well models draw characters: the CCIP score of each, its mean, and how the models differ.

    python stages/evaluate_ccip.py pictures --references data/references --pictures data/pictures/base \\
        --pictures data/pictures/merged --ccip models/sample-ccip --image-index data/sample/image_index --out reports
    python stages/evaluate_ccip.py score --ccip models/sample-ccip --references my/references \\
        --generated before=my/before --generated after=my/after --out my/reports
    python stages/evaluate_ccip.py compare --before old/ccip.json --after reports/ccip.json --out my/reports

A character's score is the share of (reference, generated picture) pairs that the CCIP encoder takes
for one character (their difference is below its threshold). `pictures` scores what the references
and generate stages made, `score` any folders of pictures, `compare` compares two earlier results.
COMMAND --help tells more of each.
"""

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.outputs import write_json, write_text
from repro.params import Params
from repro.state import forget_state, stage_state

import numpy as np

from ccip.comparison import Comparison, compare, comparison_content, comparison_csv, read_result
from ccip.encoder import FEATURE_MODEL, CcipEncoder
from ccip.features import determining_parts, encode_pictures
from ccip.folders import GIVEN, SUFFIXES, is_plain_text, read_picture_folders
from ccip.generated import check_reference_pictures, pictured_characters, read_generated_pictures
from ccip.outputs import REPORT, Scored, check_output_folders, write_outputs
from ccip.pictured import all_pictures, all_references, group_features
from ccip.reference_folder import read_reference_folder
from ccip.results import evaluate
from ccip.sources import reference_sources

NAMES_TOLD = 5

PICTURES_HELP = """Score the pictures of the generate stages.

Writes ccip.json (means over characters with 95 % intervals), ccip_characters.csv (a row a character,
model and mode), ccip_borderline.csv (pairs at the threshold), ccip_run.json (what was scored), plots
in ccip/ and grids of pictures in pictures/. All models must have been asked for the same pictures; the
first one of the first folder is the one that the others are compared with. Features are kept below
`state/evaluate_ccip/` as they come, so that a run that was killed goes on from there;
`runtime.processes` workers make them, the same bytes by any number. The references' images are read
below `runtime.image_root`, or the environment variable IMAGE_ROOT.
"""
SCORE_HELP = f"""Score folders of pictures; no diffusion model and no metadata are needed.

Each folder has one sub-folder a character, with the same name in all of them, and in it the pictures
({", ".join(SUFFIXES)}; hidden files are passed over, any other file stops
the stage). Numbers of pictures may differ. Characters that are not in every folder are listed as
skipped. The outputs are those of `pictures`.
"""
COMPARE_HELP = """Compare two earlier results character by character, without scoring again.

Each is a ccip.json with its ccip_run.json and ccip_characters.csv beside it. Both must have been
scored with the same encoder and threshold. Characters that only one of them has, or whose reference
pictures differ, are left out and listed. Writes comparison.json and comparison.csv (character, before,
after, change) into the folder --out.
"""


def evaluate_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(name: str, text: str) -> ArgumentParser:
        return commands.add_parser(
            name, parents=[stage_parser(text)], add_help=False, help=text.splitlines()[0], description=text,
            formatter_class=RawDescriptionHelpFormatter,
        )  # fmt: skip

    ccip_help = "folder of the CCIP encoder (model_feat.onnx, model_metrics.onnx, metrics.json)"
    pictures = add_command("pictures", PICTURES_HELP)
    pictures.add_argument("--references", type=Path, required=True, help="folder of the references stage")
    pictures.add_argument(
        "--pictures", type=Path, action="append", required=True, metavar="FOLDER",
        help="folder of a generate stage, with the pictures of one model or more; may be repeated",
    )  # fmt: skip
    pictures.add_argument("--ccip", type=Path, required=True, help=ccip_help)
    pictures.add_argument("--image-index", type=Path, required=True, help="folder of index_images")
    pictures.add_argument("--out", type=Path, required=True, help="folder to write into")
    score = add_command("score", SCORE_HELP)
    score.add_argument("--ccip", type=Path, required=True, help=ccip_help)
    score.add_argument("--references", type=Path, required=True, help="folder of reference pictures")
    score.add_argument(
        "--generated", action="append", required=True, metavar="[NAME=]FOLDER",
        help="folder of a model's pictures, the model named as the folder if not otherwise; may be repeated: the first is the"
        " one that the others are compared with",
    )  # fmt: skip
    score.add_argument("--out", type=Path, required=True, help="folder to write into")
    comparison = add_command("compare", COMPARE_HELP)
    comparison.add_argument("--before", type=Path, required=True, help="ccip.json of the run before")
    comparison.add_argument("--after", type=Path, required=True, help="ccip.json of the run after")
    comparison.add_argument("--before-model", help="which model of the run before (default: its last)")
    comparison.add_argument("--after-model", help="which model of the run after (default: its last)")
    comparison.add_argument("--out", type=Path, required=True, help="folder to write into")
    return parser


def named_folders(generated: list[str]) -> dict[str, Path]:
    """{model: folder} of the command line's [NAME=]FOLDER.

    Raises:
        StageError: an empty name, one that the outputs cannot hold, or one that stands twice.
    """
    folders: dict[str, Path] = {}
    for argument in generated:
        name, equals, folder = argument.partition("=")
        path = Path(folder if equals else argument)
        name = name if equals else path.resolve().name
        if not name or (equals and not folder):
            raise StageError(f"--generated {argument}: expected NAME=FOLDER or a folder with a name")
        if not is_plain_text(name):
            raise StageError(f"--generated: the name {name!a} is not UTF-8 or has control characters; write OTHER_NAME=FOLDER")
        if name in folders:
            raise StageError(f"--generated {argument}: a model named '{name}' stands there already; write OTHER_NAME={path}")
        folders[name] = path
    return folders


def score_pictures(args: Namespace, params: Params) -> None:
    check_output_folders(args.out, [args.references, *args.pictures, args.ccip, args.image_index])
    encoder = CcipEncoder(args.ccip, params.evaluate.ccip.sha256)
    references = read_reference_folder(args.references)
    if references.encoder_sha256 != encoder.digests[FEATURE_MODEL]:
        raise StageError(
            f"{args.references}: its features are of another encoder than {args.ccip / FEATURE_MODEL};"
            " make it again with the references stage"
        )
    image_root = Path(os.environ.get("IMAGE_ROOT", params.runtime.image_root))
    listed = references.references
    posts = reference_sources(listed.characters, args.image_index, image_root)
    check_reference_pictures(args.references, references.pictures, posts)
    generated = read_generated_pictures(args.pictures)
    characters = pictured_characters(listed.characters, posts, generated)
    sources = all_pictures(characters)
    with stage_state("evaluate_ccip", determining_parts(encoder, sources)) as state:
        pictures = encode_pictures(args.ccip, sources, params.runtime.processes, "generated pictures", state)
        features = group_features(characters, references.features, pictures)
        scored = Scored(
            evaluation=evaluate(list(generated.by_model), generated.modes, features, listed.skipped, encoder.threshold),
            characters=characters,
            features=features,
            encoder=encoder,
            trained=references.trained,
            requests_sha256=generated.requests_sha256,
        )
        write_and_tell(args.out, scored, params)
        forget_state(state)


def score_folders(args: Namespace, params: Params) -> None:
    models = named_folders(args.generated)
    check_output_folders(args.out, [args.references, args.ccip, *models.values()])
    encoder = CcipEncoder(args.ccip, params.evaluate.ccip.sha256)
    folders = read_picture_folders(args.references, models)
    characters = folders.characters
    sources = [*all_references(characters), *all_pictures(characters)]
    with stage_state("evaluate_ccip", determining_parts(encoder, sources)) as state:
        encoded = encode_pictures(args.ccip, sources, params.runtime.processes, "pictures", state)
        references, pictures = np.split(encoded, [len(all_references(characters))])
        features = group_features(characters, references, pictures)
        scored = Scored(
            evaluation=evaluate(list(models), [GIVEN], features, folders.skipped, encoder.threshold),
            characters=characters,
            features=features,
            encoder=encoder,
            trained=None,
            requests_sha256=None,
        )
        write_and_tell(args.out, scored, params)
        forget_state(state)


def write_and_tell(out: Path, scored: Scored, params: Params) -> None:
    """Write the outputs and print their line."""
    samples, grid = params.evaluate.bootstrap_samples, params.evaluate.grid_characters
    report = write_outputs(out, scored, samples, params.seed, grid)
    scores = ", ".join(f"{name} {figures['score']:.4f}" for name, figures in report["models"].items())
    line = f"{out / REPORT}: {report['characters']} characters, {len(report['skipped'])} skipped; CCIP score: {scores}"
    if report["difference"]:
        models = scored.evaluation.models
        line += f"; {models[-1]} against {models[0]}: {difference_words(report['difference'])}"
    print(line)


def difference_words(difference: dict[str, Any]) -> str:
    low, high = difference["ci95"]
    return (
        f"{difference['mean']:+.4f} (95 %: {low:+.4f} to {high:+.4f}), {difference['wins']} better,"
        f" {difference['ties']} equal, {difference['losses']} worse"
    )


def compare_results(args: Namespace, params: Params) -> None:
    before, after = read_result(args.before, args.before_model), read_result(args.after, args.after_model)
    comparison = compare(before, after, params.evaluate.bootstrap_samples, params.seed)
    content = comparison_content(comparison)
    write_text(args.out / "comparison.csv", comparison_csv(comparison))
    write_json(args.out / "comparison.json", content)
    print(
        f"{args.out / 'comparison.json'}: {before.model} {content['before']['score']:.4f}, {after.model}"
        f" {content['after']['score']:.4f} over {content['characters']} characters: {difference_words(content['difference'])}"
    )
    for remark in remarks(comparison):
        print(remark)


def remarks(comparison: Comparison) -> list[str]:
    """What a reader of the difference should know: other requests, characters that were left out."""
    told = []
    if comparison.same_requests is False:
        told.append("the two were asked for other pictures (prompts, seeds or modes), so that not only the models differ")
    elif comparison.same_requests is None:
        told.append("whether the two were asked for the same pictures is not known: folders of pictures do not tell")
    for which, names in (
        ("only before", comparison.only_before),
        ("only after", comparison.only_after),
        ("left out, by other reference pictures", comparison.other_references),
    ):
        if names:
            more = ", ..." if len(names) > NAMES_TOLD else ""
            told.append(f"{which}: {len(names)} characters ({', '.join(names[:NAMES_TOLD])}{more})")
    return told


def main(arguments: list[str]) -> None:
    args = evaluate_parser().parse_args(arguments)
    params = parameters(args)
    commands = {"pictures": score_pictures, "score": score_folders, "compare": compare_results}
    commands[args.command](args, params)


if __name__ == "__main__":
    run_stage(main)
