"""Figures as text: rounded, byte-stable."""

from repro.outputs import json_text

from ccip.tables import csv_text, rounded


def test_floats_are_rounded_everywhere_and_minus_zero_is_zero():
    assert rounded({"a": [0.12345678, (-0.0000001,)], "b": 3, "c": None}) == {"a": [0.123457, [0.0]], "b": 3, "c": None}
    assert "-" not in json_text(rounded([-0.0, -1e-9]))


def test_rows_as_csv():
    assert csv_text(["a", "b"], [(0.1 + 0.2, None), ("x, y", 1)]) == 'a,b\n0.3,\n"x, y",1\n'
    assert csv_text(["a"], []) == "a\n"
