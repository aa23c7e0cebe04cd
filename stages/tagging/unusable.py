"""Answers that no picture can have: told by the picture's place, so that whoever knows its name can tell that."""

from repro.errors import StageError

import numpy as np


class UnusableAnswerError(StageError):
    """The answer to one of the pictures that a model was given is unusable; `place` is the picture's, from 0."""

    def __init__(self, place: int, reason: str):
        super().__init__(reason)
        self.place, self.reason = place, reason


def refuse_unusable(answers: np.ndarray, source: object, remedy: str) -> None:
    """Raises:
    UnusableAnswerError: a number of `answers` [pictures, ...], of the model in `source`, is not in 0..1."""
    usable = ((answers >= 0) & (answers <= 1)).reshape(len(answers), -1).all(axis=1)
    if not usable.all():
        raise UnusableAnswerError(int(np.argmin(usable)), f"{source}: its answers are not numbers from 0 to 1; {remedy}")
