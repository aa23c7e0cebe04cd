"""Shares of work: all pieces once among the machines, and what is no share refused."""

import argparse

from repro.shares import share

import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(pieces=st.integers(0, 50), machines=st.integers(1, 9))
def test_every_piece_is_in_one_share(pieces: int, machines: int) -> None:
    shares = [share(f"{number}/{machines}").of(range(pieces)) for number in range(1, machines + 1)]
    assert sorted(piece for one in shares for piece in one) == list(range(pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1/0", "1", "1/2/3", "-1/2", "a/b", "1.0/2", "01/2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write it as K/N"):
        share(text)
