"""Put a recipe in place as params.yaml, and show in which values it differs from what stood there.

    python stages/put_recipe.py kohaku-xl-delta        (or: make recipe NAME=kohaku-xl-delta)

The recipe, recipes/<name>.yaml, is validated first. A params.yaml with values of one's own, equal to no recipe, is kept as
params.previous.yaml. A recipe's run writes dvc.lock anew; the lock of the one before is in git's history.
"""

import argparse
from pathlib import Path
from typing import Any

from repro.errors import StageError, run_stage
from repro.outputs import write_text
from repro.params import load_params, read_yaml

from checkpoints.formula import require_formulas
from proof.values import dotted_values

RECIPES = Path("recipes")
IN_PLACE = Path("params.yaml")
KEPT = Path("params.previous.yaml")
ABSENT = "(nothing)"


def values_of(text: str, name: str) -> dict[str, Any]:
    """{dotted key: value} of a parameter file; lists are values.

    Raises:
        StageError: not YAML.
    """
    values = read_yaml(text, name)
    return dict(dotted_values(values)) if isinstance(values, dict) else {}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each key with another value, in the order of `after`, then those that are gone."""
    keys = [*after, *(key for key in before if key not in after)]
    pairs = [(key, *(repr(values[key]) if key in values else ABSENT for values in (before, after))) for key in keys]
    return [f"  {key}: {old} -> {new}" for key, old, new in pairs if old != new]


def put(name: str) -> None:
    """Raises:
    StageError: no such recipe, or one that is not valid."""
    recipe = RECIPES / f"{name}.yaml"
    if not recipe.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise StageError(f"{recipe}: no such recipe; there are {known}")
    require_formulas(load_params(recipe))
    text = recipe.read_text(encoding="utf-8")
    before = IN_PLACE.read_text(encoding="utf-8") if IN_PLACE.exists() else ""
    changed = differences(values_of(before, str(IN_PLACE)) if before else {}, values_of(text, str(recipe)))
    if before and before not in {path.read_text(encoding="utf-8") for path in RECIPES.glob("*.yaml")}:
        write_text(KEPT, before)
        print(f"{IN_PLACE} was equal to no recipe; it is kept as {KEPT}")
    write_text(IN_PLACE, text)
    print(f"{recipe} is in place; {len(changed)} values differ from what stood there" + (":" if changed else ""))
    print("\n".join(changed))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a file of recipes/, without its ending")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    put(parser.parse_args(arguments).recipe)


if __name__ == "__main__":
    run_stage(main)
