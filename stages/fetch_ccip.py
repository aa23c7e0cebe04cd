"""Bring the CCIP encoder of the parameters from the Hugging Face hub, at the revision and with the bytes that they name.

    python stages/fetch_ccip.py [--params FILE] [--set KEY=VALUE]

Reads evaluate.ccip: `folder` is where it shall stand, `hub` the repository, the revision (a commit, 40 digits) and the
path in it, `sha256` what each file must have. A sha256 that is not there yet is told, and nothing is written: it is
yours to write down. Without `hub` the folder is a local one and is merely checked. A folder that is there and right is
left alone, without a look at the network; one that is not right is never replaced.
"""

import shutil
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import sha256_file
from repro.outputs import whole_folder
from repro.params import Ccip

from ccip.encoder import FILES, CcipEncoder
from hub.files import fetch_files

KEY = "evaluate.ccip.sha256"


def main(arguments: list[str]) -> None:
    ccip = parameters(stage_parser(__doc__).parse_args(arguments)).evaluate.ccip
    folder = Path(ccip.folder)
    if ccip.hub is None:
        CcipEncoder(folder, ccip.sha256)
        print(f"{folder}: a local folder, since evaluate.ccip.hub is null; its files are there, and nothing is to be fetched")
        return
    sha256 = wanted_files(ccip)
    if folder.is_dir() and any(folder.iterdir()):
        require_right_folder(folder, sha256)
        print(f"{folder}: already there, with the sha256 of {KEY}")
        return
    print(f"{folder}: fetching {', '.join(sha256)} of {ccip.hub.repo} at {ccip.hub.revision}", flush=True)
    cached = fetch_files(ccip.hub, sha256, KEY)
    with whole_folder(folder) as new:
        for name, file in cached.items():
            shutil.copyfile(file, new / name)
    print(f"{folder}: fetched, with the sha256 of {KEY}")


def wanted_files(ccip: Ccip) -> dict[str, str | None]:
    """The encoder's files and any others that the parameters name, each with the sha256 that they give it.

    Raises:
        StageError: a name is none of a file in the folder.
    """
    for name in ccip.sha256:
        if not name or Path(name).name != name:
            raise StageError(f"{KEY}: '{name}' is no file's name; a file of the folder is meant, such as {FILES[0]}")
    return dict.fromkeys(FILES) | ccip.sha256


def require_right_folder(folder: Path, sha256: dict[str, str | None]) -> None:
    """Check what is there already.

    Raises:
        StageError: a file is missing, or has not the sha256 of the parameters, or they name none.
    """
    for name, expected in sha256.items():
        found = sha256_file(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise StageError(
                f"{folder / name}: {found}, but {KEY} has {expected or 'nothing'} for it; a folder that is there is not"
                " replaced: name another as evaluate.ccip.folder, or remove this one, and fetch again"
            )


if __name__ == "__main__":
    run_stage(main)
