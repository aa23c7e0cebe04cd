"""Figures over characters: exact sums, paired resampling, counts."""

import math
from fractions import Fraction
from hashlib import sha256

from repro.randomness import Stream

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccip.statistics import bootstrap_intervals, drawn_rows, mean, median, spearman, spreads_and_differences

DRAWS = [0, 2, 1, 7, 6, 8, 0, 5, 7, 9]
DRAWS_SHA256 = "0c8496531bf8eefe040f2e0cf02fb93125c47bfc3de69f2309f832e90f509f3a"


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


def test_draws_are_what_they_were():
    """The draws are part of the result's bits: another algorithm would change every interval."""
    assert drawn_rows(10, 1, 0).tolist() == DRAWS
    assert sha256(drawn_rows(3600, 2, 1999).tobytes()).hexdigest() == DRAWS_SHA256


def test_draws_are_even():
    counts = [0] * 7
    for sample in range(400):
        for row in drawn_rows(7, 5, sample).tolist():
            counts[row] += 1
    chi_square = sum((count - 400) ** 2 / 400 for count in counts)
    assert chi_square < 22.5, "0.1 % of even draws of 7 rows are further off"


def test_ends_of_the_interval():
    """Of 100 resamples the third smallest and the third largest mean."""
    values = [2.0**row for row in range(9)]
    means = sorted(mean([values[row] for row in drawn_rows(9, 4, sample)]) for sample in range(100))
    assert len(set(means)) > 90
    assert bootstrap_intervals({"a": values}, 100, 4)["a"] == (means[2], means[-3])


def test_models_are_resampled_together():
    """A constant gain has an interval of no width, however the characters differ."""
    base = scores("paired", 20)
    _, differences = spreads_and_differences({"base": base, "merged": [score + 0.25 for score in base]}, 500, 1)
    gain = differences["merged"]
    assert gain.ci95 == (0.25, 0.25)
    assert (gain.mean, gain.wins, gain.ties, gain.losses) == (0.25, 20, 0, 0)


def test_every_model_is_compared_with_the_first():
    columns = {"base": [0.0, 0.5, 0.5, 0.9], "half": [0.0, 0.5, 0.5, 0.9], "merged": [1.0, 0.5, 0.25, 0.95]}
    spreads, differences = spreads_and_differences(columns, 100, 1)
    assert list(differences) == ["half", "merged"]
    assert [(d.wins, d.ties, d.losses) for d in differences.values()] == [(0, 4, 0), (2, 1, 1)]
    assert spreads["base"].above == {0.5: 1, 0.9: 0}
    assert spreads["merged"].above == {0.5: 2, 0.9: 2}


def test_another_model_beside_them_changes_no_figure():
    columns = {name: scores(name, 12) for name in ("base", "half", "merged")}
    three = spreads_and_differences(columns, 100, 1)
    two = spreads_and_differences({name: columns[name] for name in ("base", "merged")}, 100, 1)
    assert all(found[name] == three[side][name] for side, found in enumerate(two) for name in found)


def test_one_model_has_no_difference():
    spreads, differences = spreads_and_differences({"only": [0.25, 0.75]}, 10, 1)
    assert differences == {}
    assert spreads["only"].mean == 0.5


def test_one_character():
    spreads, differences = spreads_and_differences({"base": [0.25], "merged": [0.75]}, 10, 1)
    assert differences["merged"].ci95 == (0.5, 0.5)
    assert spreads["merged"].ci95 == (0.75, 0.75)


def test_spearman_by_hand():
    """Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4."""
    assert spearman([1, 5, 5, 70], [0.1, 0.4, 0.3, 0.5]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3], [0.1, 0.2, 0.9]) == 1.0
    assert spearman([1, 2, 3], [0.9, 0.2, 0.1]) == -1.0


@pytest.mark.parametrize(("xs", "ys"), [([1, 1, 1], [0.1, 0.2, 0.3]), ([1, 2, 3], [0.5, 0.5, 0.5]), ([1], [1]), ([], [])])
def test_spearman_of_a_constant_is_not_defined(xs, ys):
    assert spearman(xs, ys) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30), st.randoms())
def test_spearman_is_pearsons_of_the_mean_ranks_in_any_order(pairs, random):
    def ranks(values):
        return [Fraction(2 * sum(v < value for v in values) + sum(v == value for v in values) + 1, 2) for value in values]

    x, y = ranks([a for a, _ in pairs]), ranks([b for _, b in pairs])
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    spread = float(sum((a - x_mean) ** 2 for a in x) * sum((b - y_mean) ** 2 for b in y))
    found = spearman([a for a, _ in pairs], [b for _, b in pairs])
    if not spread:
        assert found is None
    else:
        product = float(sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)))
        assert found == pytest.approx(product / math.sqrt(spread), abs=1e-12)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert spearman([a for a, _ in shuffled], [b for _, b in shuffled]) == found
