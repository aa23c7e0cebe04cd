"""How far apart pictures are: CCIP differences of references and of generated pictures, counted and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ccip.plot_style import label, legend_below, model_lines, save_plot, single_axes
from ccip.score import differences

BINS = 50
# Every character is compared with at most `MOST_OTHERS` others, and all together in about `CHARACTER_PAIRS` pairs of
# characters, so that thousands of characters stay affordable: no N x N pairs.
MOST_OTHERS, CHARACTER_PAIRS = 20, 20_000
SAME, DIFFERENT = "#0b7285", "#f59f00"


@dataclass(frozen=True)
class Histogram:
    """Share of picture pairs by CCIP difference, lists of `BINS` equal bins over 0..1.

    same, different: pairs of references of one character, of two characters; models: each model's pictures with the
    references of the character that they should show.
    """

    same: list[float]
    different: list[float]
    models: dict[str, list[float]]

    def rows(self) -> list[tuple[float, ...]]:
        """(middle of the bin, same, different, share of each model)."""
        return [
            ((i + 0.5) / BINS, self.same[i], self.different[i], *(share[i] for share in self.models.values()))
            for i in range(BINS)
        ]


def difference_histogram(references: Sequence[np.ndarray], pictures: Mapping[str, Sequence[np.ndarray]]) -> Histogram:
    """Histogram of the pairs of references and of each model's pictures with them.

    Args:
        references: features [pictures, dims], one array a character; pictures: the same by model, in the same order of
            characters. One character's pairs are held at a time.
    """
    n = len(references)
    same, different = np.zeros(BINS, dtype=np.int64), np.zeros(BINS, dtype=np.int64)
    by_model = {model: np.zeros(BINS, dtype=np.int64) for model in pictures}
    steps = other_characters(n)
    for i, own in enumerate(references):
        same += _counts(differences(own, own)[np.triu_indices(len(own), k=1)])
        for step in steps:
            different += _counts(differences(own, references[(i + step) % n]))
        for model, counts in by_model.items():
            counts += _counts(differences(own, pictures[model][i]))
    return Histogram(_shares(same), _shares(different), {model: _shares(counts) for model, counts in by_model.items()})


def other_characters(characters: int) -> list[int]:
    """How far down the (circular) list of characters the others stand that each is compared with: evenly over the
    list, since neighbours by tag are often of one series or one character in two outfits."""
    others = min(characters - 1, MOST_OTHERS, max(CHARACTER_PAIRS // characters, 1))
    return [1 + step * (characters - 1) // others for step in range(others)]


def _counts(values: np.ndarray) -> np.ndarray:
    """Counts by bin; the last bin holds 1.0 too."""
    return np.bincount(np.minimum((values.ravel() * BINS).astype(np.int64), BINS - 1), minlength=BINS)


def _shares(counts: np.ndarray) -> list[float]:
    return [int(count) / max(int(counts.sum()), 1) for count in counts]


def draw_histogram(folder: Path, histogram: Histogram, threshold: float) -> None:
    """Filled: differences of references; lines: of the models' pictures; left of the threshold a pair counts as one character."""
    figure, axes = single_axes(7.2, 4.2, legend_lines=-(-(3 + len(histogram.models)) // 2))
    edges = [i / BINS for i in range(BINS + 1)]
    axes.stairs(histogram.same, edges, fill=True, alpha=0.5, color=SAME, label="references: same character")
    axes.stairs(histogram.different, edges, fill=True, alpha=0.4, color=DIFFERENT, label="references: different characters")
    axes.axvline(threshold, color="black", linestyle=(0, (4, 3)), linewidth=1, label=f"threshold {threshold:.4f}", zorder=4)
    for model, line in model_lines(tuple(histogram.models)).items():
        axes.stairs(histogram.models[model], edges, label=f"{label(model, 120)} with references", baseline=None, **line)
    drawn = (histogram.same, histogram.different, *histogram.models.values())
    last = max([i for share in drawn for i, part in enumerate(share) if part], default=BINS - 1)
    axes.set(xlabel="CCIP difference of two pictures", ylabel="share of pairs", xlim=(0, max((last + 1) / BINS, threshold * 1.1)))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.set_title("Picture pairs by difference: below the threshold, the same character", pad=12)
    legend_below(figure, axes, columns=2)
    save_plot(figure, folder, "histogram")
