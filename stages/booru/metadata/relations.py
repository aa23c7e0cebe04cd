"""The relation table, read once from its first to its last row, and sorted into one file a block of post ids."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from repro.progress import Progress

import numpy as np

from booru.metadata.database import BooruDatabase
from booru.metadata.sqlite_pages import UnusualPageError
from booru.metadata.tables import BooruTables

Pieces = Iterator[tuple[np.ndarray, np.ndarray]]
POSTS_OF_A_BLOCK = 50_000


class Block(NamedTuple):
    """Posts with first <= id <= last."""

    number: int
    first: int
    last: int


def blocks_of(bounds: tuple[int, int] | None, posts: int) -> list[Block]:
    """Adjoining blocks of ids, from the first id to the last, that hold POSTS_OF_A_BLOCK posts at most on the average.

    A block spans 50,000 ids or, where ids are sparse, that times a power of two: the blocks of two revisions of a
    database are the same, and only those with new posts differ. Number = id // ids of a block. A place in a block has 31 bits.
    """
    if bounds is None:
        return []
    ids, spanned = POSTS_OF_A_BLOCK, bounds[1] - bounds[0] + 1
    while ids < spanned and 2 * ids * posts <= POSTS_OF_A_BLOCK * spanned and 2 * ids <= 1 << 31:
        ids *= 2
    return [Block(n, n * ids, (n + 1) * ids - 1) for n in range(bounds[0] // ids, bounds[1] // ids + 1)]


@dataclass(frozen=True)
class RelationBlocks:
    """Relations of each block of posts in a file of its own below `folder`, in the order of the table.

    A file holds pairs of i32, the post's place in its block and the tag: 8 bytes a relation, some 2 GB for
    danbooru2023's 260 million. Memory is O(one piece of the table) to write and O(one block) to read.
    """

    folder: Path

    def fill(self, source: BooruDatabase | BooruTables, blocks: list[Block]) -> int:
        """Write the files of these adjoining blocks; returns how many relations are of posts outside and left out."""
        *fast, surest = source.relation_readers()
        for reader in fast:
            try:
                return self._write(blocks, reader(), source.relation_count())
            except UnusualPageError:
                continue
        return self._write(blocks, surest(), source.relation_count())

    def _write(self, blocks: list[Block], pieces: Pieces, rows: int) -> int:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        progress, left_out = Progress("relations", rows, "rows"), 0
        with ExitStack() as stack:
            files = {block.number: stack.enter_context(open(self._file(block), "wb")) for block in blocks}
            for posts, tags in pieces:
                left_out += len(posts)
                for number, pairs in _by_block(blocks, posts, tags):
                    files[number].write(memoryview(pairs))  # not tofile, whose errors do not say that the disk is full
                    left_out -= len(pairs)
                progress.advance(len(posts))
        return left_out

    def read(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Places of posts in the block and tag ids (i32) of its relations, in the order (post, place in the table)."""
        pairs = np.fromfile(self._file(block), dtype=np.int32).reshape(-1, 2)
        places, tags = pairs[:, 0].copy(), pairs[:, 1].copy()
        if (places[1:] >= places[:-1]).all():
            return places, tags
        # Nearly sorted, as the table is: in that case a stable sort of 32 bits is linear.
        order = np.argsort(places, kind="stable")
        return places[order], tags[order]

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _file(self, block: Block) -> Path:
        return self.folder / f"{block.number}.i32"


def _by_block(blocks: list[Block], posts: np.ndarray, tags: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(block's number, pairs of its relations, i32 [n, 2]) of the blocks that a piece of the table touches."""
    if not len(posts) or not blocks:
        return
    lowest, highest = posts.min(), posts.max()
    if lowest < blocks[0].first or highest > blocks[-1].last:
        inside = (posts >= blocks[0].first) & (posts <= blocks[-1].last)
        if inside.any():
            yield from _by_block(blocks, posts[inside], tags[inside])
        return
    block_ids = blocks[0].last - blocks[0].first + 1
    if lowest // block_ids == highest // block_ids:
        block = blocks[lowest // block_ids - blocks[0].number]
        yield block.number, _pairs(posts - block.first, tags)
        return
    numbers = posts // block_ids
    order = np.argsort(numbers, kind="stable")
    posts, tags, numbers = posts[order], tags[order], numbers[order]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(posts)), strict=True):
        block = blocks[int(numbers[start]) - blocks[0].number]
        yield block.number, _pairs(posts[start:end] - block.first, tags[start:end])


def _pairs(places: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Places and tags as i32 [n, 2]; a tag id beyond 31 bits is no tag's and becomes -1, which is none either."""
    pairs = np.empty((len(places), 2), dtype=np.int32)
    pairs[:, 0] = places
    pairs[:, 1] = tags if tags.min() >= 0 and tags.max() < 1 << 31 else np.where(tags >> 31 == 0, tags, -1)
    return pairs
