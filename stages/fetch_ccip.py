"""Bring the CCIP encoder of the parameters from the Hugging Face hub, at the revision and with the bytes that they name.

    python stages/fetch_ccip.py [--params FILE] [--set KEY=VALUE]

Reads evaluate.ccip: `folder` is where it shall stand, `hub` the repository, the revision (a commit, 40 digits) and the
path in it, `sha256` what each file must have. A sha256 that is not there yet is told, and nothing is written: it is
yours to write down. Without `hub` the folder is a local one and is merely checked. A folder that is there and right is
left alone, without a look at the network; one that is not right is never replaced.
"""

from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage

from ccip.encoder import FILES, CcipEncoder
from hub.folders import bring_folder, wanted_files

KEY = "evaluate.ccip"


def main(arguments: list[str]) -> None:
    ccip = parameters(stage_parser(__doc__).parse_args(arguments)).evaluate.ccip
    folder = Path(ccip.folder)
    if ccip.hub is None:
        CcipEncoder(folder, ccip.sha256)
        print(f"{folder}: a local folder, since {KEY}.hub is null; its files are there, and nothing is to be fetched")
        return
    bring_folder(folder, ccip.hub, wanted_files(FILES, ccip.sha256, KEY), f"{KEY}.sha256", f"{KEY}.folder")


if __name__ == "__main__":
    run_stage(main)
