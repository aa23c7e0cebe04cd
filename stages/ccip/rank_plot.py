"""Score by rank, the form in which Kohaku XL Epsilon's card shows its benchmark of 3600 characters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ccip.plot_style import FEW_POINTS, NOTE, label, legend_below, model_lines, save_plot, single_axes
from ccip.statistics import GOOD_SCORES


def rank_rows(scores: Mapping[str, Sequence[float]]) -> list[tuple[float, ...]]:
    """(rank from 1, score of each model at that rank), best first; each model is sorted by itself."""
    ordered = [sorted(values, reverse=True) for values in scores.values()]
    return [(rank, *row) for rank, row in enumerate(zip(*ordered, strict=True), start=1)]


def draw_rank(folder: Path, scores: Mapping[str, Sequence[float]]) -> None:
    """One line a model, and how many of its characters lie above each of `GOOD_SCORES`.

    Args:
        scores: by model, one a character.
    """
    rows = rank_rows(scores)
    ranks = [row[0] for row in rows]
    figure, axes = single_axes(7.2, 4.2, legend_lines=len(scores))
    marker = {"marker": "o", "markersize": 4.5} if len(rows) <= FEW_POINTS else {}
    for column, (model, line) in enumerate(model_lines(tuple(scores)).items(), start=1):
        values = [row[column] for row in rows]
        above = ", ".join(f"{sum(v > limit for v in values):,} above {limit:g}" for limit in sorted(GOOD_SCORES, reverse=True))
        name = f"{label(model)}: mean {math.fsum(values) / len(values):.3f}; {above}"
        axes.plot(ranks, values, label=name, clip_on=False, **marker, **line)
    for limit in GOOD_SCORES:
        axes.axhline(limit, color=NOTE, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.set(ylabel="CCIP score", ylim=(-0.02, 1.02), yticks=sorted({0, 0.2, 0.4, 0.6, 0.8, 1, *GOOD_SCORES}))
    margin = 0.02 * (len(rows) - 1) or 0.5
    axes.set(xlabel="characters, each model's best first", xlim=(1 - margin, len(rows) + margin))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(
        f"Identity score by rank, {len(rows):,} characters" if len(rows) > 1 else "Identity score, one character", pad=12
    )
    legend_below(figure, axes, columns=1)
    save_plot(figure, folder, "rank")
