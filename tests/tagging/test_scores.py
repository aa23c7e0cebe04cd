"""Scores as rows, and those that are none."""

from pathlib import Path

import pytest
import torch

from tagging.scores import score_rows
from tagging.unusable import UnusableAnswerError


def test_scores_are_rows() -> None:
    assert score_rows(torch.tensor([0.0, 0.5, 1.0]), Path("models/a")) == [(0.0,), (0.5,), (1.0,)]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.01, 1.01])
def test_what_is_no_score_is_told_by_the_pictures_place(score: float) -> None:
    with pytest.raises(
        UnusableAnswerError, match=r"^models/a: its answers are not numbers from 0 to 1; fetch it again$"
    ) as caught:
        score_rows(torch.tensor([0.5, 0.1, score, score]), Path("models/a"))
    assert caught.value.place == 2
