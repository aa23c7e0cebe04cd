"""Randomness as a function of (seed, purpose, index), never of call order, process or history.

A `Stream` is a counter hash: block i is sha256(key | i). Library generators are not used for
choices because their algorithms are not promised across versions; where a tensor of normal noise
is needed, `seed_for` gives the seed of a fresh torch generator.
"""

import hashlib
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def _key(seed: int, purpose: str, index: tuple[int | str, ...]) -> bytes:
    return "|".join([str(seed), purpose, *map(str, index)]).encode()


def seed_for(seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed for `torch.Generator.manual_seed`, from (seed, purpose, index...)."""
    return int.from_bytes(hashlib.sha256(_key(seed, purpose, index)).digest()[:8], "big") >> 1


class Stream:
    """Draws for one purpose and index; two streams of the same key give the same draws."""

    def __init__(self, seed: int, purpose: str, *index: int | str):
        self._key = _key(seed, purpose, index)
        self._counter = 0
        self._words: list[int] = []

    def word(self) -> int:
        """The next 64-bit unsigned integer."""
        if not self._words:
            block = hashlib.sha256(self._key + b"#" + str(self._counter).encode()).digest()
            self._counter += 1
            self._words = [int.from_bytes(block[i : i + 8], "big") for i in (24, 16, 8, 0)]
        return self._words.pop()

    def uniform(self) -> float:
        """A float in [0, 1) with 53 random bits."""
        return (self.word() >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        """An integer in 0..n-1, unbiased (rejection)."""
        limit = (1 << 64) - (1 << 64) % n
        while (word := self.word()) >= limit:
            pass
        return word % n

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[Item]) -> None:
        """Fisher-Yates, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
