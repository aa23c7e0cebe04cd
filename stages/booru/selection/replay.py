"""The reference's own draws, replayed: HakuBooru's kohaku_xl.py (revision 3b00e14), which selected Kohaku XL Delta.

It seeds Python's generator once and calls `random.choices(population, k=...)` range after range:
draws with replacement, so that a million draws of two million posts are 787,041 posts. Only
`random.random()` has a stream that Python promises to keep, so `choices` is written out here.
"""

import random

import numpy as np


def replayed_draws(stream: random.Random, population: int, draws: int) -> np.ndarray:
    """The next `draws` positions (i64, in the order drawn) below `population`, as `choices` would give them.

    Args:
        stream: `random.Random(seed)`, shared by all draws of a selection in their order.
    """
    uniform = np.fromiter((stream.random() for _ in range(draws)), dtype=np.float64, count=draws)
    return np.floor(uniform * float(population)).astype(np.int64)
