"""Scores of pictures as rows of the annotations."""

from pathlib import Path

from repro.errors import StageError

import polars as pl
import torch

SCORE_SCHEMA = {"score": pl.Float32}


def score_rows(scores: torch.Tensor, folder: Path) -> list[tuple[float]]:
    """A row (score,) for each of the float32 scores [n] of the model in `folder`.

    Raises:
        StageError: one is not finite.
    """
    if not scores.isfinite().all():
        raise StageError(f"{folder}: the model gives scores that are not finite; fetch it again")
    return [(score,) for score in scores.tolist()]
