"""Score by number of training pictures: groups and the logarithmic axis."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ccip.training_plot import LEAST_IN_GROUP, MOST_GROUPS, CountAxis, score_groups

COUNTS = st.lists(st.integers(0, 200_000), min_size=1, max_size=200).filter(any)


def test_groups_have_medians_and_quartiles():
    groups = score_groups([10] * 5 + [0] * 3 + [100] * 5, [0.0, 0.25, 0.5, 0.75, 1.0, 0.9, 0.9, 0.9, *[0.5] * 5])
    assert [(g.pictures, g.low, g.median, g.high) for g in groups] == [(10, 0.25, 0.5, 0.75), (100, 0.5, 0.5, 0.5)]


@given(COUNTS)
def test_groups_are_few_and_in_order(counts):
    groups = score_groups(counts, [i / len(counts) for i in range(len(counts))])
    known = [count for count in counts if count]
    assert len(groups) <= MOST_GROUPS
    assert (len(groups) == 0) == (len(known) < 2 * LEAST_IN_GROUP)
    assert [g.pictures for g in groups] == sorted(g.pictures for g in groups)
    assert all(g.low <= g.median <= g.high for g in groups)


@given(COUNTS)
def test_every_count_has_its_place_inside_the_axis(counts):
    axis = CountAxis(counts)
    places = {count: axis.place(count) for count in counts}
    assert [places[count] for count in sorted(places)] == sorted(places.values())
    assert all(axis.left < place < axis.end for place in places.values())
    assert len(axis.ticks()) >= 1
    assert ("0" in axis.ticks().values()) == (0 in counts)


@pytest.mark.parametrize(
    ("counts", "claims"),
    [([20, 60], []), ([20, 70], [100]), ([120, 600], [100, 500]), ([700, 40_000], [500, 1000]), ([5000], []),
     ([10, 3000], [100, 500, 1000])],
)  # fmt: skip
def test_claims_stand_where_the_data_come_near(counts, claims):
    assert CountAxis(counts).claims == claims
