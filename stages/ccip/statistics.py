"""From scores of characters to figures of models: means, bootstrap intervals, win/tie/loss, rank correlation.

Sums are exactly rounded (math.fsum), so the order of their terms does not reach the bits. The bootstrap (Efron 1979)
resamples characters, and all models together, since all were asked for the same pictures.
"""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.randomness import seed_for

import numpy as np

TAIL = 0.025
GOOD_SCORES = (0.5, 0.9)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def drawn_rows(rows: int, seed: int, sample: int) -> np.ndarray:
    """`rows` row numbers, drawn with replacement for one resample: int64 [rows].

    SHAKE-128 (FIPS 202) of the key gives 64 bits a draw; that the remainder prefers the first rows by less than
    rows / 2**64 is far below what a resample can show.
    """
    key = seed_for(seed, "evaluate bootstrap", sample).to_bytes(8, "big")
    words = np.frombuffer(hashlib.shake_128(key).digest(8 * rows), dtype="<u8")
    return (words % np.uint64(rows)).astype(np.int64)


def bootstrap_intervals(columns: Mapping[str, Sequence[float]], samples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the columns' means, each from the same `samples` resamples of the rows.

    With the means of n resamples in order and cut = floor(0.025 n), the ends are the (cut + 1)-th smallest and the
    (cut + 1)-th largest.

    Args:
        columns: equally long lists, one value a character.
    """
    arrays = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    rows = len(next(iter(arrays.values())))
    means: dict[str, list[float]] = {name: [] for name in arrays}
    for sample in range(samples):
        drawn = drawn_rows(rows, seed, sample)
        for name, values in arrays.items():
            means[name].append(math.fsum(values[drawn].tolist()) / rows)
    cut = int(TAIL * samples)
    return {name: (ordered[cut], ordered[-1 - cut]) for name, ordered in ((n, sorted(m)) for n, m in means.items())}


@dataclass(frozen=True)
class Spread:
    """A model's scores over the characters; `above[x]` counts characters with a score over x."""

    mean: float
    median: float
    ci95: tuple[float, float]
    above: dict[float, int]


@dataclass(frozen=True)
class Difference:
    """One model against another, character by character: score after less score before."""

    mean: float
    ci95: tuple[float, float]
    wins: int
    ties: int
    losses: int


def spreads_and_differences(
    scores: Mapping[str, Sequence[float]], samples: int, seed: int
) -> tuple[dict[str, Spread], dict[str, Difference]]:
    """Each model's spread, and the paired difference of each but the first from the first, from one score a character."""
    first = next(iter(scores))
    changes = {
        name: [after - before for before, after in zip(scores[first], values, strict=True)]
        for name, values in scores.items()
        if name != first
    }
    columns = {("score", name): values for name, values in scores.items()}
    columns |= {("change", name): values for name, values in changes.items()}
    intervals = bootstrap_intervals(columns, samples, seed)
    spreads = {
        name: Spread(
            mean=mean(values),
            median=median(values),
            ci95=intervals["score", name],
            above={limit: sum(score > limit for score in values) for limit in GOOD_SCORES},
        )
        for name, values in scores.items()
    }
    differences = {
        name: Difference(
            mean=mean(steps),
            ci95=intervals["change", name],
            wins=sum(step > 0 for step in steps),
            ties=sum(step == 0 for step in steps),
            losses=sum(step < 0 for step in steps),
        )
        for name, steps in changes.items()
    }
    return spreads, differences


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Spearman's rank correlation in -1..1, equal values sharing their mean rank; None where one side is constant.

    Sums are of whole numbers (doubled ranks), so that no order reaches the bits.
    """
    x, y = _doubled_ranks(xs), _doubled_ranks(ys)
    n = len(x)
    covariance = n * sum(a * b for a, b in zip(x, y, strict=True)) - sum(x) * sum(y)
    x_variance, y_variance = (n * sum(a * a for a in ranks) - sum(ranks) ** 2 for ranks in (x, y))
    if not x_variance or not y_variance:
        return None
    return max(-1.0, min(1.0, covariance / (math.sqrt(x_variance) * math.sqrt(y_variance))))


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank from 1 of each value; the ranks of equal values are their mean."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    return [first[value] + last[value] + 2 for value in values]
