"""The banded join against all pairs compared."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from booru.images.hamming import SAMPLE, Pairs, choose_bands, close_in_block, close_in_blocks, close_in_large_buckets, close_pairs


def draws(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=list(key)))


def with_neighbours(generator: np.random.Generator, bits: np.ndarray) -> np.ndarray:
    """Distinct u64 of bool [n, 64], and for one in four another with 1 to 7 flipped bits; in random order."""
    near = bits[: len(bits) // 4].copy()
    for row in near:
        row[generator.permutation(64)[: int(generator.integers(1, 8))]] ^= True
    packed = np.packbits(np.concatenate([bits, near]), axis=1).view(np.uint64)[:, 0]
    return generator.permutation(np.unique(packed))


def uniform(generator: np.random.Generator) -> np.ndarray:
    return with_neighbours(generator, generator.random((12_000, 64)) < 0.5)


def skewed(generator: np.random.Generator) -> np.ndarray:
    """Many bits are nearly always zero."""
    return with_neighbours(generator, generator.random((12_000, 64)) < generator.random(64) ** 3 / 2)


def dense(generator: np.random.Generator) -> np.ndarray:
    """All within 12 bits of each other."""
    return with_neighbours(generator, generator.random((3000, 64)) < 0.05)


def each_once(pairs: Iterator[Pairs]) -> set[tuple[int, int]]:
    found = [tuple(sorted(pair)) for left, right in pairs for pair in zip(left.tolist(), right.tolist(), strict=True)]
    assert len(found) == len(set(found))
    return set(found)


def every_pair(values: np.ndarray, max_distance: int) -> set[tuple[int, int]]:
    found = set()
    for i in range(len(values) - 1):
        close = np.flatnonzero(np.bitwise_count(values[i + 1 :] ^ values[i]) <= max_distance)
        found.update((i, i + 1 + int(j)) for j in close)
    return found


@pytest.mark.parametrize("max_distance", range(7))
@pytest.mark.parametrize("kind", [uniform, skewed, dense])
def test_all_close_pairs_are_found_once(kind, max_distance: int) -> None:
    values = kind(draws(1, max_distance))
    found = each_once(close_pairs(values, max_distance))
    assert found == every_pair(values, max_distance)
    assert len(found) > 100 * max_distance or max_distance == 0


def test_a_hot_bucket_is_joined_by_bands_again() -> None:
    values = np.concatenate([uniform(draws(2, bucket)) for bucket in range(3)])
    bounds = np.array([0, 15_000, 30_000, len(values)])
    assert choose_bands(values[:15_000], 3) is not None
    assert np.diff(bounds).min() > SAMPLE
    expected = set()
    for start, end in pairwise(bounds.tolist()):
        expected |= {(i + start, j + start) for i, j in every_pair(values[start:end], 3)}
    assert each_once(close_in_large_buckets(values, bounds, 3)) == expected
    assert expected


def test_the_ways_agree() -> None:
    values = uniform(draws(3, 0))[:6000]
    blocks = each_once(close_in_blocks(values[:, None], 6))
    assert blocks == every_pair(values, 6)
    assert each_once(close_pairs(values, 6)) == blocks
    assert choose_bands(values, 1)[1] == 1
    assert choose_bands(values, 40) is None


@pytest.mark.parametrize("words", [1, 2, 4])
def test_blocks_of_several_words(words: int) -> None:
    generator = draws(4, words)
    left = generator.integers(0, 1 << 64, (30, words), dtype=np.uint64)
    right = np.concatenate([left[::-1] ^ np.uint64(1 << 63 | 5), generator.integers(0, 1 << 64, (50, words), dtype=np.uint64)])
    row, column = close_in_block(left, right, 3 * words)
    assert row.tolist() == list(range(30))
    assert column.tolist() == list(range(29, -1, -1))
    assert len(close_in_block(left, right, 3 * words - 1)[0]) == 0
    assert len(close_in_block(left, right, 64 * words)[0]) == 30 * 80


def test_few_values_have_few_pairs() -> None:
    for values, pairs in [([], set()), ([7], set()), ([7, 8], set()), ([7, 6], {(0, 1)}), ([0, 2**64 - 1], set())]:
        assert each_once(close_pairs(np.array(values, dtype=np.uint64), 2)) == pairs
