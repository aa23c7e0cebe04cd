"""The plots of an evaluation: each as PNG, as SVG, and its data as CSV (from which DVC draws its own).

rank: score by rank; training_pictures: score by number of training pictures; scatter: each character
before and after; histogram: differences of same and of different characters beside the threshold;
modes: each character asked for by name and otherwise.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from repro.outputs import write_text

from ccip.histogram import Histogram, draw_histogram
from ccip.plot_style import label, own_style, save_plot
from ccip.rank_plot import draw_rank, rank_rows
from ccip.results import Evaluation
from ccip.scatter_plot import ScorePair, draw_pairs, panels
from ccip.tables import csv_text
from ccip.training_plot import draw_training
from generation.modes import MODE_WORDS


def write_plots(folder: Path, evaluation: Evaluation, histogram: Histogram) -> None:
    """Write <plot>.png, .svg and .csv into `folder`, which exists.

    Left out, with their CSV: training_pictures where no character has a number of them; scatter where there is one
    model; modes where there is one mode.
    """
    scores = headline_scores(evaluation)
    with own_style():
        _write_csv(folder, "rank", ["rank", *evaluation.models], rank_rows(scores))
        draw_rank(folder, scores)
        _write_csv(folder, "histogram", ["difference", "same", "different", *histogram.models], histogram.rows())
        draw_histogram(folder, histogram, evaluation.threshold)
        if any(result.reference.training_pictures for result in evaluation.results):
            _write_training(folder, evaluation, scores)
        if len(evaluation.models) > 1:
            _write_scatter(folder, evaluation, scores)
        if len(evaluation.modes) > 1:
            _write_modes(folder, evaluation)


def headline_scores(evaluation: Evaluation) -> dict[str, list[float]]:
    """Each model's score of every character, by tag, in the headline mode."""
    return {
        model: [result.scores[model, evaluation.headline].score for result in evaluation.results] for model in evaluation.models
    }


def _write_training(folder: Path, evaluation: Evaluation, scores: dict[str, list[float]]) -> None:
    pictures = [result.reference.training_pictures for result in evaluation.results]
    rows = zip(_characters(evaluation), pictures, *scores.values(), strict=True)
    _write_csv(folder, "training_pictures", ["character", "training_pictures", *evaluation.models], rows)
    draw_training(folder, pictures, scores)


def _write_scatter(folder: Path, evaluation: Evaluation, scores: dict[str, list[float]]) -> None:
    first, last = evaluation.models[0], evaluation.models[-1]
    _write_csv(folder, "scatter", ["character", *evaluation.models], zip(_characters(evaluation), *scores.values(), strict=True))
    pairs = [ScorePair(*row) for row in zip(_characters(evaluation), scores[first], scores[last], strict=True)]
    figure, (axes,) = panels(1)
    draw_pairs(
        axes,
        pairs,
        f"CCIP score, {label(first)}",
        f"CCIP score, {label(last)}",
        f"Score of each character: {label(first, 120)} and {label(last, 120)}",
    )
    save_plot(figure, folder, "scatter")


def _write_modes(folder: Path, evaluation: Evaluation) -> None:
    """The last model's scores: the headline mode against each of the others, over the characters that have it."""
    model, (headline, *others) = evaluation.models[-1], evaluation.modes
    by_mode = [
        {result.reference.character: result.scores[model, mode].score for result in evaluation.having(mode)}
        for mode in evaluation.modes
    ]
    rows = [(name, *(scores.get(name) for scores in by_mode)) for name in _characters(evaluation)]
    _write_csv(folder, "modes", ["character", *evaluation.modes], rows)
    figure, all_axes = panels(len(others))
    for axes, mode, scores in zip(all_axes, others, by_mode[1:], strict=True):
        pairs = [ScorePair(name, by_mode[0][name], score) for name, score in scores.items()]
        words = MODE_WORDS[mode]
        draw_pairs(
            axes, pairs, f"CCIP score, {MODE_WORDS[headline]}", f"CCIP score, {words}", f"{label(model, 120)}: {words}"
        )  # fmt: skip
    save_plot(figure, folder, "modes")


def _characters(evaluation: Evaluation) -> list[str]:
    return [result.reference.character for result in evaluation.results]


def _write_csv(folder: Path, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    write_text(folder / f"{name}.csv", csv_text(header, rows))
