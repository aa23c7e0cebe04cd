"""Which characters people get to see, and their pictures: grids, and a sheet for every character in a grid."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from repro.pictures import save_png

from PIL import Image

from ccip.folders import GIVEN
from ccip.results import CharacterResult, Evaluation
from ccip.sheets import (
    ROW_PICTURES,
    ROW_REFERENCES,
    CharacterPictures,
    ScoredPictures,
    cell_size,
    character_sheet,
    ends,
    fit,
    overview_grid,
    rows_grid,
)  # fmt: skip
from characters.references import Reference

ReferenceOpener = Callable[[Reference], list[Image.Image]]
# By character, model and mode, in request order.
PictureOpener = Callable[[str, str, str], list[Image.Image]]

UNSAFE = '/\\:*?"<>|%'
# File systems take names of 255 bytes.
LONGEST_NAME = 200


def write_gallery(
    folder: Path, evaluation: Evaluation, references: ReferenceOpener, pictures: PictureOpener, side: int, each: int
) -> None:
    """Write grid.png, best.png, worst.png, changed.png (with one model: no changed.png) and sheets/<character>.png for
    every character of these grids into `folder`, which exists.

    Args:
        references, pictures: called for the characters shown only, one character at a time; there is a picture at least
            for each model and mode that the character has a score for, as many as it has picture scores.
        side: of a picture's cell, its longer one, pixels; each: characters in a grid of extremes, the overview has three
            times as many.
    """
    grids = grid_choices(evaluation, each)
    chosen = {result.reference.character for grid in grids.values() for result in grid}
    shown: dict[str, CharacterPictures] = {}
    size: tuple[int, int] | None = None
    for result in evaluation.results:
        if result.reference.character not in chosen:
            continue
        if size is None:
            first = pictures(result.reference.character, evaluation.models[-1], evaluation.headline)[0]
            size = cell_size(first, side)
        character = _loaded(result, evaluation, references, pictures, size)
        save_png(character_sheet(character), folder / "sheets" / sheet_name(character.name))
        shown[character.name] = _without_rest(character)
    for name, grid in grids.items():
        layout = overview_grid if name == "grid" else rows_grid
        characters = [shown[result.reference.character] for result in grid]
        save_png(layout(characters, _caption(name, evaluation, len(grid))), folder / f"{name}.png")


def grid_choices(evaluation: Evaluation, each: int) -> dict[str, list[CharacterResult]]:
    """The characters of each grid, in its order, chosen by the headline score and never by hand: `grid` 3 * each evenly
    from the last model's best to its worst, `best` and `worst` its ends, `changed` those whose score differs most from
    the first model's. Equal ones go by tag."""
    first, last = ((model, evaluation.headline) for model in (evaluation.models[0], evaluation.models[-1]))

    def ranked(key: Callable[[CharacterResult], float]) -> list[CharacterResult]:
        return sorted(evaluation.results, key=lambda result: (key(result), result.reference.character))

    from_best = ranked(lambda result: -result.scores[last].score)
    grids = {
        "grid": evenly_chosen(from_best, 3 * each),
        "best": from_best[:each],
        "worst": ranked(lambda result: result.scores[last].score)[:each],
    }
    if len(evaluation.models) > 1:
        grids["changed"] = ranked(lambda result: -abs(result.scores[last].score - result.scores[first].score))[:each]
    return grids


def evenly_chosen(items: Sequence[CharacterResult], limit: int) -> list[CharacterResult]:
    """All, or `limit` of them evenly from the first to the last."""
    if len(items) <= limit:
        return list(items)
    return [items[i * (len(items) - 1) // max(limit - 1, 1)] for i in range(limit)]


def sheet_name(character: str) -> str:
    """File name of a character's sheet: its tag, with what file systems refuse written as %XX; a very long one is cut, and
    told apart by the start of its sha256."""
    safe = "".join(f"%{ord(c):02X}" if c in UNSAFE or c < " " else c for c in character)
    if safe.startswith("."):
        safe = f"%2E{safe[1:]}"
    raw = safe.encode(errors="surrogateescape")
    if len(raw) > LONGEST_NAME:
        digest = hashlib.sha256(character.encode(errors="surrogateescape")).hexdigest()[:16]
        safe = f"{raw[:LONGEST_NAME].decode(errors='ignore')}%~{digest}"
    return f"{safe}.png"


def _loaded(
    result: CharacterResult, evaluation: Evaluation, references: ReferenceOpener, pictures: PictureOpener, size: tuple[int, int]
) -> CharacterPictures:
    name = result.reference.character
    modes: dict[str, dict[str, ScoredPictures]] = {}
    for mode in evaluation.modes:
        for model in evaluation.models:
            if (model, mode) in result.scores:
                score = result.scores[model, mode]
                cells = [fit(picture, size) for picture in pictures(name, model, mode)]
                modes.setdefault(mode, {})[model] = ScoredPictures(score.score, score.picture_scores, cells)
    cells = [fit(picture, size) for picture in references(result.reference)]
    return CharacterPictures(name, cells, modes, _details(result))


def _details(result: CharacterResult) -> str:
    reference = result.reference
    parts = [
        f"series: {reference.series}" if reference.series else "",
        f"{reference.training_pictures:,} training pictures" if reference.training_pictures else "",
        f"upper bound of the score {result.upbound:.2f}",
    ]
    return "   ".join(part for part in parts if part)


def _without_rest(character: CharacterPictures) -> CharacterPictures:
    """What the grids show: a thousand sheets' pictures would not fit into memory."""
    mode, models = next(iter(character.modes.items()))
    kept = {
        model: ScoredPictures(
            models[model].score, models[model].picture_scores[:ROW_PICTURES], models[model].pictures[:ROW_PICTURES]
        )
        for model in ends(models)
    }
    return CharacterPictures(character.name, character.references[:ROW_REFERENCES], {mode: kept})


def _caption(grid: str, evaluation: Evaluation, shown: int) -> str:
    first, last = evaluation.models[0], evaluation.models[-1]
    alike = "" if evaluation.headline == GIVEN else "; every model: same prompt, same seed"
    scores = f"CCIP scores {f'{first} → {last}' if first != last else f'of {last}'}{alike}."
    of = f"{shown:,} of {len(evaluation.results):,} characters"
    words = {
        "grid": f"{of}, evenly from {last}'s best score to its worst" if shown < len(evaluation.results) else
        f"All {shown:,} characters, from {last}'s best score to its worst",
        "best": f"{of}: the highest scores of {last}. Below each picture its own score",
        "worst": f"{of}: the lowest scores of {last}. Below each picture its own score",
        "changed": f"{of}: the largest changes from {first} to {last}. Below each picture its own score",
    }  # fmt: skip
    return f"{words[grid]}. {scores}"
