"""Keyed draws: a fixed place for each id, whatever surrounds it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from booru.selection.draws import id_hashes, keyed_draw, keyed_order

MASK = (1 << 64) - 1
IDS = st.sets(st.integers(0, 2**53), min_size=1, max_size=200).map(lambda ids: np.array(sorted(ids)))
KEYS = st.integers(0, 2**63 - 1)


def splitmix64(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def drawn(ids: np.ndarray, take: int, key: int) -> set[int]:
    return set(ids[keyed_draw(ids, take, key)].tolist())


@given(IDS, KEYS)
def test_hash_is_splitmix64_of_id_xor_key(ids, key):
    before = ids.copy()
    assert id_hashes(ids, key).tolist() == [splitmix64(int(i) ^ key) for i in ids]
    assert np.array_equal(ids, before)


def test_hash_gives_the_first_output_of_the_published_generator_from_state_0():
    assert id_hashes(np.array([0]), 0).tolist() == [0xE220A8397B1DCDAF]


@given(IDS, KEYS, st.data())
def test_draw_takes_the_smallest_hashes(ids, key, data):
    take = data.draw(st.integers(0, len(ids)))
    by_hash = sorted(ids.tolist(), key=lambda i: splitmix64(i ^ key))
    assert ids[keyed_order(ids, key)].tolist() == by_hash
    assert ids[keyed_draw(ids, take, key)].tolist() == sorted(by_hash[:take])


@given(IDS, KEYS, st.integers(0, 2**53), st.data())
def test_one_post_more_moves_at_most_one_other(ids, key, more, data):
    take = data.draw(st.integers(1, len(ids)))
    before, after = drawn(ids, take, key), drawn(np.union1d(ids, [more]), take, key)
    assert len(before - after) <= 1
    assert after - before <= {more}


@given(IDS, KEYS, st.data())
def test_a_smaller_draw_is_part_of_a_larger_one(ids, key, data):
    take = data.draw(st.integers(1, len(ids)))
    assert drawn(ids, take - 1, key) < drawn(ids, take, key)


def test_draw_spreads_over_the_range():
    chosen = keyed_draw(np.arange(100_000), 20_000, key=31)
    counts = np.bincount(chosen // 10_000, minlength=10)
    assert counts.sum() == 20_000
    assert (abs(counts - 2000) < 200).all(), counts
