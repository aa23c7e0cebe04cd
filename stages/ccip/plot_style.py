"""What all plots share: style, colours of models, and files whose bytes no user setting changes.

A plot has the same bytes everywhere: matplotlib's own style and font whatever the user's settings
are, the Agg and SVG canvases, no metadata, a fixed salt for the SVG's ids. Text is drawn as
outlines in the SVG: a viewer without DejaVu Sans would set it in another width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro.outputs import whole_file

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ccip.lettering import shortened

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "ccip",
}
PIXELS_PER_INCH = 150
NOTE = "#555555"
# The model of interest is strong, the one it is compared with grey; those between have Okabe and Ito's colours
# (safe for colour-blind readers) and broken lines, so that they can be told apart in grey print too.
FIRST_COLOUR, LAST_COLOUR = "#949494", "#c2255c"
BETWEEN_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9")
BETWEEN_LINES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
# Up to this many points have names or markers of their own; beyond the second, SVGs hold points as a picture.
FEW_POINTS, MANY_POINTS = 40, 400
LONGEST_LABEL = 200
# Inches.
LEGEND_LINE = 0.172


def model_lines(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line properties by model: the first grey, the last strong."""
    lines = {}
    for i, model in enumerate(models):
        if i == len(models) - 1:
            lines[model] = {"color": LAST_COLOUR, "linestyle": "-", "linewidth": 2.0, "zorder": 3}
        elif i == 0:
            lines[model] = {"color": FIRST_COLOUR, "linestyle": "-", "linewidth": 2.0, "zorder": 2.2}
        else:
            colour = BETWEEN_COLOURS[(i - 1) % len(BETWEEN_COLOURS)]
            lines[model] = {"color": colour, "linestyle": BETWEEN_LINES[(i - 1) % len(BETWEEN_LINES)], "linewidth": 1.6,
                            "zorder": 2.5}  # fmt: skip
    return lines


def label(text: str, width: float = LONGEST_LABEL) -> str:
    """A name as legends and axes show it: shortened to `width` points, and not taken for a hidden artist,
    which is what matplotlib takes a leading underscore for."""
    text = shortened(text, 10, width)
    return f" {text}" if text.startswith("_") else text


@contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's defaults and `STYLE`, and with the fonts that matplotlib brings: the system may hold a
    DejaVu of another version."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        own = matplotlib.get_data_path()
        font_manager.fontManager.ttflist = [f for f in font_manager.fontManager.ttflist if f.fname.startswith(own)]
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of width x height inches."""
    figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def single_axes(width: float, height: float, legend_lines: int) -> tuple[Figure, Axes]:
    """A figure with one plot and room for a legend of so many lines below it; sizes in inches."""
    height += LEGEND_LINE * legend_lines
    figure = new_figure(width, height)
    bottom = 0.66 + LEGEND_LINE * legend_lines
    return figure, figure.add_axes((0.72 / width, bottom / height, 1 - 0.92 / width, 1 - (bottom + 0.55) / height))


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """The legend of `axes` in the room that `single_axes` left."""
    left = axes.get_position().x0
    figure.legend(
        *axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(left, 0.005), ncols=columns,
        borderaxespad=0.3, borderpad=0.1, labelspacing=0.35, handlelength=2.6, columnspacing=2.2,
    )  # fmt: skip


def save_plot(figure: Figure, folder: Path, name: str) -> None:
    """Write <name>.png and <name>.svg."""
    with whole_file(folder / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    with whole_file(folder / f"{name}.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None}, dpi=PIXELS_PER_INCH)
