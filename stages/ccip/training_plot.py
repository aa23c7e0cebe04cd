"""Score against the number of training pictures: how many a character needs.

The cards of Kohaku XL (Delta and Epsilon) make claims that can be looked at here: tags with 1000 or
more pictures work, with 100 or more they may; characters with more than 500 are drawn from their
name, those with 100 to 500 need tags of their features.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ccip.plot_style import FEW_POINTS, MANY_POINTS, NOTE, label, legend_below, model_lines, save_plot, single_axes
from ccip.statistics import spearman

CLAIMS = {
    100: "card: may work; 100 to 500 with feature tags",
    500: "card: above, drawn from the name alone",
    1000: "card: works",
}
# A claim is shown where the data come at least this near to it (a factor).
NEAR = 1.5
MOST_GROUPS, LEAST_IN_GROUP = 12, 5
WIDTH, HEIGHT, CLAIM_HEIGHT = 7.2, 4.4, 0.2


@dataclass(frozen=True)
class Group:
    """Characters with about as many training pictures: the median count, and quartiles of their scores."""

    pictures: float
    low: float
    median: float
    high: float


def score_groups(pictures: Sequence[int], scores: Sequence[float]) -> list[Group]:
    """At most `MOST_GROUPS` groups of characters by number of training pictures, equally large but for one.

    Characters without training pictures stay out. None where there are too few for two groups.
    """
    known = sorted((count, score) for count, score in zip(pictures, scores, strict=True) if count)
    groups = min(MOST_GROUPS, len(known) // LEAST_IN_GROUP)
    if groups < 2:
        return []
    cuts = [i * len(known) // groups for i in range(groups + 1)]
    return [_group(known[start:end]) for start, end in itertools.pairwise(cuts)]


def _group(members: Sequence[tuple[int, float]]) -> Group:
    low, median, high = statistics.quantiles((score for _, score in members), n=4, method="inclusive")
    return Group(statistics.median(count for count, _ in members), low, median, high)


class CountAxis:
    """Logarithmic places of numbers of training pictures; 0 stands left of them, where there are characters without.

    Args:
        pictures: training pictures of all characters; one at least is more than 0.
    """

    def __init__(self, pictures: Sequence[int]):
        known = [count for count in pictures if count]
        self.least, self.most = min(known), max(known)
        span = max(math.log10(self.most / self.least), math.log10(4))
        middle = math.log10(self.most * self.least) / 2
        self.start, self.end = middle - 0.54 * span, middle + 0.54 * span
        for claim in self.claims:
            self.start, self.end = (
                min(self.start, math.log10(claim) - 0.02 * span),
                max(self.end, math.log10(claim) + 0.02 * span),
            )
        self.zero = self.start - 0.06 * span if 0 in pictures else None
        self.left = self.start - 0.1 * span if 0 in pictures else self.start

    @property
    def claims(self) -> list[int]:
        """The claims that the data come near to."""
        return [claim for claim in CLAIMS if self.least / NEAR <= claim <= self.most * NEAR]

    def place(self, count: int) -> float:
        return math.log10(count) if count else self.zero

    def ticks(self) -> dict[float, str]:
        """Text by place: 1, 2 and 5 times powers of ten, or only the powers where the range is long; and 0."""
        powers = range(math.floor(self.start) - 1, math.ceil(self.end) + 1)
        steps = (1, 2, 5) if self.end - self.start < 3 else (1,)
        counts = [step * 10**power for power in powers if power >= 0 for step in steps]
        shown = {math.log10(count): f"{count:,}" for count in counts if self.start <= math.log10(count) <= self.end}
        return shown | ({self.zero: "0"} if self.zero is not None else {})


def draw_training(folder: Path, pictures: Sequence[int], scores: Mapping[str, Sequence[float]]) -> None:
    """Dots for the first and the last model's characters, the medians of groups for every model, the quartiles' band
    for the last.

    Args:
        pictures: training pictures of each character, not all 0; scores: by model, one a character.
    """
    axis = CountAxis(pictures)
    room = CLAIM_HEIGHT * len(axis.claims)
    figure, axes = single_axes(WIDTH, HEIGHT + room, legend_lines=len(scores))
    box = axes.get_position()
    axes.set_position((box.x0, box.y0, box.width, box.height - room / figure.get_figheight()))
    _draw_claims(axes, axis)
    models, lines = tuple(scores), model_lines(tuple(scores))
    places = [axis.place(count) for count in pictures]
    for model, values in scores.items():
        rho = spearman(pictures, values)
        name = f"{label(model)}: rank correlation {'not defined' if rho is None else f'ρ = {rho:+.2f}'}"
        _draw_medians(axes, score_groups(pictures, values), lines[model], name, band=model == models[-1])
        if model in (models[0], models[-1]):
            _draw_dots(axes, places, values, lines[model])
    if axis.zero is not None:
        axes.axvline(axis.start - 0.15 * (axis.start - axis.zero), color=NOTE, linewidth=0.8, zorder=1)
    ticks = axis.ticks()
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(list(ticks.values()))
    axes.set(xlabel="training pictures with the character's tag (logarithmic)", xlim=(axis.left, axis.end))
    axes.set(ylabel="CCIP score", ylim=(-0.02, 1.02), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    axes.set_title("Score by number of training pictures: medians, middle half shaded", pad=12 + 72 * room)
    legend_below(figure, axes, columns=1)
    save_plot(figure, folder, "training_pictures")


def _draw_dots(axes: Axes, places: Sequence[float], values: Sequence[float], line: Mapping[str, object]) -> None:
    few = len(values) <= FEW_POINTS
    axes.scatter(
        places, values, s=22 if few else 7, alpha=0.8 if few else 0.3, color=line["color"], linewidths=0,
        zorder=line["zorder"] - 1, rasterized=len(values) > MANY_POINTS, clip_on=False,
    )  # fmt: skip


def _draw_medians(axes: Axes, groups: Sequence[Group], line: Mapping[str, object], name: str, band: bool) -> None:
    """The medians' line carries the legend's text, also where there are too few characters for one."""
    places = [math.log10(group.pictures) for group in groups]
    if band and groups:
        lows, highs = [group.low for group in groups], [group.high for group in groups]
        axes.fill_between(places, lows, highs, color=line["color"], alpha=0.18, linewidth=0, zorder=2.1)
    axes.plot(places, [group.median for group in groups], marker="o", markersize=4, label=name, **line)


def _draw_claims(axes: Axes, axis: CountAxis) -> None:
    """A line at each claim, its text above the plot in a row of its own: to the right of the line, or to the left where
    the right has no room."""
    height = axes.figure.get_figheight() * axes.get_position().height
    width = axes.figure.get_figwidth() * axes.get_position().width
    for row, claim in enumerate(reversed(axis.claims)):
        top = 1 + (row + 0.75) * CLAIM_HEIGHT / height
        place = (math.log10(claim) - axis.left) / (axis.end - axis.left)
        on_the_left = place * width > width - 3.3
        style = {"color": NOTE, "linewidth": 0.9, "linestyle": (0, (4, 3)), "clip_on": False, "zorder": 1}
        axes.plot([place, place], [0, top], transform=axes.transAxes, **style)
        axes.annotate(
            f"{claim:,}  {CLAIMS[claim]}", (place, top), xycoords="axes fraction", xytext=(-4 if on_the_left else 4, 0),
            textcoords="offset points", ha="right" if on_the_left else "left", va="center", fontsize=8, color=NOTE,
            annotation_clip=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
