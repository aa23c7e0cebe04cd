"""Score plots: the data as CSV (from which DVC draws its own) and PNGs for people.

Three plots: score by rank, the form in which Kohaku XL's cards show a benchmark of characters; each
character before and after; differences of same and of different characters beside the threshold.

The PNGs have the same bytes everywhere: matplotlib's own style and font whatever the user's
settings are, the Agg canvas, no metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.outputs import whole_file, write_text

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ccip.score import differences
from ccip.tables import csv_text

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
BASE, MERGED, SAME, DIFFERENT = "#8c8c8c", "#c2255c", "#2b8a3e", "#1971c2"
BINS = 50
# Every character is compared with this many others for the histogram, so that thousands of characters stay affordable.
OTHERS = 20
NAMED_POINTS = 40
# Room that a point and a name take in the scatter, in units of its axes.
POINT, LETTER_WIDTH, LINE_HEIGHT = 0.012, 0.0125, 0.024


@dataclass(frozen=True)
class ScoredCharacter:
    """What the plots show of one character."""

    name: str
    base: float
    merged: float


def write_plots(folder: Path, characters: Sequence[ScoredCharacter], histogram: "Histogram", threshold: float) -> None:
    """Write rank.csv, scatter.csv, histogram.csv and the PNGs of the same names into `folder`."""
    _write_csv(folder / "rank.csv", ["rank", "base", "merged"], rank_rows(characters))
    _write_csv(folder / "scatter.csv", ["character", "base", "merged"], [(c.name, c.base, c.merged) for c in characters])
    _write_csv(folder / "histogram.csv", ["difference", *histogram.shares], histogram.rows())
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        _own_fonts_only()
        draw_rank(folder / "rank.png", characters)
        draw_scatter(folder / "scatter.png", characters)
        draw_histogram(folder / "histogram.png", histogram, threshold)


def rank_rows(characters: Sequence[ScoredCharacter]) -> list[tuple[int, float, float]]:
    """(rank from 1, base's score at that rank, merged model's score at that rank), best first."""
    base = sorted((c.base for c in characters), reverse=True)
    merged = sorted((c.merged for c in characters), reverse=True)
    return [(i, b, m) for i, (b, m) in enumerate(zip(base, merged, strict=True), start=1)]


@dataclass(frozen=True)
class Histogram:
    """Share of picture pairs by CCIP difference, `BINS` equal bins over 0..1, a list for each kind of pair."""

    shares: dict[str, list[float]]

    def rows(self) -> list[tuple[float, ...]]:
        """(middle of the bin, share of each kind)."""
        return [((i + 0.5) / BINS, *(share[i] for share in self.shares.values())) for i in range(BINS)]


def difference_histogram(references: Sequence[np.ndarray], base: Sequence[np.ndarray], merged: Sequence[np.ndarray]) -> Histogram:
    """Histogram of four kinds of pairs: references of one character, references of different
    characters, and each model's pictures with the references of the character they should show.

    Args:
        references, base, merged: features [pictures, dims], one array a character, same order.
    """
    n = len(references)
    counts = {kind: np.zeros(BINS, dtype=np.int64) for kind in ("same", "different", "base", "merged")}
    for i in range(n):
        own = differences(references[i], references[i])
        counts["same"] += _bin(own[np.triu_indices(len(own), k=1)])
        for step in range(1, min(n - 1, OTHERS) + 1):
            counts["different"] += _bin(differences(references[i], references[(i + step) % n]))
        counts["base"] += _bin(differences(references[i], base[i]))
        counts["merged"] += _bin(differences(references[i], merged[i]))
    return Histogram({kind: [int(c) / max(int(count.sum()), 1) for c in count] for kind, count in counts.items()})


def _bin(values: np.ndarray) -> np.ndarray:
    """Counts by bin; the last bin holds 1.0 too."""
    return np.bincount(np.minimum((values.ravel() * BINS).astype(np.int64), BINS - 1), minlength=BINS)


def draw_rank(path: Path, characters: Sequence[ScoredCharacter]) -> None:
    """Each model's scores, best first: one line a model."""
    rows = rank_rows(characters)
    ranks = [row[0] for row in rows]
    figure, axes = _figure(7.2, 4.2)
    marker = "o" if len(rows) <= NAMED_POINTS else None
    for column, name, colour in ((1, "base", BASE), (2, "merged", MERGED)):
        scores = [row[column] for row in rows]
        mean = sum(scores) / len(scores)
        axes.plot(ranks, scores, color=colour, marker=marker, markersize=4, label=f"{name}: mean {mean:.3f}", clip_on=False)
    axes.set(xlabel="characters, best first", ylabel="CCIP score", ylim=(0, 1), xlim=(1, max(len(rows), 2)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title("Identity score by rank", loc="left", pad=12)
    axes.legend(loc="best")
    _save(figure, path)


def draw_scatter(path: Path, characters: Sequence[ScoredCharacter]) -> None:
    """Each character's score before (base) and after (merged); above the diagonal is better."""
    figure, axes = _figure(6.2, 6.2)
    axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1)
    axes.scatter([c.base for c in characters], [c.merged for c in characters], s=26, color=MERGED, zorder=3, clip_on=False)
    if len(characters) <= NAMED_POINTS:
        _name_points(axes, characters)
    axes.set(xlabel="base", ylabel="merged", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title("CCIP score of each character, before and after training", loc="left", pad=12)
    _save(figure, path)


def _name_points(axes: Axes, characters: Sequence[ScoredCharacter]) -> None:
    """Each point's name beside it, on the side with room; moved towards the middle where another name or point is."""
    taken = [(c.base - POINT, c.base + POINT, c.merged) for c in characters]
    for character in sorted(characters, key=lambda c: (-c.merged, c.base, c.name)):
        width = LETTER_WIDTH * len(character.name)
        on_the_left = character.base > 0.7
        start = character.base - POINT - width if on_the_left else character.base + POINT
        y = character.merged
        while any(start < end and other < start + width and abs(y - at) < LINE_HEIGHT for other, end, at in taken):
            y += LINE_HEIGHT / 4 if character.merged < 0.5 else -LINE_HEIGHT / 4
        taken.append((start, start + width, y))
        axes.annotate(
            character.name, (character.base, y), xytext=(-6 if on_the_left else 6, 0), textcoords="offset points",
            ha="right" if on_the_left else "left", va="center", fontsize=8, annotation_clip=False,
        )  # fmt: skip


def draw_histogram(path: Path, histogram: Histogram, threshold: float) -> None:
    """Differences of same and different characters' references, and of the models' pictures."""
    figure, axes = _figure(7.2, 4.2)
    edges = [i / BINS for i in range(BINS + 1)]
    shares = histogram.shares
    axes.stairs(shares["same"], edges, fill=True, alpha=0.35, color=SAME, label="references, same character")
    axes.stairs(shares["different"], edges, fill=True, alpha=0.35, color=DIFFERENT, label="references, different characters")
    axes.stairs(shares["base"], edges, color=BASE, linewidth=1.5, label="base picture, reference")
    axes.stairs(shares["merged"], edges, color=MERGED, linewidth=1.5, label="merged picture, reference")
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.4f}")
    last = max(i for share in shares.values() for i, s in enumerate(share) if s)
    axes.set(xlabel="CCIP difference", ylabel="share of pairs", xlim=(0, (last + 1) / BINS))
    axes.set_title("Picture pairs by difference: same character below the threshold", loc="left", pad=12)
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _own_fonts_only() -> None:
    """Leave matplotlib only the fonts that it brings: the system may hold a DejaVu of another version."""
    own = matplotlib.get_data_path()
    font_manager.fontManager.ttflist = [f for f in font_manager.fontManager.ttflist if f.fname.startswith(own)]


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    write_text(path, csv_text(header, rows))
