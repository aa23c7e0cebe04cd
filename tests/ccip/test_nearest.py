"""The place of a picture's own character among all, against the pair-by-pair formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pictures import random_features

from ccip import nearest
from ccip.nearest import own_ranks
from ccip.score import differences, merged_feature


def places(pictures: np.ndarray, own: int, merged: np.ndarray) -> list[float]:
    """By definition: all differences, sorted; equal ones share their mean place."""
    found = []
    for row in differences(pictures, merged):
        found.append(1 + (row < row[own]).sum() + ((row == row[own]).sum() - 1) / 2)
    return found


def test_the_nearest_of_all_characters():
    a, b = random_features("character a", 3), random_features("character b", 3)
    merged = np.stack([merged_feature(a), merged_feature(b)])
    assert list(own_ranks([(0, a), (1, b), (0, b)], merged)) == [[1, 1, 1], [1, 1, 1], [2, 2, 2]]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=8), st.integers(1, 9))
def test_places_do_not_depend_on_the_blocks(sets, block):
    merged = random_features("merged", 6, 16)
    merged[4] = merged[1] * 2  # the same direction: always equally near
    features = random_features("pictures", 4, 16)
    pictures = [(own, features[:count]) for own, count in sets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "BLOCK", block)
        found = list(own_ranks(pictures, merged))
    assert found == [places(own_features, own, merged) for own, own_features in pictures]


def test_characters_with_the_same_references_share_their_places():
    one = random_features("twins", 1)
    merged = np.concatenate([one, one, one, random_features("another", 1)])
    assert list(own_ranks([(1, one), (3, one)], merged)) == [[2.0], [4.0]]


def test_near_ties_are_decided_by_the_exact_differences():
    """Characters a few roundings apart, where matrix products and the formula disagree."""
    base = random_features("tie", 1).astype(np.float64)
    steps = 1 + 1e-15 * random_features("rounding", 200).astype(np.float64)
    merged = base * steps
    pictures = random_features("near tie", 20)
    for own in (0, 17, 199):
        (found,) = own_ranks([(own, pictures)], merged)
        assert found == places(pictures, own, merged)


def test_one_character_is_always_the_nearest():
    assert list(own_ranks([(0, random_features("alone", 2))], random_features("merged", 1))) == [[1.0, 1.0]]
