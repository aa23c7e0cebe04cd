"""Bring the files that the recipe's run reads and that no repository may hold, as `inputs` lists them.

    python stages/fetch_inputs.py [--params FILE] [--set KEY=VALUE]        (or: make inputs; make fetch brings models of other
                                                                            sections too)

Each entry is a folder, below the working directory. With `hub` its files come from a repository on the Hugging Face hub at the
revision and with the sha256 that stand there; what is not written down yet, revision or sha256, is told, and nothing of that
folder is written: it is yours to compare and write down. Without `hub` the files are yours to bring: they are checked, and those
without a sha256 told. A folder that is there and right is left alone, without a look at the network; one that is not right is
never replaced. HF_ENDPOINT names another hub, HF_TOKEN opens what asks for terms; a broken download goes on where it ended.
"""

from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import sha256_file
from repro.params import Input

from hub.folders import bring_folder


def main(arguments: list[str]) -> None:
    params = parameters(stage_parser(__doc__).parse_args(arguments))
    if not params.inputs:
        print(f"{params.recipe}: nothing to fetch, inputs is empty")
    faults = []
    for name, wanted in params.inputs.items():
        try:
            bring_input(name, wanted)
        except StageError as error:
            faults.append(str(error))
    if faults:
        raise StageError("\n".join(faults))


def bring_input(name: str, wanted: Input) -> None:
    """Fetch or check one folder.

    Raises:
        StageError: see `hub.folders.bring_folder`, or a file that is the reader's to bring is not there or not right.
    """
    key = f"inputs.{name}"
    if wanted.hub is not None:
        bring_folder(Path(name), wanted.hub, wanted.files, f"{key}.files", "its key in inputs")
    else:
        check_local(Path(name), wanted, key)


def check_local(folder: Path, wanted: Input, key: str) -> None:
    """Raises:
    StageError: the folder or one of its files is not there, or has another sha256 than the parameters."""
    absent = [folder / name for name in wanted.files if not (folder / name).is_file()]
    if not folder.is_dir() or absent:
        about = f" ({wanted.about})" if wanted.about else ""
        raise StageError(f"{(absent or [folder])[0]}: not there, and yours to bring{about}")
    for name, expected in wanted.files.items():
        found = sha256_file(folder / name)
        if expected is None:
            print(f"{folder / name}: there; {key}.files has no sha256 for it, and it is {found}")
        elif found != expected:
            raise StageError(f"{folder / name}: sha256 {found}, but {key}.files has {expected}; bring the right file")
        else:
            print(f"{folder / name}: there, with the sha256 of {key}.files")
    if not wanted.files:
        print(f"{folder}: there; {key}.files names no file to check")


if __name__ == "__main__":
    run_stage(main)
