"""Names in the scatter: beside their points, never over each other."""

import itertools

import hypothesis.strategies as st
from hypothesis import given

from ccip.scatter_plot import HIGH, LOW, PER_INCH, POINT, ScorePair, placed_names

EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)
PAIRS = st.lists(st.builds(ScorePair, st.text("abcdef_()", min_size=1, max_size=40), EIGHTHS, EIGHTHS), max_size=40)


@given(PAIRS)
def test_names_overlap_neither_names_nor_points_and_stay_inside(pairs):
    names = placed_names(pairs)
    assert not any(a.box.overlaps(b.box) for a, b in itertools.combinations(names, 2))
    for name in names:
        assert name.box.left >= LOW and name.box.right <= HIGH
        for pair in pairs:
            assert not (
                name.box.left < pair.x + POINT / 2 and pair.x - POINT / 2 < name.box.right
                and name.box.bottom < pair.y + POINT / 2 and pair.y - POINT / 2 < name.box.top
            )  # fmt: skip


def test_few_points_are_all_named_at_their_side():
    pairs = [ScorePair("mika", 0.125, 0.75), ScorePair("rin", 1.0, 0.5), ScorePair("aoi", 0.125, 0.75)]
    first, second = placed_names(pairs)
    assert (first.text, second.text) == ("aoi, mika", "rin")
    assert first.box.left > first.x and second.box.right < second.x
    assert (first.box.bottom + first.box.top) / 2 == first.y


def test_many_characters_at_one_point_are_counted():
    (name,) = placed_names([ScorePair(f"character_{i:02d}", 0.0, 0.0) for i in range(30)])
    shown, rest = name.text.split(" +")
    assert shown.split(", ") == [f"character_{i:02d}" for i in range(30 - int(rest))]
    assert name.box.right - name.box.left < 2.5 * PER_INCH


def test_a_name_without_end_is_cut():
    (name,) = placed_names([ScorePair("x" * 500, 0.5, 0.5)])
    assert name.text.endswith("…")
