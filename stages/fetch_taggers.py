"""Bring the models that describe pictures from the Hugging Face hub, at the revisions and with the bytes of the parameters.

    python stages/fetch_taggers.py [--params FILE] [--set KEY=VALUE]

Reads annotate: each model asked for stands in `path` below `folder`; `hub` is the repository, the revision (a commit, 40
digits) and the path in it, `sha256` what each file must have. A sha256 that is not there yet is told, and nothing of that
model is written: it is yours to write down. Weights are looked for as model.safetensors where `sha256` names no other file
of weights: model.safetensors.index.json, which brings the shards that it names, or pytorch_model.bin. Without `hub` the
folder is a local one and is merely checked. A folder that is there and right is left alone, without a look at the network;
one that is not right is never replaced.
"""

from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage

from hub.files import fetch_files
from hub.folders import bring_folder, is_there, wanted_files
from tagging.model_files import INDEX, SAFETENSORS, WEIGHTS, ModelFolder, asked_folders, shard_names


def main(arguments: list[str]) -> None:
    asked = parameters(stage_parser(__doc__).parse_args(arguments)).annotate
    parts = asked_folders(asked)
    if not parts:
        print("annotate asks for no model, so there is nothing to fetch")
    for part in parts:
        bring_model(Path(asked.folder), part)


def bring_model(models: Path, part: ModelFolder) -> None:
    """Fetch one folder below `models`, or check the one that is there.

    Raises:
        StageError: see `hub.folders.bring_folder` and `ModelFolder.digests`.
    """
    folder, source = models / part.source.path, part.source
    if source.hub is None:
        part.digests(models)
        print(f"{folder}: a local folder, since {part.key}.hub is null; its files are there, and nothing is to be fetched")
        return
    bring_folder(folder, source.hub, files_of(folder, part), f"{part.key}.sha256", f"{part.key}.path")


def files_of(folder: Path, part: ModelFolder) -> dict[str, str | None]:
    """The model's files, those of its weights and any others that the parameters name, each with its sha256 or None.

    Raises:
        StageError: a name is none of a file; or the index of the weights cannot be fetched or read, or has no sha256.
    """
    sha256 = part.source.sha256
    weights = [SAFETENSORS] if part.weights and not set(WEIGHTS) & sha256.keys() else []
    wanted = wanted_files([*part.files, *weights], sha256, part.key)
    if INDEX not in wanted:
        return wanted
    if is_there(folder):
        index = folder / INDEX
    else:
        index = fetch_files(part.source.hub, {INDEX: wanted[INDEX]}, f"{part.key}.sha256")[INDEX]
    shards = shard_names(index) if index.is_file() else []
    return dict.fromkeys(shards) | wanted


if __name__ == "__main__":
    run_stage(main)
