"""Seeded draws: a fixed place for each id, whatever surrounds it."""

from repro.errors import StageError
from repro.params import IdRange

import numpy as np
import pytest

from booru.selection import draw, id_hashes, select_ids

MASK = (1 << 64) - 1


def splitmix64(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def posts_between(ids: np.ndarray):
    return lambda first, last: ids[(ids >= first) & (ids <= last)]


def test_hash_is_splitmix64_of_id_xor_key():
    ids = np.array([0, 1, 17, 7_866_491, 2**40])
    key = 0x1234_5678_9ABC_DEF0
    assert id_hashes(ids, key).tolist() == [splitmix64(int(i) ^ key) for i in ids]
    # First outputs of the published generator from state 0.
    assert id_hashes(np.array([0]), 0).tolist() == [0xE220A8397B1DCDAF]


def test_draw_takes_the_smallest_hashes():
    ids = np.arange(0, 5000, 7)
    chosen = draw(ids, 100, key=99)
    by_hash = sorted(ids.tolist(), key=lambda i: splitmix64(i ^ 99))
    assert chosen.tolist() == sorted(by_hash[:100])


def test_draw_hangs_neither_on_order_nor_on_other_posts():
    ids = np.arange(10_000)
    chosen = set(draw(ids, 1000, key=5).tolist())
    assert set(draw(ids[::-1].copy(), 1000, key=5).tolist()) == chosen
    assert chosen < set(draw(ids, 1001, key=5).tolist())
    gone = sorted(chosen)[17]
    later = set(draw(ids[ids != gone], 1000, key=5).tolist())
    assert chosen - later == {gone}
    assert len(later - chosen) == 1


def test_draw_spreads_over_the_range():
    chosen = draw(np.arange(100_000), 20_000, key=31)
    counts = np.bincount(chosen // 10_000, minlength=10)
    assert counts.sum() == 20_000
    assert (abs(counts - 2000) < 200).all(), counts


def test_ranges_are_joined_in_id_order_and_bounds_are_included():
    ids = np.arange(0, 100)
    ranges = [IdRange(first=60, last=69, take=None), IdRange(first=10, last=19, take=3)]
    selected = select_ids(posts_between(ids), ranges, seed=1)
    assert selected.tolist() == sorted(selected.tolist())
    assert selected[3:].tolist() == list(range(60, 70))
    assert len(selected) == 13
    assert not np.array_equal(selected, select_ids(posts_between(ids), ranges, seed=2))


def test_a_range_with_too_few_posts_is_refused_with_its_count():
    with pytest.raises(StageError, match=r"9 posts are to be taken from ids 0\.\.10, but the database has 4 there"):
        select_ids(posts_between(np.array([1, 2, 3, 4])), [IdRange(first=0, last=10, take=9)], seed=1)


def test_empty_selection_is_refused():
    with pytest.raises(StageError, match=r"no post in 50\.\.60"):
        select_ids(posts_between(np.array([1])), [IdRange(first=50, last=60, take=None)], seed=1)
