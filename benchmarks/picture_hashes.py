"""Made-up hashes of pictures: mostly unrelated, with planted near-duplicates and the skew of real collections."""

import numpy as np
import polars as pl

PLANTED, EQUAL, WHITE = 0.05, 0.01, 0.02
"""Shares: versions of another picture; pictures of a few dhashes; pictures whose dhash is zero but for 28 bits."""
EQUAL_DHASHES = 6
WHITE_BITS = 36
SIDES = (256, 4096)
MOST_FLIPS = {"dhash": 6, "phash": 40}
WIDENING = 1.08


def make_hashes(count: int, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    """`count` pictures as `booru.images.near_duplicates` takes them, and the planted pairs as rows, i64 [pairs, 2].

    A planted version differs from its picture by up to 6 bits of dhash, 40 of phash and 8 % of width: some are
    partners under the usual bounds and some are not. The same count and seed give the same rows.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    dhash = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    phash = rng.integers(0, 1 << 64, (count, 4), dtype=np.uint64)
    sides = rng.integers(*SIDES, (2, count), dtype=np.int32)
    equal, white, planted = (rng.permutation(count)[: int(share * count)] for share in (EQUAL, WHITE, PLANTED))
    dhash[equal] = rng.integers(0, 1 << 64, EQUAL_DHASHES, dtype=np.uint64)[rng.integers(0, EQUAL_DHASHES, len(equal))]
    dhash[white] &= np.uint64((1 << 64) - (1 << WHITE_BITS))
    versions, originals = np.split(planted[: len(planted) // 2 * 2], 2)
    dhash[versions] = dhash[originals] ^ flips(rng, len(versions), 1, MOST_FLIPS["dhash"])[:, 0]
    phash[versions] = phash[originals] ^ flips(rng, len(versions), 4, MOST_FLIPS["phash"])
    scale = rng.uniform(0.3, 1.5, len(versions))
    sides[:, versions] = np.maximum(
        sides[:, originals] * (scale * [rng.uniform(1, WIDENING, len(scale)), np.ones(len(scale))]), 1
    )
    frame = pl.DataFrame(
        {
            "id": np.arange(1, count + 1),
            "dhash": dhash,
            "phash": pl.Series([row.tobytes() for row in phash], dtype=pl.Binary),
            "width": sides[0],
            "height": sides[1],
        }
    )
    return frame, np.stack([versions, originals], axis=1)


def flips(rng: np.random.Generator, count: int, words: int, most: int) -> np.ndarray:
    """u64 [count, words] with 0 to `most` bits set in each row (a bit that is drawn twice counts once)."""
    masks = np.zeros((count, words), dtype=np.uint64)
    wanted = rng.integers(0, most + 1, count)
    for flip in range(most):
        bit = rng.integers(0, 64 * words, count)
        rows = np.flatnonzero(wanted > flip)
        masks[rows, bit[rows] // 64] |= np.uint64(1) << (bit[rows] % 64).astype(np.uint64)
    return masks
