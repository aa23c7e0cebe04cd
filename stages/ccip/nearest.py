"""The place of a picture's own character among all characters, by the difference to their merged features.

With thousands of characters that is most of the arithmetic, so it is done in matrix products, whose last bits depend on
their shape. Only order matters here: where the own character and another are nearer to each other than the products can
be wrong, the pair-by-pair formula of `ccip.score` decides, and the answer is the same as if it had decided all.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ccip.score import unit_differences, unit_vectors

# Pictures of one matrix product; with N characters it is float64 [BLOCK, N].
BLOCK = 512
# Of two cosines. The products are wrong by less than 768 roundings of 1e-16.
NEAR_TIE = 1e-9


def own_ranks(pictures: Sequence[tuple[int, np.ndarray]], merged: np.ndarray) -> Iterator[list[float]]:
    """For each set of pictures the places of their own character: 1.0 where it is the nearest.

    Equally near characters share the mean of their places, as in a rank correlation.

    Args:
        pictures: (own character's row in `merged`, features [M, dims]) of each set; merged: features of all characters [N, dims].
    """
    characters = unit_vectors(merged)
    block: list[tuple[int, np.ndarray]] = []
    for position, one in enumerate(pictures):
        block.append(one)
        if position + 1 == len(pictures) or sum(len(features) for _, features in block) >= BLOCK:
            yield from _ranks_of_block(block, characters)
            block = []


def _ranks_of_block(block: Sequence[tuple[int, np.ndarray]], characters: np.ndarray) -> Iterator[list[float]]:
    units = unit_vectors(np.concatenate([features for _, features in block]))
    cosines = units @ characters.T
    row = 0
    for own, features in block:
        yield [_rank(units[i], own, cosines[i], characters) for i in range(row, row + len(features))]
        row += len(features)


def _rank(picture: np.ndarray, own: int, cosines: np.ndarray, characters: np.ndarray) -> float:
    ahead = cosines - cosines[own]
    nearer = int((ahead > NEAR_TIE).sum())
    (undecided,) = np.nonzero(np.abs(ahead) <= NEAR_TIE)
    if len(undecided) > 1:
        exact = unit_differences(picture, characters[undecided])
        own_difference = exact[np.searchsorted(undecided, own)]
        nearer += int((exact < own_difference).sum())
        equal = int((exact == own_difference).sum()) - 1
        return 1.0 + nearer + equal / 2
    return 1.0 + nearer
