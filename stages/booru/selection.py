"""Seeded draws of posts from id ranges.

The card of Kohaku XL Epsilon takes a million posts here and two million there "with a fixed seed".
A draw from a generator's stream changes wholly when one post is added or rows come in another
order. Here each id has a fixed place in a shuffled order, its hash under the seed, and a range
takes the posts with the smallest hashes: independent of row order and library version, and a post
that appears or vanishes in a later revision of the database moves at most one other.
"""

from collections.abc import Callable, Sequence

from repro.errors import StageError
from repro.params import IdRange
from repro.randomness import seed_for

import numpy as np


def id_hashes(ids: np.ndarray, key: int) -> np.ndarray:
    """splitmix64 (Steele, Lea, Flood 2014) of id xor key, as u64; distinct ids get distinct hashes."""
    z = ids.astype(np.uint64) ^ np.uint64(key)
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw(ids: np.ndarray, take: int, key: int) -> np.ndarray:
    """The `take` ids with the smallest (hash, id), ascending by id."""
    hashes = id_hashes(ids, key)
    return np.sort(ids[np.argsort(hashes, kind="stable")[:take]])


def select_ids(post_ids: Callable[[int, int], np.ndarray], ranges: Sequence[IdRange], seed: int) -> np.ndarray:
    """The chosen posts' ids (i64, ascending) over all ranges.

    Args:
        post_ids: the ids that exist between two bounds, both included.
        ranges: disjoint ranges of ids with the number of posts to take, or null for all.

    Raises:
        StageError: a range holds fewer posts than it is to give, or nothing is selected.
    """
    key = seed_for(seed, "select")
    chosen = []
    for r in ranges:
        ids = post_ids(r.first, r.last)
        if r.take is not None and len(ids) < r.take:
            raise StageError(
                f"select.ranges: {r.take} posts are to be taken from ids {r.first}..{r.last}, but the database has"
                f" {len(ids)} there; take fewer, or null for all"
            )
        chosen.append(ids if r.take is None else draw(ids, r.take, key))
    selected = np.sort(np.concatenate(chosen))
    if not len(selected):
        spans = ", ".join(f"{r.first}..{r.last}" for r in ranges)
        raise StageError(f"select.ranges: the database has no post in {spans}; nothing is selected")
    return selected
