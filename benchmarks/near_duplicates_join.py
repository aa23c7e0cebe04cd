"""What benchmarks/near_duplicates.py measures, a process each; needs stages/ in PYTHONPATH.

python benchmarks/near_duplicates_join.py IN.parquet OUT.parquet MAX_DHASH MAX_PHASH MAX_ASPECT
python benchmarks/near_duplicates_join.py IN.parquet RATE.json MAX_DHASH    # plain comparison of a slice's pairs
"""

import json
import sys
import time

import repro  # noqa: F401  before numpy, as in the stages

import numpy as np
import polars as pl

from booru.images.near_duplicates import near_duplicates

SLICE = 60_000
ROWS, COLUMNS = 64, 4096


def compare_all(dhash: np.ndarray, max_dhash: int) -> int:
    """Number of pairs (and selves) within the distance: XOR, count bits, compare; blocks that stay in the cache."""
    close = 0
    for top in range(0, len(dhash), ROWS):
        for start in range(top, len(dhash), COLUMNS):
            difference = dhash[top : top + ROWS, None] ^ dhash[None, start : start + COLUMNS]
            close += np.count_nonzero(np.bitwise_count(difference) <= max_dhash)
    return close


def main(source: str, target: str, max_dhash: str, *others: str) -> None:
    if others:
        max_phash, max_aspect = others
        found = near_duplicates(pl.read_parquet(source), int(max_dhash), int(max_phash), float(max_aspect))
        found.write_parquet(target)
        return
    dhash = pl.read_parquet(source, columns=["dhash"], n_rows=SLICE)["dhash"].to_numpy()
    start = time.process_time()
    compare_all(dhash, int(max_dhash))
    seconds = time.process_time() - start
    with open(target, "w", encoding="utf-8") as file:
        json.dump({"pairs": len(dhash) ** 2 // 2, "cpu": seconds}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
