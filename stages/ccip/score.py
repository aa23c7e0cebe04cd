"""The CCIP score: the share of (reference, generated) picture pairs that show the same character.

Definition: deepghs/sdeval, `CCIPMetrics.score` (revision d66c5db): a pair counts where the
difference lies strictly below the threshold. Upper bound: the `upbound` of deepghs/cyberharem's
evaluation, the share of references within the threshold (inclusive) of their own merged feature.
Differences are those of CCIP's metrics network, clip((1 - cosine) / 2, 0, 1), computed here in
float64 from the features: the network's float32 answer for one pair changes in its last bits with
the shape of the call (dghs-imgutils 0.19.0), and a threshold turns last bits into counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repro.errors import StageError

import numpy as np

# Pairs this near to the threshold may fall on its other side on another CPU when the encoder computes in float32.
BORDERLINE = 1e-5


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """Features [n, dims] of any float type -> float64 vectors of length 1."""
    wide = np.asarray(features, dtype=np.float64)
    return wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))


def unit_differences(unit: np.ndarray, others: np.ndarray) -> np.ndarray:
    """CCIP differences, float64 [n], of one unit vector [dims] and many [n, dims].

    Row by row instead of a matrix product, so that a pair has the same bits in every call.
    """
    return np.clip((1.0 - (others * unit).sum(axis=1)) / 2.0, 0.0, 1.0)


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """CCIP differences, float64 [len(a), len(b)] in 0..1, of features [n, dims]; a pair has the same bits in every call."""
    b_units = unit_vectors(b)
    return np.stack([unit_differences(unit, b_units) for unit in unit_vectors(a)])


def merged_feature(features: np.ndarray) -> np.ndarray:
    """One feature for many pictures of a character, float64 [dims]: the mean direction with the mean
    length (`ccip_merge` of dghs-imgutils 0.19.0). The rows' order does not reach the bits."""
    lengths = np.sqrt((np.asarray(features, dtype=np.float64) ** 2).sum(axis=1))
    direction = np.array([math.fsum(column) for column in unit_vectors(features).T.tolist()])
    return direction / math.sqrt(math.fsum(direction * direction)) * (math.fsum(lengths) / len(lengths))


@dataclass(frozen=True)
class BorderlinePair:
    """A pair within `BORDERLINE` of the threshold; picture and reference count from 0 within their character's."""

    picture: int
    reference: int
    difference: float


@dataclass(frozen=True)
class CharacterScore:
    """How well one model's pictures show one character.

    score: share of (reference, picture) pairs below the threshold; picture_scores: the same share for
    each picture; picture_diffs: each picture's mean difference to the references; best_of_m: the highest of the shares;
    ccip_diff, cosine: means over all pairs; rank: mean place of the character among all characters, by the difference of a
    picture to their merged features (1: the nearest); top1: share of the pictures to which it is the nearest, alone;
    diversity: mean difference between the pictures themselves, None for one picture; borderline: pairs near the threshold.
    """

    score: float
    picture_scores: tuple[float, ...]
    picture_diffs: tuple[float, ...]
    best_of_m: float
    ccip_diff: float
    cosine: float
    top1: float
    rank: float
    diversity: float | None
    borderline: tuple[BorderlinePair, ...]


def score_character(references: np.ndarray, generated: np.ndarray, threshold: float, ranks: Sequence[float]) -> CharacterScore:
    """Score generated pictures [M, dims] of one character against its references [K, dims].

    Args:
        ranks: the character's place among all characters for each picture (`ccip.nearest.own_ranks`).
    """
    d = differences(references, generated)
    same = d < threshold
    mean_difference = math.fsum(d.flat) / d.size
    near = np.argwhere(np.abs(d - threshold).T < BORDERLINE).tolist()
    return CharacterScore(
        score=int(same.sum()) / same.size,
        picture_scores=tuple(int(column.sum()) / len(column) for column in same.T),
        picture_diffs=tuple(math.fsum(column) / len(column) for column in d.T),
        best_of_m=max(int(column.sum()) for column in same.T) / len(references),
        ccip_diff=mean_difference,
        cosine=1.0 - 2.0 * mean_difference,
        top1=sum(rank == 1 for rank in ranks) / len(ranks),
        rank=math.fsum(ranks) / len(ranks),
        diversity=mean_pair_difference(generated),
        borderline=tuple(BorderlinePair(picture, k, float(d[k, picture])) for picture, k in near),
    )


def mean_pair_difference(features: np.ndarray) -> float | None:
    """Mean difference between two pictures of a set [M, dims]; None for one picture."""
    if len(features) < 2:
        return None
    pairs = differences(features, features)[np.triu_indices(len(features), k=1)]
    return math.fsum(pairs) / len(pairs)


def upper_bound(references: np.ndarray, threshold: float) -> float:
    """Share of a character's references within the threshold of their own merged feature."""
    d = differences(merged_feature(references)[np.newaxis], references)[0]
    return int((d <= threshold).sum()) / len(d)


def self_score(references: np.ndarray, threshold: float) -> float | None:
    """The score that the references reach against each other, each left out in turn; None for one reference."""
    count = len(references)
    if count < 2:
        return None
    below = differences(references, references) < threshold
    return int(below.sum() - np.diagonal(below).sum()) / (count * (count - 1))


def check_features(features: np.ndarray, name: str) -> None:
    """Refuse features that no angle can be measured with.

    Raises:
        StageError: not finite, or all zero.
    """
    if not np.isfinite(features).all() or not features.any():
        raise StageError(
            f"{name}: the CCIP encoder gave no usable features (not finite, or all zero); is the model folder whole?"
        )
