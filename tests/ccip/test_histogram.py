"""Which pairs the histogram counts."""

from repro.randomness import Stream

import numpy as np
import pytest

from ccip.histogram import BINS, CHARACTER_PAIRS, MOST_OTHERS, difference_histogram, other_characters


def features(purpose: str, pictures: int = 4) -> np.ndarray:
    stream = Stream(5, purpose)
    return np.array([[stream.uniform() * 2 - 1 for _ in range(16)] for _ in range(pictures)])


def test_shares_add_up_and_each_model_has_its_own():
    a, b = features("a"), features("b", 3)
    histogram = difference_histogram([a, b], {"first": [b, a], "second": [a, a], "third": [a, b]})
    assert list(histogram.models) == ["first", "second", "third"]
    for share in (histogram.same, histogram.different, *histogram.models.values()):
        assert sum(share) == pytest.approx(1) and len(share) == BINS
    assert histogram.models["third"][0] == (4 + 3) / (16 + 9), "a picture that is its reference has no difference"
    assert histogram.models["first"] == histogram.different
    assert [row[0] for row in histogram.rows()][:2] == [0.01, 0.03]
    assert [row[-1] for row in histogram.rows()] == histogram.models["third"]


def test_a_reference_is_not_compared_with_itself():
    a = features("a", 3)
    assert difference_histogram([a], {}).same[0] == 0


def test_one_character_with_one_reference_has_a_histogram_too():
    one = features("one", 1)
    histogram = difference_histogram([one], {"only": [one]})
    assert sum(histogram.same) == sum(histogram.different) == 0
    assert histogram.models["only"][0] == 1


@pytest.mark.parametrize("characters", [1, 2, 15, 21, 22, 500, 3600, 50_000])
def test_others_are_spread_over_the_list_and_their_number_is_bounded(characters):
    steps = other_characters(characters)
    assert len(set(steps)) == len(steps) <= MOST_OTHERS
    assert all(0 < step < characters for step in steps)
    assert len(steps) * characters <= max(CHARACTER_PAIRS, characters)
    if 1 < characters <= MOST_OTHERS + 1:
        assert steps == list(range(1, characters))
    if characters == 3600:
        assert len(steps) == 5 and max(steps) > 2800
