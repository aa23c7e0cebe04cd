"""The command line of the scripts that draw pictures to learn from."""

import argparse
from pathlib import Path

from repro.errors import StageError

# One of the Ren'Py sprites, by which the folder of the art is known.
KNOWN_BY = "eileen-happy.webp"


def refuse_other_art(art: Path) -> None:
    """Raises:
    StageError: not the folder of the Ren'Py art."""
    if not (art / KNOWN_BY).exists():
        raise StageError(f"{art}: no {KNOWN_BY} in it; expected the folder of the Ren'Py sprites, data/art")


def art_and_output(description: str | None, arguments: list[str]) -> argparse.Namespace:
    """`art`, the folder of the art, and `output`, the folder to make.

    Raises:
        StageError: `art` is another folder.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, default=Path("data/art"), help="folder of the Ren'Py art (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    refuse_other_art(args.art)
    return args
