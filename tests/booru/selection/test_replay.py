"""The reference's draws: `random.choices` over the ranges in their order, from one stream."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from booru.selection.replay import replayed_draws


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 200)), max_size=4))
def test_draws_are_those_of_random_choices(seed, ranges):
    ours, theirs = random.Random(seed), random.Random(seed)
    for population, draws in ranges:
        assert replayed_draws(ours, population, draws).tolist() == theirs.choices(range(population), k=draws)


def test_the_draws_of_kohaku_xl_delta():
    """1M draws of the 2M ids from 3M on, then 1M of the 3M below, with seed 1 (facts/data.md 1.4)."""
    stream, reference = random.Random(1), random.Random(1)
    for population, distinct in ((2_000_000, 787_041), (3_000_000, 850_290)):
        ours = replayed_draws(stream, population, 1_000_000)
        assert np.array_equal(ours, reference.choices(range(population), k=1_000_000))
        assert len(np.unique(ours)) == distinct
