"""What the report is made from: the other stages' reports, read and checked once.

Every reader raises StageError in one line that names the file, what is wrong with it and the stage
that writes it again.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from repro.errors import StageError
from repro.hashing import hash_tree, sha256_file, sha256_json

import polars as pl
from pydantic import BaseModel, TypeAdapter, ValidationError

from reporting.records import (
    Bucket,
    CharacterRow,
    Evaluation,
    Funnel,
    HistoryRow,
    Inputs,
    Latents,
    ListedTag,
    MergeReport,
    TrainSummary,
)

Model = TypeVar("Model", bound=BaseModel)
GRID = "grid.png"


def _text(path: Path, stage: str) -> str:
    if not path.is_file():
        raise StageError(f"{path}: no such file; the {stage} stage writes it")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise StageError(f"{path}: not UTF-8 text; run the {stage} stage again") from None


def _explained(path: Path, stage: str, error: ValidationError) -> StageError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return StageError(f"{path}: {where + ': ' if where else ''}{first['msg']}; run the {stage} stage again")


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
    rows = list(csv.DictReader(_text(path, stage).splitlines()))
    missing = [name for name in columns if not rows or rows[0].get(name) is None]
    if missing:
        raise StageError(f"{path}: no column '{missing[0]}' or no rows; run the {stage} stage again")
    return rows


def read_history(path: Path) -> list[HistoryRow]:
    """The training history, in update order.

    Raises:
        StageError: missing, empty, a column missing or a cell that is no number.
    """
    rows = _rows(path, "train", ["update", "loss", "lr", "te_lr", "grad_norm"])
    try:
        return [
            HistoryRow(int(r["update"]), float(r["loss"]), float(r["lr"]), float(r["te_lr"]), float(r["grad_norm"])) for r in rows
        ]
    except (TypeError, ValueError) as error:
        raise StageError(f"{path}: {error}; run the train stage again") from None


def read_character_rows(path: Path, trained: dict[str, int]) -> list[CharacterRow]:
    """Characters with both models' scores, best of the merged model first, ties by name.

    Args:
        trained: number of training captions by character tag.

    Raises:
        StageError: missing, a column missing, a cell that is no number, or a character without one of the models.
    """
    columns = ["character", "series", "model", "score", "top1", "upbound", "held_out_score"]
    models: dict[str, dict[str, dict[str, str]]] = {}
    for row in _rows(path, "evaluate-CCIP", columns):
        models.setdefault(row["character"], {})[row["model"]] = row
    found = []
    for name, by_model in models.items():
        if not {"base", "merged"} <= by_model.keys():
            raise StageError(f"{path}: '{name}' needs a row for base and one for merged; run the evaluate-CCIP stage again")
        base, merged = by_model["base"], by_model["merged"]
        try:
            found.append(
                CharacterRow(
                    name=name,
                    series=merged["series"],
                    pictures=trained.get(name, 0),
                    base=float(base["score"]),
                    merged=float(merged["score"]),
                    top1=float(merged["top1"]),
                    upbound=float(merged["upbound"]),
                    held_out=float(merged["held_out_score"]) if merged["held_out_score"] else None,
                )
            )
        except (TypeError, ValueError) as error:
            raise StageError(f"{path}: {name}: {error}; run the evaluate-CCIP stage again") from None
    return sorted(found, key=lambda row: (-row.merged, row.name))


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


def pictures_in(folder: Path, stage: str = "evaluate-CCIP") -> dict[str, Path]:
    """{file name: path} of a folder's PNGs, by name.

    Raises:
        StageError: no such folder.
    """
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder; the {stage} stage writes it")
    return {path.name: path for path in sorted(folder.glob("*.png"))}


def first_prompt(path: Path, character: str) -> str:
    """The prompt of a character's first picture, from the evaluation's list of pictures.

    Raises:
        StageError: missing, a column missing, or no picture of this character.
    """
    for row in _rows(path, "evaluate-CCIP", ["character", "prompt"]):
        if row["character"] == character:
            return row["prompt"]
    raise StageError(f"{path}: no picture of '{character}'; run the evaluate-CCIP stage again")


def digest_of(path: Path) -> str:
    """sha256 of a file; of a folder, sha256 of the canonical JSON of its files' names and sha256.

    Raises:
        StageError: neither file nor folder.
    """
    if path.is_dir():
        return sha256_json(hash_tree(path))
    if not path.is_file():
        raise StageError(f"{path}: no such file or folder; the card lists its sha256")
    return sha256_file(path)


@dataclass(frozen=True)
class Paths:
    """Where each input lies; `hashed` are further files and folders whose sha256 the report lists."""

    funnel: Path
    artists: Path
    characters: Path
    latents: Path
    history: Path
    train_metrics: Path
    merge: Path
    ccip: Path
    ccip_characters: Path
    ccip_plots: Path
    pictures: Path
    hashed: tuple[Path, ...]

    @property
    def reports(self) -> tuple[Path, ...]:
        """The inputs that are single files."""
        return (
            self.funnel, self.artists, self.characters, self.history, self.train_metrics, self.merge, self.ccip,
            self.ccip_characters,
        )  # fmt: skip


def read_inputs(paths: Paths) -> Inputs:
    """Read and check every input.

    Raises:
        StageError: one is missing or not what its stage writes.
    """
    characters = read_counts(paths.characters, "caption")
    rows = read_character_rows(paths.ccip_characters, characters)
    sheets = pictures_in(paths.pictures)
    if GRID not in sheets:
        raise StageError(f"{paths.pictures / GRID}: no such file; the evaluate-CCIP stage writes it")
    return Inputs(
        funnel=read_report(paths.funnel, Funnel, "filter"),
        artists=read_counts(paths.artists, "caption"),
        characters=characters,
        latents=read_latents(paths.latents),
        history=read_history(paths.history),
        train=read_report(paths.train_metrics, TrainSummary, "train"),
        merge=read_report(paths.merge, MergeReport, "merge"),
        evaluation=read_report(paths.ccip, Evaluation, "evaluate-CCIP"),
        rows=rows,
        plots=pictures_in(paths.ccip_plots),
        grid=sheets.pop(GRID),
        sheets={unquote(Path(name).stem): path for name, path in sheets.items()},
        example_prompt=first_prompt(paths.pictures / "pictures.csv", rows[0].name),
        digests={path.name: digest_of(path) for path in (*paths.reports, *paths.hashed)},
    )
