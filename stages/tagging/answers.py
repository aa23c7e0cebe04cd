"""Where models' answers to pictures lie: by picture, a row of one of the files that worker processes wrote.

A file has a row a picture: its column DIGEST is the picture's sha256, the others are the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

DIGEST = "sha256"
# A sha256 in bytes. numpy fills shorter ones with zeros to this width to compare them, so that none is taken for another.
DIGEST_TYPE = "S32"


@dataclass(frozen=True)
class Answers:
    """Of each of some pictures the file (its place in `files`) and the row in it that answer it."""

    files: list[Path]
    file: np.ndarray
    row: np.ndarray

    def rows(self, start: int, stop: int) -> pl.DataFrame:
        """The answers to the pictures start..stop, in their order. Files are read once, all of the slice's at a time."""
        needed, file = np.unique(self.file[start:stop], return_inverse=True)
        frames = [pl.read_parquet(self.files[number]).drop(DIGEST) for number in needed]
        first = np.cumsum([0, *(frame.height for frame in frames)])[:-1]
        return pl.concat(frames)[first[file] + self.row[start:stop]]


@dataclass(frozen=True)
class AnswerIndex:
    """All answers in some files: each one's digest, file and row, ascending by digest."""

    files: list[Path]
    digest: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def known(self, digests: np.ndarray) -> np.ndarray:
        """By digest whether there is an answer to it (bool)."""
        place = np.searchsorted(self.digest, digests)
        found = place < len(self.digest)
        found[found] = self.digest[place[found]] == digests[found]
        return found

    def answers(self, digests: np.ndarray) -> Answers:
        """Those to these digests, all of which are known."""
        place = np.searchsorted(self.digest, digests)
        return Answers(self.files, self.file[place], self.row[place])


def digests_of(pictures: pl.Series) -> np.ndarray:
    """sha256 in hexadecimal as bytes of DIGEST_TYPE."""
    return np.frombuffer(bytes.fromhex("".join(pictures)), dtype=DIGEST_TYPE)


def in_order(files: Sequence[Path], counts: Sequence[int]) -> Answers:
    """All answers of files that have so many each, one after the other."""
    file = np.repeat(np.arange(len(files), dtype=np.int32), np.asarray(counts, dtype=np.int64))
    rows = [np.arange(count, dtype=np.int32) for count in counts]
    return Answers(list(files), file, np.concatenate([np.empty(0, dtype=np.int32), *rows]))


def index_of(files: Sequence[Path]) -> AnswerIndex:
    """An index of the answers in these files: 40 bytes an answer, and while it is made some times that."""
    digests = [digests_of(pl.read_parquet(file, columns=[DIGEST])[DIGEST]) for file in files]
    answers = in_order(files, [len(own) for own in digests])
    digest = np.concatenate([np.empty(0, dtype=DIGEST_TYPE), *digests])
    order = np.argsort(digest, kind="stable")
    return AnswerIndex(answers.files, digest[order], answers.file[order], answers.row[order])
