"""Text: what the font cannot show, and what has no room."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ccip.lettering import lines_of, printable, shortened, text_width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("eileen_(ren'py)", "eileen_(ren'py)"),
        ("初音 ミ", "[U+521D U+97F3] [U+30DF]"),
        ("a\nb", "a[U+000A]b"),
        ("x\udce9", "x[U+DCE9]"),
        ("☆ é", "☆ é"),
        ("", ""),
    ],
)
def test_what_the_font_lacks_is_shown_as_code_points(text, shown):
    assert printable(text) == shown


@given(st.text(max_size=60), st.integers(12, 400))
def test_a_shortened_text_fits_and_keeps_its_start(text, width):
    short = shortened(text, 12, width)
    assert text_width(short, 12) <= width
    if short.endswith("…") and not printable(text).endswith("…"):
        assert printable(text).startswith(short[:-1])
        assert text_width(printable(text), 12) > width
    else:
        assert short == printable(text)


@given(st.lists(st.text("abc", min_size=1, max_size=8), min_size=1, max_size=20))
def test_lines_hold_all_words_in_order(words):
    lines = lines_of(" ".join(words), 12, 120)
    assert " ".join(lines).split(" ") == words
    assert all(text_width(line, 12) <= 120 for line in lines)
    assert all(text_width(f"{a} {b.split(' ')[0]}", 12) > 120 for a, b in itertools.pairwise(lines))
