"""Scores of pictures as rows of the annotations."""

from pathlib import Path

import polars as pl
import torch

from tagging.unusable import refuse_unusable

SCORE_SCHEMA = {"score": pl.Float32}


def score_rows(scores: torch.Tensor, folder: Path) -> list[tuple[float]]:
    """A row (score,) for each of the float32 scores [n] of the model in `folder`.

    Raises:
        UnusableAnswerError: one is not in 0..1.
    """
    refuse_unusable(scores.cpu().numpy(), folder, "fetch it again")
    return [(score,) for score in scores.tolist()]
