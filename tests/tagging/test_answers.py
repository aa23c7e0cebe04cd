"""Answers found again: by picture in an index of files, and in the order of files."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagging.answers import DIGEST, digests_of, in_order, index_of


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def write(folder: Path, files: list[list[int]]) -> list[Path]:
    """A file of answers to each list of pictures; the answer to a picture is its number."""
    paths = [folder / f"{place}.parquet" for place in range(len(files))]
    for path, numbers in zip(paths, files, strict=True):
        frame = {"answer": numbers, DIGEST: [digest(number) for number in numbers]}
        pl.DataFrame(frame, schema={"answer": pl.Int64, DIGEST: pl.String}).write_parquet(path)
    return paths


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, 50), unique=True, max_size=30), cuts=st.sets(st.integers(0, 30)), data=st.data())
def test_each_picture_finds_its_own_answer(tmp_path: Path, numbers: list[int], cuts: set[int], data: st.DataObject) -> None:
    ends = sorted({*cuts, len(numbers)} & set(range(len(numbers) + 1)))
    files = [numbers[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    index = index_of(write(tmp_path, files))
    wanted = digests_of(pl.Series([digest(number) for number in range(51)], dtype=pl.String))
    assert index.known(wanted).tolist() == [number in numbers for number in range(51)]
    if numbers:
        asked = data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=40))
        answers = index.answers(digests_of(pl.Series([digest(number) for number in asked])))
        assert answers.rows(0, len(asked))["answer"].to_list() == asked
        assert answers.rows(len(asked) // 2, len(asked))["answer"].to_list() == asked[len(asked) // 2 :]
        everything = in_order(index.files, [len(file) for file in files])
        assert everything.rows(0, len(numbers))["answer"].to_list() == numbers


def test_nothing_is_known_where_there_are_no_files() -> None:
    wanted = digests_of(pl.Series([digest(1)]))
    assert not index_of([]).known(wanted).any()
    assert len(index_of([]).answers(wanted[:0]).file) == 0


def test_digests_that_end_with_zeros_are_told_apart(tmp_path: Path) -> None:
    ends = ["00" * 32, "01" + "00" * 31, "00" * 31 + "01", "0100" + "00" * 30 + "", "01" * 31 + "00"]
    found = digests_of(pl.Series(list(dict.fromkeys(ends))))
    assert len(np.unique(found)) == len(set(ends))


def test_only_the_columns_of_the_answer_come_back(tmp_path: Path) -> None:
    answers = in_order(write(tmp_path, [[3, 1]]), [2])
    assert answers.rows(1, 2).to_dicts() == [{"answer": 1}]
