"""Distinct integers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from booru.selection.distinct import sorted_distinct


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_distinct_values_ascending(values):
    assert sorted_distinct(np.array(values, dtype=np.int64)).tolist() == sorted(set(values))
