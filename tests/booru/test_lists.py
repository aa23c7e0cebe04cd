"""Columns of lists made of flat arrays."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru.lists import grouped, lists_of


@given(
    lists=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4), max_size=12),
    width=st.sampled_from([np.int32, np.int64]),
)
def test_flat_arrays_become_the_lists_again(lists, width):
    row = np.array([n for n, items in enumerate(lists) for _ in items], dtype=width)
    items = pl.Series([item for one in lists for item in one], dtype=pl.Int32)
    found = lists_of(row, items, len(lists))
    assert found.to_list() == lists
    assert found.dtype == pl.List(pl.Int32)
    assert grouped(row, items).rows() == [(n, items) for n, items in enumerate(lists) if items]


@pytest.mark.parametrize("items", [["a", None, "b"], [b"\0", b"", None], [None, None, None]])
def test_items_of_any_kind_and_missing_ones(items):
    found = lists_of(np.array([1, 1, 3]), pl.Series(items, dtype=pl.Series(items[:2]).dtype), 5)
    assert found.to_list() == [[], items[:2], [], items[2:], []]
