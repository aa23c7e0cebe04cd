"""What the report is made from: the other stages' reports, read and checked once.

Every reader raises StageError in one line that names the file, what is wrong with it and the stage
that writes it again.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from repro.errors import StageError, first_problem
from repro.hashing import MANIFEST_NAME, remembered_sha256, sha256_file

import polars as pl
from pydantic import BaseModel, TypeAdapter, ValidationError

from characters.references import read_references
from reporting.records import (
    AskedPicture,
    Bucket,
    Captions,
    CharacterRow,
    CharacterScores,
    Evaluation,
    EvaluationRun,
    Funnel,
    HashedFile,
    HistoryRow,
    Inputs,
    KeptFiles,
    Latents,
    ListedTag,
    MergeReport,
    Selection,
    TrainedFile,
    TrainSummary,
)

Model = TypeVar("Model", bound=BaseModel)
# The evaluation's picture grids: of characters evenly from the best to the worst, and the ends of the ranking.
GRID = "grid.png"
GRIDS = (GRID, "best.png", "worst.png", "changed.png")
SHEETS = "sheets"
TRAINING_SHEET = "sheet.png"
SCORE_COLUMNS = ["character", "series", "gender", "training_pictures", "model", "mode", "references", "upbound"]
FIGURE_COLUMNS = ["pictures", "score", "best_of_m", "top1", "rank"]
EVALUATION = "evaluate-CCIP"


def _text(path: Path, stage: str) -> str:
    if not path.is_file():
        raise StageError(f"{path}: no such file; the {stage} stage writes it")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise StageError(f"{path}: not UTF-8 text; run the {stage} stage again") from None


def _explained(path: Path, stage: str, error: ValidationError) -> StageError:
    return StageError(f"{path}: {first_problem(error)}; run the {stage} stage again")


def read_report(path: Path, model: type[Model], stage: str) -> Model:
    """A stage's JSON report.

    Raises:
        StageError: missing, not JSON, or a key missing or of another type.
    """
    try:
        return model.model_validate_json(_text(path, stage))
    except ValidationError as error:
        raise _explained(path, stage, error) from None


def read_counts(path: Path, stage: str) -> dict[str, int]:
    """{name: posts} of a tag list, in the file's order.

    Raises:
        StageError: missing, not JSON, not an object, or a value that is no entry of such a list.
    """
    try:
        entries = TypeAdapter(dict[str, ListedTag]).validate_json(_text(path, stage), strict=True)
        return {name: entry.posts for name, entry in entries.items()}
    except ValidationError as error:
        raise _explained(path, stage, error) from None


def _rows(path: Path, stage: str, columns: list[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(_text(path, stage), newline="")))
    missing = [name for name in columns if not rows or rows[0].get(name) is None]
    if missing:
        raise StageError(f"{path}: no column '{missing[0]}' or no rows; run the {stage} stage again")
    return rows


def read_history(path: Path) -> list[HistoryRow]:
    """The training history, in update order.

    Raises:
        StageError: missing, empty, a column missing or a cell that is no number.
    """
    rows = _rows(path, "train", ["update", "loss", "lr", "te_lr"])
    try:
        return [HistoryRow(int(r["update"]), float(r["loss"]), float(r["lr"]), float(r["te_lr"])) for r in rows]
    except (TypeError, ValueError) as error:
        raise StageError(f"{path}: {error}; run the train stage again") from None


def _scores_of(row: dict[str, str]) -> CharacterScores:
    pictures, *figures = (row[column] for column in FIGURE_COLUMNS)
    return CharacterScores(int(pictures), *map(float, figures))


def read_character_rows(
    path: Path, models: list[str], headline: str, core_tags: dict[str, tuple[str, ...]]
) -> list[CharacterRow]:
    """Characters with their scores by model and mode, best of the last model first, ties by name.

    Args:
        models: of whom each character must have a row in the mode `headline`.
        core_tags: by character; those without an entry have none.

    Raises:
        StageError: missing, a column missing, a cell that is no number, or a character without one of the models.
    """
    grouped: dict[str, list[dict[str, str]]] = {}
    for row in _rows(path, EVALUATION, SCORE_COLUMNS + FIGURE_COLUMNS):
        grouped.setdefault(row["character"], []).append(row)
    found = []
    for name, rows in grouped.items():
        try:
            scores = {(row["model"], row["mode"]): _scores_of(row) for row in rows}
            first = rows[0]
            found.append(
                CharacterRow(
                    name=name,
                    series=first["series"],
                    gender=first["gender"],
                    pictures=int(first["training_pictures"]),
                    references=int(first["references"]),
                    upbound=float(first["upbound"]),
                    scores=scores,
                    core_tags=core_tags.get(name, ()),
                )
            )
        except (TypeError, ValueError) as error:
            raise StageError(f"{path}: {name}: {error}; run the {EVALUATION} stage again") from None
        missing = [model for model in models if (model, headline) not in scores]
        if missing:
            raise StageError(f"{path}: '{name}' needs a row of {missing[0]} in mode {headline}; run the {EVALUATION} stage again")
    return sorted(found, key=lambda row: (-row.scores[models[-1], headline].score, row.name))


def read_latents(folder: Path) -> Latents:
    """Images by bucket, narrowest bucket first, and lost images by reason.

    Raises:
        StageError: an index is missing or has other columns.
    """
    for name in ("index.parquet", "lost.parquet"):
        if not (folder / name).is_file():
            raise StageError(f"{folder / name}: no such file; the cache-latents stage writes it")
    try:
        sizes = pl.read_parquet(folder / "index.parquet", columns=["bucket_width", "bucket_height"])
        lost = pl.read_parquet(folder / "lost.parquet", columns=["reason"])
    except pl.exceptions.PolarsError as error:
        raise StageError(f"{folder}: {str(error).splitlines()[0]}; run the cache-latents stage again") from None
    # A reason may go on after a colon with what the decoder said of this one image.
    lost = lost.select(pl.col("reason").str.split(":").list.first())
    counted = sizes.group_by("bucket_width", "bucket_height").len().sort("bucket_width", "bucket_height")
    reasons = lost.group_by("reason").len().sort("reason")
    return Latents([Bucket(*row) for row in counted.iter_rows()], dict(reasons.iter_rows()))


def _folder(path: Path, stage: str) -> Path:
    if not path.is_dir():
        raise StageError(f"{path}: no such folder; the {stage} stage writes it")
    return path


def read_plots(folder: Path) -> dict[str, Path]:
    """{file name: path} of the evaluation's plots, PNG and SVG, by name.

    Raises:
        StageError: no such folder.
    """
    return {path.name: path for path in sorted(_folder(folder, EVALUATION).iterdir()) if path.suffix in (".png", ".svg")}


def read_grids(folder: Path) -> dict[str, Path]:
    """{file name: path} of the evaluation's picture grids, in the order of GRIDS.

    Raises:
        StageError: no such folder, or the overview is missing.
    """
    found = {name: folder / name for name in GRIDS if (_folder(folder, EVALUATION) / name).is_file()}
    if GRID not in found:
        raise StageError(f"{folder / GRID}: no such file; the {EVALUATION} stage writes it")
    return found


def read_asked(path: Path, before: str, headline: str, character: str) -> tuple[list[AskedPicture], int]:
    """An example of each mode and template, of `character` where it has one and in `headline` first; and the number of pictures
    that each model drew.

    Raises:
        StageError: missing, a column missing, or no picture of the model `before`.
    """
    columns = ["model", "mode", "character", "template", "artist", "prompt"]
    rows = [row for row in _rows(path, "generate", columns) if row["model"] == before]
    if not rows:
        raise StageError(f"{path}: no picture of '{before}'; run the generate stage again")
    examples: dict[tuple[str, str], AskedPicture] = {}
    for row in sorted(rows, key=lambda row: (row["mode"] != headline, row["character"] != character)):
        picture = AskedPicture(**{column: row[column] for column in columns[1:]})
        examples.setdefault((picture.mode, picture.template), picture)
    return list(examples.values()), len(rows)


def read_trained(path: Path, merge: MergeReport) -> TrainedFile:
    """The trained weights, which must be those that the merge stage read.

    Raises:
        StageError: missing, or not the file of merge.json.
    """
    if not path.is_file():
        raise StageError(f"{path}: no such file; the train stage writes it")
    digest = remembered_sha256(path)
    if merge.inputs.sha256.get("trained", digest) != digest:
        raise StageError(f"{path}: not the weights that the merged model was made of; run the merge stage again")
    return TrainedFile(path.name, path.stat().st_size, digest)


@dataclass(frozen=True)
class Paths:
    """Where each input lies."""

    selection: Path
    funnel: Path
    captions: Path
    artists: Path
    characters: Path
    latents: Path
    history: Path
    train_metrics: Path
    training_pictures: Path
    trained: Path
    checkpoints: Path
    merge: Path
    model: Path
    references: Path
    pictures_list: Path
    ccip: Path
    ccip_characters: Path
    ccip_run: Path
    ccip_plots: Path
    pictures: Path


# The reports, lists and tables whose sha256 the card gives, by their names in Paths, and what they are.
HASHED = {
    "artists": "artists and how many captions name them",
    "characters": "characters and how many captions name them",
    "selection": "what was selected",
    "funnel": "what was kept",
    "captions": "what was captioned",
    "history": "loss and rates of each update",
    "train_metrics": "the training in figures",
    "merge": "the merge in figures",
    "references": "characters that are scored and their reference posts",
    "pictures_list": "pictures that the models drew, with prompts and seeds",
    "ccip": "the scores",
    "ccip_characters": "the scores of each character",
    "ccip_run": "what was scored",
}


def read_evaluation(paths: Paths) -> tuple[Evaluation, EvaluationRun]:
    """The evaluation's figures and what they are of.

    Raises:
        StageError: missing or malformed, fewer than two models, or figures or a table of another run.
    """
    run = read_report(paths.ccip_run, EvaluationRun, EVALUATION)
    evaluation = read_report(paths.ccip, Evaluation, EVALUATION)
    if set(run.models) != evaluation.models.keys():
        raise StageError(f"{paths.ccip}: other models than {paths.ccip_run.name} names; run the {EVALUATION} stage again")
    _text(paths.ccip_characters, EVALUATION)
    for path, digest in ((paths.ccip, run.ccip_json), (paths.ccip_characters, run.characters_csv)):
        if sha256_file(path) != digest:
            raise StageError(f"{path}: not the file that {paths.ccip_run.name} names; run the {EVALUATION} stage again")
    return evaluation, run


def hashed_files(paths: Paths, merge: MergeReport, trained: TrainedFile, checkpoints: dict[str, str]) -> list[HashedFile]:
    """The published files, then the reports behind them."""
    return [
        HashedFile(paths.model, "this model", merge.single_file.sha256),
        HashedFile(paths.trained, "the trained weights alone", trained.sha256),
        *(HashedFile(paths.checkpoints / name, "intermediate checkpoint", sha) for name, sha in sorted(checkpoints.items())),
        *(HashedFile(getattr(paths, name), words, sha256_file(getattr(paths, name))) for name, words in HASHED.items()),
    ]


def read_inputs(paths: Paths) -> Inputs:
    """Read and check every input.

    Raises:
        StageError: one is missing or not what its stage writes.
    """
    evaluation, run = read_evaluation(paths)
    merge = read_report(paths.merge, MergeReport, "merge")
    trained = read_trained(paths.trained, merge)
    if not paths.model.is_file() or paths.model.stat().st_size != merge.single_file.bytes:
        raise StageError(f"{paths.model}: not the file that {paths.merge.name} describes; run the merge stage again")
    core_tags = {one.character: one.core_tags for one in read_references(paths.references).characters}
    rows = read_character_rows(paths.ccip_characters, run.models, evaluation.headline, core_tags)
    examples, asked = read_asked(paths.pictures_list, run.models[0], evaluation.headline, rows[0].name)
    training_sheet = _folder(paths.training_pictures, "train") / TRAINING_SHEET
    grids = read_grids(paths.pictures)
    checkpoints = read_report(paths.checkpoints / MANIFEST_NAME, KeptFiles, "train").files
    return Inputs(
        selection=read_report(paths.selection, Selection, "select"),
        funnel=read_report(paths.funnel, Funnel, "filter"),
        captions=read_report(paths.captions, Captions, "caption"),
        artists=read_counts(paths.artists, "caption"),
        characters=read_counts(paths.characters, "caption"),
        latents=read_latents(paths.latents),
        history=read_history(paths.history),
        train=read_report(paths.train_metrics, TrainSummary, "train"),
        training_sheet=training_sheet if training_sheet.is_file() else None,
        checkpoints=checkpoints,
        trained=trained,
        merge=merge,
        evaluation=evaluation,
        run=run,
        rows=rows,
        examples=examples,
        asked=asked,
        plots=read_plots(paths.ccip_plots),
        grids=grids,
        sheets={unquote(path.stem): path for path in sorted((paths.pictures / SHEETS).glob("*.png"))},
        hashed=hashed_files(paths, merge, trained, checkpoints),
    )
