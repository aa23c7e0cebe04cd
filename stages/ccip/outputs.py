"""The outputs of an evaluation, written into one folder beside what else stands there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import hash_tree, refuse_foreign_folder, sha256_file, sha256_json, write_manifest
from repro.outputs import whole_folder, write_json, write_text

from PIL import Image

from ccip.encoder import CcipEncoder
from ccip.gallery import write_gallery
from ccip.histogram import difference_histogram
from ccip.pictured import PicturedCharacter, reference_digests
from ccip.plots import write_plots
from ccip.results import CharacterFeatures, Evaluation
from ccip.sheets import cell_side
from ccip.summary import borderline_csv, characters_csv, run_record, summary
from characters.references import Reference

REPORT, CHARACTERS, BORDERLINE, RECORD = "ccip.json", "ccip_characters.csv", "ccip_borderline.csv", "ccip_run.json"
PLOTS, PICTURES = "ccip", "pictures"
# The folders of an evaluation, and a file that each of them always has.
FOLDERS = {PLOTS: "rank.csv", PICTURES: "grid.png"}


@dataclass(frozen=True)
class Scored:
    """An evaluation with what it was made of.

    characters, features: by tag, as the evaluation's results; trained: see `summary`; requests_sha256: see `run_record`.
    """

    evaluation: Evaluation
    characters: Sequence[PicturedCharacter]
    features: Sequence[CharacterFeatures]
    encoder: CcipEncoder
    trained: int | None
    requests_sha256: str | None


def check_output_folders(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse, before the long part, to replace folders that no evaluation wrote, and to write over or into an input.

    Raises:
        StageError: one of the two folders in `out` holds something else, or is, holds or lies in one of `inputs`.
    """
    for name, mark in FOLDERS.items():
        folder = out / name
        for path in inputs:
            own, other = folder.resolve(), path.resolve()
            if own.is_relative_to(other) or other.is_relative_to(own):
                raise StageError(f"--out {out}: {folder} would be written over or into the input {path}; choose another folder")
        refuse_foreign_folder(folder)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
            raise StageError(
                f"{folder}: it is there, and no {mark} in it says that an evaluation wrote it; it would be replaced: choose"
                " another folder, or empty this one"
            )


def write_outputs(out: Path, scored: Scored, samples: int, seed: int, grid_characters: int) -> dict[str, Any]:
    """Write every output, each whole, the record that names the others last; returns the report's content.

    Args:
        samples, seed: of the bootstrap; grid_characters: of the best, worst and most changed each.
    """
    evaluation = scored.evaluation
    content = summary(evaluation, samples, seed, scored.trained)
    _write_plots(out / PLOTS, scored)
    _write_pictures(out / PICTURES, scored, grid_characters)
    write_text(out / BORDERLINE, borderline_csv(evaluation, scored.characters))
    write_text(out / CHARACTERS, characters_csv(evaluation))
    write_json(out / REPORT, content)
    record = run_record(
        evaluation,
        scored.encoder.digests,
        reference_digests(scored.characters),
        scored.requests_sha256,
        sha256_file(out / REPORT),
        sha256_file(out / CHARACTERS),
    )
    write_json(out / RECORD, record)
    return content


def _write_plots(folder: Path, scored: Scored) -> None:
    evaluation = scored.evaluation
    pictures = {
        model: [features.pictures[model, evaluation.headline] for features in scored.features] for model in evaluation.models
    }
    histogram = difference_histogram([features.references for features in scored.features], pictures)
    with whole_folder(folder) as temporary:
        write_plots(temporary, evaluation, histogram)
        write_manifest(temporary, sha256_json(hash_tree(temporary)))


def _write_pictures(folder: Path, scored: Scored, grid_characters: int) -> None:
    by_name = {character.reference.character: character for character in scored.characters}

    def references(reference: Reference) -> list[Image.Image]:
        return [source.open() for source in by_name[reference.character].references]

    def pictures(character: str, model: str, mode: str) -> list[Image.Image]:
        return [source.open() for source in by_name[character].pictures[model, mode].sources]

    evaluation = scored.evaluation
    first = scored.characters[0].pictures[evaluation.models[0], evaluation.headline].sources[0]
    side = cell_side(*first.open().size)
    with whole_folder(folder) as temporary:
        write_gallery(temporary, evaluation, references, pictures, side, grid_characters)
        write_manifest(temporary, sha256_json(hash_tree(temporary)))
