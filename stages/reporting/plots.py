"""Line charts of the training history, as SVG that takes its colours from the page.

Drawn here and not by a plotting library: the page styles the lines (light and dark), text stays
text, and the bytes depend on no font and no library version.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from reporting.records import HistoryRow

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 38
MOST_POINTS = 480
MOST_TICKS = 6
# The smoothed loss is a mean over this share of the updates.
SMOOTHED_SHARE = 0.05


@dataclass(frozen=True)
class Line:
    """A named line through (x, y) points; `style` is the CSS class that colours it."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of equally long runs of neighbours."""
    run = -(-len(points) // most)
    groups = [points[i : i + run] for i in range(0, len(points), run)]
    return [(math.fsum(x for x, _ in g) / len(g), math.fsum(y for _, y in g) / len(g)) for g in groups]


def running_mean(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean of the y at most `width // 2` places away; fewer at the ends."""
    half = width // 2
    values = [y for _, y in points]
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [(x, math.fsum(window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def tick_values(low: float, high: float) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart), the first at or below `low`, the last at or above `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / (MOST_TICKS - 1)
    power = math.floor(math.log10(rough))
    step, decimals = next(
        (factor * 10.0**power, -power) for factor in (1, 2, 5, 10) if factor * 10.0**power >= rough * (1 - 1e-9)
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, max(decimals, 0)) for i in range(first, last + 1)]


def _path(line: Line, x_at: "Scale", y_at: "Scale") -> str:
    return " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line.points)


@dataclass(frozen=True)
class Scale:
    """Maps low..high to begin..end in the picture."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def line_chart(lines: Sequence[Line], title: str, x_label: str, from_zero: bool = False) -> Markup:
    """An SVG of lines over shared axes, with a legend below; `title` is its text alternative."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = [t for t in tick_values(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    y_ticks = tick_values(0.0 if from_zero else min(ys), max(ys))
    x_at = Scale(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
    y_at = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        y = f"{y_at(tick):.1f}"
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy=".32em" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x_at(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    parts += [f'<polyline class="{line.style}" points="{_path(line, x_at, y_at)}"/>' for line in lines]
    for i, line in enumerate(lines):
        x = LEFT + 150 * i
        parts.append(f'<line class="{line.style}" x1="{x}" x2="{x + 18}" y1="{HEIGHT - 8}" y2="{HEIGHT - 8}"/>')
        parts.append(f'<text x="{x + 24}" y="{HEIGHT - 4}">{escape(line.name)}</text>')
    return Markup("\n".join([*parts, "</svg>"]))


def loss_chart(history: Sequence[HistoryRow]) -> Markup:
    """The loss of each update and its running mean."""
    points = [(float(row.update), row.loss) for row in history]
    smoothed = running_mean(points, round(SMOOTHED_SHARE * len(points)))
    title = f"Loss over {len(history)} updates: running mean {smoothed[0][1]:.4f} at first, {smoothed[-1][1]:.4f} at the end"
    lines = [Line("each update", "faint", thinned(points)), Line("running mean", "strong", thinned(smoothed))]
    return line_chart(lines, title, "update")


def rate_chart(history: Sequence[HistoryRow], denoiser: str, encoders: str) -> Markup:
    """Learning rates of the denoiser and of the text encoders, by these names."""
    rates = [(float(row.update), row.lr) for row in history]
    text = [(float(row.update), row.te_lr) for row in history]
    title = f"Learning rates: {max(y for _, y in rates):g} for the {denoiser}, {max(y for _, y in text):g} for the {encoders}"
    lines = [Line(denoiser, "strong", thinned(rates)), Line(encoders, "second", thinned(text))]
    return line_chart(lines, title, "update", from_zero=True)
