"""Write the picture folder: a sheet for every character, the grid, and the list of pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.outputs import write_text
from repro.pictures import save_png

from ccip.pictures import PictureJob
from ccip.results import MODELS, CharacterResult, pictures_csv
from ccip.sheets import GRID_NAME, CharacterPictures, ModelPictures, character_sheet, grid_sheet, sheet_name
from ccip.sources import PictureSource


def write_gallery(
    folder: Path,
    results: Sequence[CharacterResult],
    references: Sequence[PictureSource],
    jobs: Sequence[PictureJob],
    pictures: Sequence[PictureSource],
    side: int,
    grid_characters: int,
) -> None:
    """Write `<character>.png`, `grid.png` and `pictures.csv` into `folder`.

    Args:
        references: as many for each character, in the order of `results`; pictures: those of `jobs`;
            side: of a picture's cell, pixels.
        grid_characters: the grid's limit; of more characters it takes some evenly from best to worst.
    """
    in_grid = grid_choice(results, grid_characters)
    shown = []
    for character in _pictures_by_character(results, references, jobs, pictures):
        save_png(character_sheet(character, side), folder / sheet_name(character.name))
        if character.name in in_grid:
            shown.append(character)
    save_png(grid_sheet(shown, side), folder / f"{GRID_NAME}.png")
    write_text(folder / "pictures.csv", pictures_csv(jobs, results))


def grid_choice(results: Sequence[CharacterResult], limit: int) -> set[str]:
    """The characters of the grid: all, or `limit` of them evenly by rank of the merged model's score, so that
    no grid is picked by hand."""
    ranked = [r.reference.character for r in sorted(results, key=lambda r: (-r.scores["merged"].score, r.reference.character))]
    if len(ranked) <= limit:
        return set(ranked)
    return {ranked[i * (len(ranked) - 1) // max(limit - 1, 1)] for i in range(limit)}


def _pictures_by_character(
    results: Sequence[CharacterResult],
    references: Sequence[PictureSource],
    jobs: Sequence[PictureJob],
    pictures: Sequence[PictureSource],
) -> Iterator[CharacterPictures]:
    by_request: dict[tuple[str, str, bool], list[PictureSource]] = {}
    for job, source in zip(jobs, pictures, strict=True):
        by_request.setdefault((job.request.character, job.model, job.request.held_out), []).append(source)
    count = len(references) // len(results)
    for i, result in enumerate(results):
        name = result.reference.character
        yield CharacterPictures(
            name=name,
            references=[source.open() for source in references[i * count : (i + 1) * count]],
            models={
                model: ModelPictures(
                    score=result.scores[model].score,
                    taught=[source.open() for source in by_request[name, model, False]],
                    held_out_score=result.held_out[model].score if model in result.held_out else None,
                    held_out=[source.open() for source in by_request.get((name, model, True), ())],
                )
                for model in MODELS
            },
        )
