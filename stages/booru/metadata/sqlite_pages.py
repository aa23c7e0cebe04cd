"""Rows of a table of whole numbers, read from the pages of an SQLite file without SQLite.

The relation table of danbooru2023 has 260 million rows. SQLite's engine hands them over one at a time, at 140 ns and
more each; its file format (https://www.sqlite.org/fileformat2.html, stable since 2004) lets numpy parse thousands of
pages at once, at 50 ns a row, from the first row to the last and so without any index.

Only what that table needs is read: a rowid table whose leaf cells hold a null (the rowid's alias) and two numbers, none
of which overflows its page. Of anything else `UnusualPageError` tells, and SQLite itself is asked.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Bytes of pages parsed at once: their rows' numbers then stay in a core's cache.
BYTES_AT_ONCE = 512 << 10
INTERIOR, LEAF = 5, 13
# Bytes that numbers of the record format's types 0 (null) to 9 take; 7 is a float, the null is refused as well.
_SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 0, 0, 0])
_CONSTANTS = {8: 0, 9: 1}
# SQLite's own limit for the levels of a tree.
DEEPEST = 20
# A cell of one that lies at a page's end may claim to go on for as much as this.
PADDING = 32
SMALLEST_CELL = 4


class UnusualPageError(Exception):
    """The table is not of the form that this module reads."""


class PageFile:
    """The pages of an SQLite file, read and not mapped, so that memory does not grow with the file; a context manager.

    Raises:
        UnusualPageError: the file is not a whole number of pages.
    """

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDONLY)
        header = os.pread(self._file, 100, 0)
        size = int.from_bytes(header[16:18], "big")
        self.size = 65536 if size == 1 else size
        length = os.fstat(self._file).st_size
        self.count = length // max(self.size, 1)
        if self.size < 512 or length % self.size:
            os.close(self._file)
            raise UnusualPageError(f"{length} bytes are no whole number of pages of {self.size}")

    def __enter__(self) -> "PageFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The bytes (u8) of the pages of these numbers, counted from 1, one after another, and some bytes of zero behind.

        Raises:
            UnusualPageError: a number beyond the file.
        """
        if numbers.min() < 1 or numbers.max() > self.count:
            raise UnusualPageError("a page number beyond the end of the file")
        content = np.zeros(len(numbers) * self.size + PADDING, dtype=np.uint8)
        view, place = memoryview(content), 0
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            wanted = len(run) * self.size
            if os.preadv(self._file, [view[place : place + wanted]], (int(run[0]) - 1) * self.size) != wanted:
                raise UnusualPageError("the file ended while it was read")
            place += wanted
        return content


def leaf_pages(file: PageFile, root: int) -> np.ndarray:
    """Numbers (from 1) of the leaf pages below page `root`, in the order of the rowids.

    Raises:
        UnusualPageError: a page that is no page of a table.
    """
    level = np.array([root], dtype=np.int64)
    for _ in range(DEEPEST):
        if len(level) > file.count:
            break
        kinds = {int(file.read(level[[place]])[_header(int(level[place]))]) for place in (0, -1)}
        if kinds == {LEAF}:
            return level
        if kinds != {INTERIOR}:
            raise UnusualPageError("a page that belongs to no table")
        level = np.concatenate([_children(file, int(number)) for number in level])
    raise UnusualPageError("pages that lead back to themselves")


def _header(page: int) -> int:
    """Where a page's header begins: the file's own header of 100 bytes opens page 1."""
    return 100 if page == 1 else 0


def _children(file: PageFile, number: int) -> np.ndarray:
    """The pages below an interior page: the left child of each cell, then the right-most child."""
    page, header = file.read(np.array([number])), _header(number)
    if page[header] != INTERIOR:
        raise UnusualPageError("leaves at different depths")
    cells = int.from_bytes(page[header + 3 : header + 5].tobytes(), "big")
    _refuse_beyond(header + 12 + 2 * cells > file.size)
    places = page[header + 12 : header + 12 + 2 * cells].copy().view(">u2").astype(np.int64)
    _refuse_beyond(places.max(initial=0) > file.size - SMALLEST_CELL)
    right = int.from_bytes(page[header + 8 : header + 12].tobytes(), "big")
    left = page[places[:, None] + np.arange(4)].copy().view(">u4").ravel().astype(np.int64)
    return np.append(left, right)


def _refuse_beyond(is_beyond: bool) -> None:
    if is_beyond:
        raise UnusualPageError("a cell beyond the end of its page")


def two_columns(file: PageFile, leaves: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The second and the third column (i64) of the rows of these leaf pages, in their order, piece by piece.

    Raises:
        UnusualPageError: a row of another form.
    """
    pages_at_once = max(1, BYTES_AT_ONCE // file.size)
    for first in range(0, len(leaves), pages_at_once):
        numbers = leaves[first : first + pages_at_once]
        yield _rows(file.read(numbers), numbers, file.size)


def _rows(content: np.ndarray, numbers: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    pages = content[: len(numbers) * size].reshape(-1, size)
    headers = np.where(numbers == 1, 100, 0)
    if not (pages[np.arange(len(numbers)), headers] == LEAF).all():
        raise UnusualPageError("leaves at different depths")
    cell = _cells(pages, headers)
    if not len(cell):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if (content[cell] & 0x80).any():
        raise UnusualPageError("a row of 128 bytes or more")
    record = cell + 1 + _varint_lengths(content, cell + 1)
    return _two_numbers(content, record)


def _cells(pages: np.ndarray, headers: np.ndarray) -> np.ndarray:
    """Where each cell begins, counted from the first of these pages, in the order of the rows."""
    count, size = pages.shape
    at = np.arange(count)
    cells = (pages[at, headers + 3].astype(np.int64) << 8) | pages[at, headers + 4]
    _refuse_beyond((headers + 8 + 2 * cells > size).any())
    within = np.arange(cells.sum()) - np.repeat(np.cumsum(cells) - cells, cells)
    pointers = np.repeat(at * size + headers + 8, cells) + 2 * within
    flat = pages.reshape(-1).view(">u2")  # cell pointers lie at even places
    places = flat[pointers >> 1].astype(np.int64)
    _refuse_beyond(places.max(initial=0) > size - SMALLEST_CELL)
    return places + np.repeat(at * size, cells)


def _varint_lengths(content: np.ndarray, at: np.ndarray) -> np.ndarray | int:
    """Bytes of the variable-length number at each place; rowids ascend, and their lengths do too.

    Those below zero, which come first, have the greatest length.
    """
    first, last = (_varint_length(content, int(place)) for place in at[[0, -1]])
    if first == last < 9:
        return first
    lengths = np.full(len(at), 9, dtype=np.int64)
    for length in range(8, 0, -1):
        lengths[content[at + length - 1] < 0x80] = length
    return lengths


def _varint_length(content: np.ndarray, at: int) -> int:
    return next((length for length in range(1, 9) if content[at + length - 1] < 0x80), 9)


def _two_numbers(content: np.ndarray, record: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second and third value of records that begin with a null.

    Eight bytes from a record's start hold its header of four (its own size, three types) and the first bytes of the
    values; those that follow hold the rest of up to eight bytes of values.
    """
    words = np.lib.stride_tricks.as_strided(content[:8].view(">u8"), shape=(len(content) - 8,), strides=(1,))
    opening, following = words[record].astype(np.uint64), words[record + 8].astype(np.uint64)
    if not (opening >> np.uint64(48) == 0x0400).all():
        raise UnusualPageError("a row that is not the rowid's null and two numbers")
    second, third = (((opening >> np.uint64(shift)) & np.uint64(0xFF)).astype(np.int64) for shift in (40, 32))
    if min(second.min(), third.min()) < 1 or max(second.max(), third.max()) > 5:
        return _any_numbers(content, record + 4, second, third)
    values = ((opening << np.uint64(32)) | (following >> np.uint64(32))).view(np.int64)
    a, b = _SIZES[second] * 8, _SIZES[third] * 8
    if (a + b > 64).any():
        return _any_numbers(content, record + 4, second, third)
    return values >> (64 - a), (values << a) >> (64 - b)


def _any_numbers(content: np.ndarray, at: np.ndarray, *types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for numbers of every size, one byte at a time."""
    columns = []
    for kind in types:
        if not np.isin(kind, [1, 2, 3, 4, 5, 6, 8, 9]).all():
            raise UnusualPageError("a value that is no whole number")
        size = _SIZES[kind]
        value = np.where(content[at] >= 0x80, -1, 0) * (size > 0)
        for byte in range(8):
            value = np.where(byte < size, (value << 8) | content[np.minimum(at + byte, len(content) - 1)], value)
        for constant, number in _CONSTANTS.items():
            value[kind == constant] = number
        columns.append(value)
        at = at + size
    return columns[0], columns[1]
