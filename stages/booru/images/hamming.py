"""All pairs of 64-bit values that differ in few bits: an exact banded join in numpy.

By the pigeonhole principle, of d + m disjoint groups of bits ("bands") two values that differ in at most d
bits agree in m whole bands. For each choice of m bands the values are sorted by those bits and only
values that fall into one bucket are compared. m weighs the number of sorts against the size of the
buckets; it is chosen from a sample of the values, and so is which bit goes into which band: the bits
that split the values evenly are dealt round, so that bits that hardly vary (white backgrounds) fill no
band of their own. A bucket that is large all the same is joined by its remaining bits in the same way, or
where that does not pay compared pair by pair. None of these choices touches the result.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np

Pairs = tuple[np.ndarray, np.ndarray]  # i64 [n] each: the left and the right one's index

# Costs in nanoseconds, for choosing between ways only: a value in one sort, a pair in a bucket, a pair in a block.
SORT_COST, BUCKET_COST, BLOCK_COST = 60, 8, 1
SAMPLE = 8192
MOST_SORTS = 500
# Buckets up to here are compared by shifting the sorted values against themselves, larger ones in blocks.
SMALL_BUCKET = 128
# Rows and columns of a block: its 64-bit differences stay in a core's cache.
BLOCK_ROWS, BLOCK_COLUMNS = 64, 2048
PORTION = 1 << 14  # buckets
# 2^64 / golden ratio: multiplied by it the chosen bits reach the upper half, which sorts them (Knuth 6.4).
SPREAD = np.uint64(0x9E3779B97F4A7C15)
LOW, HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)


def close_in_block(left: np.ndarray, right: np.ndarray, max_distance: int) -> Pairs:
    """Compare each of u64 [a, words] with each of u64 [b, words]; the pairs that differ in at most `max_distance` bits."""
    counts = np.zeros((len(left), len(right)), dtype=np.uint8)
    # Two words leave next to nothing of unrelated hashes; the rest is compared for what they leave.
    for word in range(min(2, left.shape[1])):
        counts += np.bitwise_count(left[:, word, None] ^ right[None, :, word])
    row, column = np.divmod(np.flatnonzero(counts <= max_distance), len(right))
    if left.shape[1] > 2:
        close = np.bitwise_count(left[row] ^ right[column]).sum(axis=1, dtype=np.int64) <= max_distance
        row, column = row[close], column[close]
    return row, column


def close_in_blocks(values: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Compare all pairs of u64 [n, words], a block at a time; pairs (left, right) with left < right."""
    for top in range(0, len(values), BLOCK_ROWS):
        for start in range(top, len(values), BLOCK_COLUMNS):
            row, column = close_in_block(values[top : top + BLOCK_ROWS], values[start : start + BLOCK_COLUMNS], max_distance)
            left, right = row + top, column + start
            yield left[left < right], right[left < right]


def deal_bits(sample: np.ndarray, bands: int) -> list[np.uint64]:
    """Masks of `bands` disjoint bands that hold all bits in which the values vary, evenly split bits dealt first."""
    ones = [int(np.count_nonzero(sample >> np.uint64(bit) & np.uint64(1))) for bit in range(64)]
    order = sorted(range(64), key=lambda bit: (-min(ones[bit], len(sample) - ones[bit]), bit))
    return [np.uint64(sum(1 << bit for bit in order[band::bands])) for band in range(bands)]


def bucket_order(values: np.ndarray, mask: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """Order of the values by their bits under `mask`, and each bucket's bound in that order (i64, from 0 to n).

    A bucket holds all values that agree under the mask, and by a rare collision some more.
    """
    packed = (values & mask) * SPREAD & ~LOW | np.arange(len(values), dtype=np.uint64)
    packed.sort()
    keys = (packed >> HIGH).astype(np.uint32)
    bounds = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [len(values)]])
    return (packed & LOW).astype(np.uint32), bounds


def choose_bands(values: np.ndarray, max_distance: int) -> tuple[list[np.uint64], int] | None:
    """The bands' masks and how many of them must agree; None where comparing all pairs costs least."""
    sample = values[:: -(-len(values) // SAMPLE)]
    scale = (len(values) / len(sample)) ** 2
    best, cheapest = None, BLOCK_COST * len(values) ** 2 / 2
    for agreeing in (1, 2, 3):
        bands = max_distance + agreeing
        if bands > 64 or comb(bands, agreeing) > MOST_SORTS:
            break
        masks = deal_bits(sample, bands)
        pairs = 0
        for chosen in combinations(masks, agreeing):
            sizes = np.diff(bucket_order(sample, np.bitwise_or.reduce(chosen))[1])
            pairs += int((sizes * (sizes - 1)).sum()) // 2
        cost = comb(bands, agreeing) * len(values) * SORT_COST + pairs * scale * BUCKET_COST
        if cost < cheapest:
            best, cheapest = (masks, agreeing), cost
    return best


def close_in_small_buckets(values: np.ndarray, bounds: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Pairs of sorted values (u64) within one bucket of at most SMALL_BUCKET values; positions, left < right."""
    sizes = np.diff(bounds)
    small = (sizes > 1) & (sizes <= SMALL_BUCKET)
    starts, sizes = bounds[:-1][small], sizes[small]
    for first in range(0, len(starts), PORTION):
        start, size = starts[first : first + PORTION], sizes[first : first + PORTION]
        # All values but their bucket's last, with the number of values that follow in the bucket.
        left = np.repeat(start - np.cumsum(size - 1) + size - 1, size - 1) + np.arange((size - 1).sum())
        following = np.repeat(start + size - 1, size - 1) - left
        shift = 1
        while len(left):
            close = np.bitwise_count(values[left] ^ values[left + shift]) <= max_distance
            yield left[close], left[close] + shift
            shift += 1
            going_on = following >= shift
            left, following = left[going_on], following[going_on]


def close_in_large_buckets(values: np.ndarray, bounds: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Pairs of sorted values (u64) within one bucket of more than SMALL_BUCKET values; positions."""
    for bucket in np.flatnonzero(np.diff(bounds) > SMALL_BUCKET).tolist():
        start, end = int(bounds[bucket]), int(bounds[bucket + 1])
        # A bucket of nearly all values would hardly be split by another round of the same.
        splits = SAMPLE < end - start <= len(values) // 2
        inner = close_pairs if splits else lambda block, distance: close_in_blocks(block[:, None], distance)
        for left, right in inner(values[start:end], max_distance):
            yield left + start, right + start


def found_here_first(difference: np.ndarray, masks: list[np.uint64], chosen: tuple[int, ...]) -> np.ndarray:
    """Is `chosen` the first choice of bands in which these differences (u64) are zero? So each pair is found once."""
    first = np.ones(len(difference), dtype=bool)
    for band in range(chosen[-1] + 1):
        first &= (difference & masks[band] == 0) == (band in chosen)
    return first


def close_pairs(values: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """All pairs of the distinct values (u64 [n], n < 2^32) that differ in at most `max_distance` bits, each once.

    Pairs come in portions, in no promised order, left and right not ordered either. Memory: about 50
    bytes a value and the portions. Time: C(d + m, m) sorts, and a comparison for each pair of values
    in a bucket; at worst, where most values differ in few bits, all n^2 / 2 pairs at 10^9 a second.
    """
    if max_distance == 0 or len(values) < 2:
        return
    plan = choose_bands(values, max_distance)
    if plan is None:
        yield from close_in_blocks(values[:, None], max_distance)
        return
    masks, agreeing = plan
    for chosen in combinations(range(len(masks)), agreeing):
        order, bounds = bucket_order(values, np.bitwise_or.reduce([masks[band] for band in chosen]))
        ordered = values[order]
        for close in (close_in_small_buckets, close_in_large_buckets):
            for left, right in close(ordered, bounds, max_distance):
                first = found_here_first(ordered[left] ^ ordered[right], masks, chosen)
                if first.any():
                    yield order[left[first]].astype(np.int64), order[right[first]].astype(np.int64)
