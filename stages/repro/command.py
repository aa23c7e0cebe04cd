"""The command line that all stages share: --params, --set, --debug."""

import argparse
from pathlib import Path

from repro.params import Params, load_params


def stage_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options every stage has; `description` is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override one parameter, e.g. --set train.updates=100; may be repeated",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parameters(arguments: argparse.Namespace) -> Params:
    """The validated parameters that the command line names."""
    return load_params(arguments.params, arguments.overrides)
