"""What merge.py and make_base.py share: a formula and its models from the command line or from the parameters."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from repro.errors import StageError
from repro.params import FORMULA_NAME, FamilyName, FormulaSection, Models

from checkpoints.diffusers_folder import FolderConfigs, read_configs
from checkpoints.formula import Formula, parse_formula
from checkpoints.merging import Merge, Unchanged
from checkpoints.model_family import MODEL_FAMILIES
from checkpoints.operands import Operands, Unmatched, open_operands
from checkpoints.rounding import Precision


@dataclass(frozen=True)
class FormulaJob:
    """A formula, the files that its names mean, and what is let pass (see `Merge`); of which family, None for any."""

    formula: Formula
    paths: Mapping[str, Path]
    unmatched: Unmatched
    unchanged: Unchanged
    configs_folder: Path | None
    family: FamilyName | None = None

    def open(self) -> Operands:
        """Raises:
        StageError: see `open_operands`; or the models are not of the `family`."""
        operands = open_operands(self.formula, self.paths)
        if self.family and operands.family is not MODEL_FAMILIES[self.family]:
            first = next(iter(operands.models.values()))
            raise StageError(f"family: the parameters say {self.family}, but {first.path} is a model of {operands.family.title}")
        return operands

    def merge(self, operands: Operands, precision: Precision, left_out: tuple[str, ...] = ()) -> Merge:
        """Args:
        left_out: see `Merge`."""
        return Merge(self.formula, operands, precision, self.unmatched, self.unchanged, left_out, show_progress=True)

    def configs(self, operands: Operands) -> FolderConfigs | None:
        """Configs and tokenizers: of the named folder, the formula's first model that is one, or the first one of all, the
        stage's own before those that are listed."""
        if self.configs_folder:
            return read_configs(self.configs_folder)
        of_formula = next((model.configs for model in operands.models.values() if model.configs), None)
        first = next((path for path in self.paths.values() if path.is_dir()), None)
        return of_formula or (read_configs(first) if first else None)

    def needed_configs(self, operands: Operands) -> FolderConfigs:
        """As `configs`.

        Raises:
            StageError: there are none.
        """
        configs = self.configs(operands)
        if configs is None:
            raise StageError(
                "a diffusers output needs configs and tokenizers, and all models are single files; add --configs FOLDER"
            )
        return configs


def add_formula_options(parser: argparse.ArgumentParser, section: str) -> None:
    parser.add_argument("--formula", help=f"instead of {section}.formula; then nothing is taken from the parameter file")
    parser.add_argument(
        "--model", dest="models", action="append", default=[], metavar="NAME=PATH",
        help="a model of the formula: single file, diffusers folder, or LoKr file; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--unmatched", choices=get_args(Unmatched),
        help="float tensors that not all models have: refuse (default), copy from the first that has them, or drop",
    )  # fmt: skip
    parser.add_argument(
        "--unchanged", choices=get_args(Unchanged),
        help="tensors that the formula leaves as they are though the models differ there: refuse (default) or accept",
    )  # fmt: skip
    parser.add_argument(
        "--configs", type=Path, metavar="FOLDER",
        help="diffusers folder whose configs and tokenizers a diffusers output takes (default: the formula's first model"
        " that is one, else the first of --model, else of the listed ones)",
    )  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="only print the blocks and what is computed for each tensor")


def formula_job(
    args: argparse.Namespace, section: FormulaSection | None, models: Models | None, family: FamilyName | None = None
) -> FormulaJob:
    """The job of a command line; `section`, `models` and `family` are the parameters', None where `--formula` stands.

    Raises:
        StageError: a formula or a model that is not written as it should be, or a model that the formula does not name.
    """
    given = dict(_named_path(text) for text in args.models)
    if len(given) < len(args.models):
        raise StageError("--model: a name stands twice")
    formula = parse_formula(section.formula if section else args.formula)
    if section is None:
        unused = given.keys() - {*formula.models, *formula.lokrs}
        if unused:
            raise StageError(f"--model {min(unused)}: the formula names no such model")
    listed = {name: Path(models.folder, file) for name, file in models.files.items()} if models else {}
    doubled = given.keys() & listed.keys()
    if doubled:
        raise StageError(f"models.files: '{min(doubled)}' is the stage's own model; choose another name")
    return FormulaJob(
        formula,
        given | listed,
        args.unmatched or (section.unmatched if section else "refuse"),
        args.unchanged or (section.unchanged if section else "refuse"),
        args.configs,
        family,
    )


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not path or not re.fullmatch(FORMULA_NAME, name):
        raise StageError(f"--model {text}: write it as NAME=PATH, NAME of letters, digits and underscores")
    return name, Path(path)
