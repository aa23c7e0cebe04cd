"""Which characters the grids show, what is loaded for them, and the files."""

from pathlib import Path

from repro.hashing import hash_tree

import pytest
from made_evaluations import made_evaluation
from PIL import Image

from ccip.gallery import grid_choices, sheet_name, write_gallery
from ccip.results import Evaluation
from characters.references import Reference


def evaluation(merged: list[float], base: list[float] | None = None) -> Evaluation:
    """Characters a, b, c, ... with these scores in the mode `name`."""
    names = [chr(ord("a") + i) for i in range(len(merged))]
    scores = {name: {("merged", "name"): [score]} for name, score in zip(names, merged, strict=True)}
    if base:
        scores = {n: {("base", "name"): [b]} | s for (n, s), b in zip(scores.items(), base, strict=True)}
    return made_evaluation(scores)


def chosen(evaluation: Evaluation, each: int) -> dict[str, str]:
    return {grid: "".join(r.reference.character for r in results) for grid, results in grid_choices(evaluation, each).items()}


class Openers:
    """Plain pictures, and what they were opened for."""

    def __init__(self, evaluation: Evaluation):
        self.opened: list[str] = []
        self._scores = {r.reference.character: r.scores for r in evaluation.results}

    def references(self, reference: Reference) -> list[Image.Image]:
        self.opened.append(reference.character)
        return [Image.new("RGB", (30, 40), "red")] * 5

    def pictures(self, character: str, model: str, mode: str) -> list[Image.Image]:
        self.opened.append(character)
        count = len(self._scores[character][model, mode].picture_scores)
        return [Image.new("RGB", (32, 48), "lime" if model == "base" else "blue")] * count


def write(folder: Path, evaluation: Evaluation, each: int) -> list[str]:
    """Write the gallery; returns the characters in the order of opening."""
    folder.mkdir()
    openers = Openers(evaluation)
    write_gallery(folder, evaluation, openers.references, openers.pictures, 96, each)
    return openers.opened


def test_extremes_are_those_of_the_last_model_and_ties_go_by_tag():
    some = evaluation([0.5, 1.0, 0.0, 1.0, 0.25, 0.0], [0.5, 1.0, 0.75, 0.5, 0.0, 0.5])
    assert chosen(some, 2) == {"grid": "bdaecf", "best": "bd", "worst": "cf", "changed": "cd"}
    assert chosen(some, 1) == {"grid": "baf", "best": "b", "worst": "c", "changed": "c"}


def test_fewer_characters_than_places_stand_once_in_each_grid():
    assert chosen(evaluation([0.5, 0.5], [0.5, 0.5]), 20) == dict.fromkeys(("grid", "best", "worst", "changed"), "ab")


def test_one_model_has_no_changes():
    assert chosen(evaluation([0.5, 0.75]), 1).keys() == {"grid", "best", "worst"}


def test_the_overview_goes_evenly_from_best_to_worst():
    grid = chosen(evaluation([1 - i / 26 for i in range(26)]), 2)["grid"]
    assert grid == "afkpuz"


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("mika", "mika.png"),
        ("grid", "grid.png"),
        ("eileen_(ren'py)", "eileen_(ren'py).png"),
        ("saber_(fate/stay_night)", "saber_(fate%2Fstay_night).png"),
        ("a%2Fb", "a%252Fb.png"),
        (".hack", "%2Ehack.png"),
        ("初音ミク", "初音ミク.png"),
    ],
)
def test_file_names_are_safe_and_distinct(tag, file):
    assert sheet_name(tag) == file


@pytest.mark.parametrize("tag", ["x" * 300, "初" * 100, "a" + "初" * 100])
def test_long_file_names_fit_and_stay_distinct(tag):
    assert len(sheet_name(tag).encode()) <= 240
    assert sheet_name(tag) != sheet_name(tag + "y")


def test_every_character_of_a_grid_has_a_sheet_and_no_other_is_opened(tmp_path):
    some = evaluation([i / 8 for i in range(9)], [0.5] * 9)
    opened = write(tmp_path / "pictures", some, 1)
    shown = {name for grid in chosen(some, 1).values() for name in grid}
    assert set(opened) == shown == {"a", "e", "i"}
    assert [name for i, name in enumerate(opened) if name not in opened[:i]] == sorted(shown)
    assert len([i for i in range(1, len(opened)) if opened[i] != opened[i - 1]]) == len(shown) - 1, "one at a time"
    files = {"grid.png", "best.png", "worst.png", "changed.png", *(f"sheets/{name}.png" for name in shown)}
    assert set(hash_tree(tmp_path / "pictures")) == files


def test_a_sheet_shows_all_modes_that_the_character_has(tmp_path):
    a = {
        ("base", "name"): [1.0] * 2,
        ("merged", "name"): [0.5] * 2,
        ("base", "new_artist"): [0.0],
        ("merged", "new_artist"): [0.5],
    }
    b = {("base", "name"): [1.0] * 3, ("merged", "name"): [0.5] * 4}
    some = made_evaluation({"a": a, "b": b})
    write(tmp_path / "pictures", some, 5)
    cell = 64 * 96
    for name, base, merged in (("a", 3, 3), ("b", 3, 4)):
        with Image.open(tmp_path / "pictures" / "sheets" / f"{name}.png") as sheet:
            counts = {colour: count for count, colour in sheet.getcolors(1 << 24)}
        assert (counts[0, 255, 0], counts[0, 0, 255]) == (base * cell, merged * cell)


def test_the_same_bytes_again(tmp_path):
    some = evaluation([0.5, 0.25, 0.5], [0.0, 0.25, 1.0])
    write(tmp_path / "a", some, 1)
    write(tmp_path / "b", some, 1)
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")
