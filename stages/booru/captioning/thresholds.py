"""When a tagger's probability reaches a threshold: asked alike wherever tags are counted."""

from repro.params import USUAL_THRESHOLD

import numpy as np
from numpy.typing import ArrayLike


def reaches(probability: ArrayLike, threshold: ArrayLike) -> np.ndarray:
    """By element whether the probability is not below the threshold (bool), as float64, in which sd-scripts compared under
    numpy 1: probabilities of 32 bits are not what a threshold's decimals say."""
    return np.asarray(probability).astype(np.float64) >= np.asarray(threshold, dtype=np.float64)


def reaches_as_blocked(probability: ArrayLike, threshold: ArrayLike) -> np.ndarray:
    """As `reaches`, for tags that must not be trained on: they count from the taggers' usual threshold on, also where captions
    ask for more."""
    return reaches(probability, np.minimum(threshold, USUAL_THRESHOLD))
