"""From scores of characters to figures of models: means, bootstrap intervals, win/tie/loss.

Sums are exactly rounded (math.fsum), so the order of characters does not reach the bits. The
bootstrap (Efron 1979; percentile interval) resamples characters; base and merged model are
resampled together, since both were asked for the same pictures.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.randomness import Stream

TAIL = 0.025
GOOD_SCORES = (0.5, 0.9)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def bootstrap_intervals(columns: Mapping[str, Sequence[float]], samples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of the columns' means, each from the same `samples` resamples of the rows.

    Args:
        columns: equally long lists, one value a character.
    """
    rows = len(next(iter(columns.values())))
    means: dict[str, list[float]] = {name: [] for name in columns}
    for sample in range(samples):
        stream = Stream(seed, "evaluate bootstrap", sample)
        drawn = [stream.below(rows) for _ in range(rows)]
        for name, values in columns.items():
            means[name].append(math.fsum(values[row] for row in drawn) / rows)
    cut = int(TAIL * samples)
    return {name: (ordered[cut], ordered[-1 - cut]) for name, ordered in ((n, sorted(m)) for n, m in means.items())}


@dataclass(frozen=True)
class Comparison:
    """Merged model against base, character by character."""

    mean: float
    ci95: tuple[float, float]
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Spread:
    """A model's scores over the characters; `above[x]` counts characters with a score over x."""

    mean: float
    median: float
    ci95: tuple[float, float]
    above: dict[float, int]


def spread_and_comparison(
    base: Sequence[float], merged: Sequence[float], samples: int, seed: int
) -> tuple[dict[str, Spread], Comparison]:
    """Both models' spreads and their paired comparison, from one score a character and model."""
    change = [after - before for before, after in zip(base, merged, strict=True)]
    columns = {"base": base, "merged": merged, "difference": change}
    intervals = bootstrap_intervals(columns, samples, seed)
    spreads = {
        name: Spread(
            mean=mean(columns[name]),
            median=median(columns[name]),
            ci95=intervals[name],
            above={limit: sum(score > limit for score in columns[name]) for limit in GOOD_SCORES},
        )
        for name in ("base", "merged")
    }
    comparison = Comparison(
        mean=mean(change),
        ci95=intervals["difference"],
        wins=sum(step > 0 for step in change),
        ties=sum(step == 0 for step in change),
        losses=sum(step < 0 for step in change),
    )
    return spreads, comparison
