import pytest

from reporting.plots import Line, line_chart, loss_chart, rate_chart, running_mean, thinned, tick_values
from reporting.records import HistoryRow


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 400, [0, 100, 200, 300, 400]),
        (0, 2e-5, [0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
        (0.31, 0.33, [0.31, 0.315, 0.32, 0.325, 0.33]),
        (-3, 7, [-4, -2, 0, 2, 4, 6, 8]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert tick_values(low, high) == expected


def test_ticks_of_a_constant_enclose_it():
    ticks = tick_values(0.5, 0.5)
    assert ticks[0] <= 0.5 <= ticks[-1] and len(ticks) > 1


def test_running_mean_is_centred_and_shortened_at_the_ends():
    assert running_mean([(1, 0.0), (2, 3.0), (3, 6.0)], 3) == [(1, 1.5), (2, 3.0), (3, 4.5)]


def test_running_mean_of_width_one_changes_nothing():
    points = [(1, 0.25), (2, 4.0)]
    assert running_mean(points, 0) == points == running_mean(points, 1)


def test_thinning_keeps_few_points_and_averages_many():
    points = [(float(i), float(i % 2)) for i in range(1000)]
    assert thinned(points[:480]) == points[:480]
    few = thinned(points, 100)
    assert len(few) == 100 and few[0] == (4.5, 0.5)


def test_chart_stays_inside_its_picture():
    chart = line_chart([Line("a", "strong", [(0, -5.0), (10, 5.0)])], "x", "update")
    points = chart.split('points="')[1].split('"')[0]
    for pair in points.split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 480 and 0 <= y <= 230


def test_names_are_escaped():
    assert "<script>" not in line_chart([Line("<script>", "strong", [(0, 1.0), (1, 2.0)])], '"><b>', "update")


def test_a_single_update_can_be_drawn():
    history = [HistoryRow(1, 0.5, 1e-3, 0.0)]
    assert "polyline" in loss_chart(history) and "polyline" in rate_chart(history, "UNet", "text encoders")


def test_colours_come_from_the_page():
    history = [HistoryRow(i, 1 / i, 1e-3, 5e-4) for i in range(1, 50)]
    assert "#" not in loss_chart(history) + rate_chart(history, "UNet", "text encoders")
