"""Draw every character of the references with every model: the pictures that evaluate-CCIP scores.

    python stages/generate_pictures.py --model base=models/base --model merged=models/sample \\
        --references data/references.json --output data/pictures

All models get the same prompts and seeds, in one run or in several. What is asked for and how it is sampled is the recipe's
`evaluate.generation`, the prompts' order that of `caption.profile`; a prompt that asks for one of `filter.blocked_tags` is
refused. A picture is computed by itself, so that no batch, no number of processes (`runtime.processes`; with `device: cuda`
each has a GPU of its own) and no other picture reaches its bits. Pictures are kept below `state/generate/` as they come, so
that a run that was killed goes on from there, also with another list of characters or another model beside, and are packed
into the output at the end: disk space for two sets of them is needed. Several machines draw a share each (`--share 1/2`,
`--share 2/2`); one that has the state of all of them writes the output.
"""

import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repro.command import parameters, stage_parser
from repro.cost import measured
from repro.devices import device_identity, refuse_unfit_gpus
from repro.errors import StageError, run_stage
from repro.hashing import hash_tree, refuse_foreign_folder, sha256_json
from repro.params import Generation, Params, SampledPictures
from repro.shares import add_share_option, told_share
from repro.state import code_digest, fingerprint, forget_state, stage_state

from booru.captioning.profiles import profile
from characters.references import read_references
from generation.drawing import Model, check_model_folders, draw_pictures, missing_jobs, picture_jobs
from generation.picture_folder import write_picture_folder
from generation.requests import PictureRequest, requests_for

STAGES = Path(__file__).parent
MODEL_NAME = r"[a-z0-9][a-z0-9_.-]{0,39}"


def named_folders(arguments: list[str]) -> dict[str, Path]:
    """{name: folder} of NAME=FOLDER arguments, in their order.

    Raises:
        StageError: no such form, or a name that stands twice.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if not (equals and folder and re.fullmatch(MODEL_NAME, name)):
            raise StageError(f"--model {argument}: write it as NAME=FOLDER, the name of a-z, 0-9, _, . and - (40 at most)")
        if name in folders:
            raise StageError(f"--model {argument}: the name {name} stands twice; give every model its own")
        folders[name] = Path(folder)
    return folders


def sampling_settings(generation: Generation) -> dict[str, Any]:
    """How every picture is sampled, as far as the family has such settings."""
    settings = generation.model_dump(include={*SampledPictures.model_fields, "precision"})
    return {name: value for name, value in settings.items() if value is not None}


def determining_parts(params: Params) -> dict[str, Any]:
    """Everything that determines a picture beside the model's files and its own prompt and seed, which name it in the state."""
    return {
        "params": {"family": params.family, "evaluate": {"generation": sampling_settings(params.evaluate.generation)}},
        "device": device_identity(params.device),
        "code": code_digest(STAGES / "families", STAGES / "generation", STAGES / "repro"),
        "packages": {name: version(name) for name in ("diffusers", "numpy", "pillow", "tokenizers", "transformers")},
    }


def job_name(parts: dict[str, Any], models: list[Model], requests: list[PictureRequest]) -> str:
    """What the cost log calls this work: short for everything that determines the output."""
    asked = sha256_json([asdict(request) for request in requests])
    return fingerprint(**parts, models={model.name: model.digest for model in models}, requests=asked)[:8]


def forget_models(state: Path, models: list[Model]) -> None:
    """Remove the state of this run's models, and all of it unless an unfinished run of another model has left some there."""
    for model in models:
        forget_state(state / model.digest)
    if not any(path.is_dir() for path in state.iterdir()):
        forget_state(state)


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--model", action="append", required=True, metavar="NAME=FOLDER", help="a diffusers folder; may be repeated"
    )
    parser.add_argument("--references", type=Path, required=True, help="references.json: the characters to draw")
    parser.add_argument("--output", type=Path, required=True, help="folder of pictures to write")
    add_share_option(parser, "pictures")
    args = parser.parse_args(arguments)
    params = parameters(args)
    folders = named_folders(args.model)
    refuse_foreign_folder(args.output)
    check_model_folders(folders, params.family, params.evaluate.generation)
    if params.device == "cuda":
        refuse_unfit_gpus(params.runtime.processes)
    rules, references = profile(params.caption.profile), read_references(args.references).characters
    generation, blocked = params.evaluate.generation, params.filter.blocked_tags
    requests = [request for reference in references for request in requests_for(reference, generation, rules, blocked)]
    models = [Model(name, params.family, folder, sha256_json(hash_tree(folder))) for name, folder in folders.items()]
    parts = determining_parts(params)
    with stage_state("generate", parts) as state:
        jobs = picture_jobs(models, requests, state)
        if args.share:
            jobs = args.share.of(jobs)
        processes = max(1, min(params.runtime.processes, len(missing_jobs(jobs))))
        named, gpu = job_name(parts, models, requests), parts["device"].get("gpu")
        with measured("generate", params.recipe, named, "pictures", processes, gpu) as cost:
            draw_pictures(jobs, generation, params.device, processes, cost)
            if args.share:
                print(told_share("generate", args.share, len(jobs), str(state)))
                return
            rows = ((job.model.name, job.request, job.file) for job in jobs)
            write_picture_folder(args.output, rows, sampling_settings(generation))
        forget_models(state, models)
    print(f"{args.output}: {len(jobs)} pictures of {len(references)} characters by {' and '.join(folders)}")


if __name__ == "__main__":
    run_stage(main)
