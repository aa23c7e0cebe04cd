"""A machine's share of work whose pieces do not hang on each other: every n-th piece, so that no two machines do the same."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Share:
    """The `number`-th (from 1) of `machines` shares."""

    number: int
    machines: int

    def of(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """This share's pieces. All machines must name the same pieces in the same order."""
        return pieces[self.number - 1 :: self.machines]


def add_share_option(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--share", type=share, metavar="K/N",
        help=f"only do the K-th of N shares of the {what}, for N machines, and write no output: the state that it leaves is to"
        " be brought together on one of them, where the command without --share goes on from it",
    )  # fmt: skip


def share(text: str) -> Share:
    """Raises:
    argparse.ArgumentTypeError: not K/N with 1 <= K <= N."""
    found = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as K/N, such as 1/2 and 2/2 on two machines")
    return Share(int(found[1]), int(found[2]))


def told_share(stage: str, part: Share, pieces: int, state: str) -> str:
    """What a run of a share says at its end."""
    return (
        f"{stage}: share {part.number} of {part.machines} is done, {pieces} pieces, in {state}; copy that folder's files of all"
        " machines into the one of the same name on one machine, and run the command there without --share"
    )
