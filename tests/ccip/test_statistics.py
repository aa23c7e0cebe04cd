"""Figures over characters: exact sums, paired resampling, counts."""

from repro.randomness import Stream

import pytest

from ccip.statistics import bootstrap_intervals, mean, median, spread_and_comparison


def scores(purpose: str, n: int) -> list[float]:
    stream = Stream(3, purpose)
    return [stream.below(33) / 32 for _ in range(n)]


def test_mean_and_median_are_exact_and_order_free():
    values = [0.1] * 10 + [1e16, -1e16]
    assert mean(values) == mean(values[::-1]) == 1.0 / 12
    assert median([0.25, 0.75, 0.5]) == 0.5
    assert median([0.25, 0.75]) == 0.5


def test_interval_is_keyed_by_the_seed():
    columns = {"a": scores("a", 15)}
    assert bootstrap_intervals(columns, 200, 7) == bootstrap_intervals(columns, 200, 7)
    assert bootstrap_intervals(columns, 200, 7) != bootstrap_intervals(columns, 200, 8)


def test_interval_has_its_known_width():
    """For 100 values the bootstrap agrees with the normal interval, mean +- 1.96 s / sqrt(n)."""
    values = scores("wide", 100)
    centre = mean(values)
    half = 1.96 * (mean([(v - centre) ** 2 for v in values]) / 100) ** 0.5
    low, high = bootstrap_intervals({"a": values}, 2000, 1)["a"]
    assert low == pytest.approx(centre - half, abs=0.2 * half)
    assert high == pytest.approx(centre + half, abs=0.2 * half)


def test_models_are_resampled_together():
    """A constant gain has an interval of no width, however the characters differ."""
    base = scores("paired", 20)
    _, comparison = spread_and_comparison(base, [score + 0.25 for score in base], 500, 1)
    assert comparison.ci95[0] == pytest.approx(0.25)
    assert comparison.ci95[1] == pytest.approx(0.25)
    assert (comparison.mean, comparison.wins, comparison.ties, comparison.losses) == (pytest.approx(0.25), 20, 0, 0)


def test_wins_ties_losses_and_counts():
    spreads, comparison = spread_and_comparison([0.0, 0.5, 0.5, 0.9], [1.0, 0.5, 0.25, 0.95], 100, 1)
    assert (comparison.wins, comparison.ties, comparison.losses) == (2, 1, 1)
    assert spreads["base"].above == {0.5: 1, 0.9: 0}
    assert spreads["merged"].above == {0.5: 2, 0.9: 2}


def test_one_character():
    spreads, comparison = spread_and_comparison([0.25], [0.75], 10, 1)
    assert comparison.ci95 == (0.5, 0.5)
    assert spreads["merged"].ci95 == (0.75, 0.75)
