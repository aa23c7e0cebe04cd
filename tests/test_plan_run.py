"""plan_run.py as a user runs it: the published recipes without data and weights against their cards."""

import json
import os
import subprocess
import sys
from pathlib import Path

from repro.params import load_params

import pytest

from planning.plan import is_merge_only, make_plan

RECIPES = Path("recipes")
ENVIRONMENT = os.environ | {"COST_LOG": "/nonexistent/cost.jsonl"}


def plan(recipe: str, *more: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "stages/plan_run.py", "--params", f"recipes/{recipe}.yaml", *more]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | environment)


def lines_of(recipe: str, *more: str, **environment: str) -> list[str]:
    result = plan(recipe, *more, **environment)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout.splitlines()


def test_delta_agrees_with_its_card() -> None:
    lines = lines_of("kohaku-xl-delta", "--images-per-second", "2.5")
    assert [line.strip() for line in lines[-4:]] == [
        "images     3,665,398; planned at most 3,737,345: agrees",
        "steps      28,638; planned 28,638 (28,636 to 28,639): agrees",
        "LoKr file  below 800 MB; planned 734.4 MB: agrees",
        "days       17.5; planned 17.0 by its 51.25 s an update, 2.50 images/s on 2 GPUs: agrees",
    ]
    assert any(line.startswith("time        17.0 days at 2.5 images/s") for line in lines)
    assert any(line.startswith("buckets     97, from 256 x 3328 to 4096 x 256") for line in lines)
    assert any("GiB in each of 2 processes" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "figures"),
    [
        ("kohaku-xl-epsilon", ["20,354; planned 20,354 (20,353 to 20,354): agrees", "below 800 MB; planned 734.4 MB: agrees"]),
        ("kohaku-xl-gamma-base7", ["not stated; planned"]),
        ("kohaku-xl-gamma-base8", ["11,563; planned 11,563 (11,524 to 11,602): agrees"]),
        ("sotediffusion-base", ["50,000; planned 145,", "DIFFERS", "The card contradicts itself"]),
        ("sotediffusion-final", ["120,000; planned at most"]),
    ],
)
def test_the_others_agree_with_their_cards_or_say_why_not(recipe: str, figures: list[str]) -> None:
    text = "\n".join(lines_of(recipe))
    for figure in figures:
        assert figure in text


@pytest.mark.parametrize("recipe", ["kohaku-xl-gamma-rev1", "kohaku-xl-gamma-rev2"])
def test_a_merge_is_told_by_its_formula_and_files(recipe: str) -> None:
    lines = lines_of(recipe)
    assert lines[1] == f"merge       {load_params(RECIPES / f'{recipe}.yaml').merge.formula}"
    assert sum("not there yet: `make fetch`, or bring it" in line for line in lines) == 4
    assert lines[-1] == "run         dvc repro merge; nothing is trained"


def test_only_recipes_without_the_trained_model_are_merges() -> None:
    merges = {path.stem for path in RECIPES.glob("*.yaml") if is_merge_only(load_params(path))}
    assert merges == {"kohaku-xl-gamma-rev1", "kohaku-xl-gamma-rev2"}


def test_the_sample_is_planned_from_what_is_here(tmp_path: Path) -> None:
    log = tmp_path / "cost.jsonl"
    entry = {"run": "1", "stage": "train", "recipe": "sample", "job": "a", "unit": "updates", "done": 380, "wall_s": 304.0}
    log.write_text(json.dumps(entry | {"cpu_s": None, "processes": 2, "device": "2 processes"}) + "\n")
    lines = lines_of("sample", COST_LOG=str(log))
    assert any(line.endswith("ids 0 to 1,999,999") and " in the database" in line for line in lines)
    assert "configs     of models/sample-base" in lines
    assert "steps       380 updates; constant, warm-up 10 updates" in lines
    assert any("979,468 numbers of a LoKr" in line for line in lines)
    assert any(line.startswith("time        0.1 hours at 20 images/s") for line in lines)


def test_a_folder_of_which_all_is_taken_is_not_counted() -> None:
    lines = lines_of("sample", "--set", "select.ranges=[{folder: mine, take: null}]")
    assert "posts       all, not counted, folder mine" in lines
    assert any(line.startswith("images      not known before they are counted") for line in lines)


def test_a_plan_that_misses_its_card_ends_with_1_unless_the_recipe_says_why() -> None:
    stated = "{source: a card, images: 10, showings:, rounded_to: 1, updates: 381, lokr_megabytes: 3, gpus:,"
    stated += " seconds_per_update:, days:, differs: %s}"
    missed = plan("sample", "--set", f"card={stated % ''}")
    assert missed.returncode == 1
    assert "steps      381; planned 380 (380 to 380): DIFFERS" in missed.stdout
    assert "LoKr file  below 3 MB; planned 3.9 MB: DIFFERS" in missed.stdout
    assert "why         not told: put the recipe right, or the reason into card.differs" in missed.stdout
    told = make_plan(load_params(RECIPES / "sample.yaml", [f"card={stated % 'a slip'}"]), None)
    assert len(told.differences) == 2
    assert plan("sample", "--set", f"card={stated % 'a slip'}").returncode == 0


@pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan", "fast"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    result = plan("sample", "--images-per-second", rate)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
