"""The report page: one HTML file that needs nothing else, neither network nor the files it was made from."""

import base64
from pathlib import Path

from repro.params import Params

import jinja2
from markupsafe import Markup

from reporting.facts import extremes, report_facts
from reporting.plots import loss_chart, rate_chart
from reporting.records import Inputs
from reporting.wording import FILTERS

TEMPLATES = Path(__file__).parent / "templates"
# Sheets are large: with more characters than three times this, only the ends of the ranking and the most changed are shown.
SHEETS_EACH = 20
# What the evaluation's plots show, by file name; others are shown under their name.
PLOT_WORDS = {
    "rank.png": "Scores from the best character to the worst, one line a model",
    "histogram.png": "CCIP differences of picture pairs; left of the threshold a pair counts as one character",
    "scatter.png": "Each character's score before and after; above the diagonal the merged model is better",
}


def data_uri(path: Path) -> Markup:
    """A PNG as a data URI."""
    return Markup("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())


def plot_figures(plots: dict[str, Path]) -> list[tuple[str, Path]]:
    """(text, file) of each plot: the known ones first, in their order."""
    known = [(PLOT_WORDS[name], plots[name]) for name in PLOT_WORDS if name in plots]
    return known + [(Path(name).stem, path) for name, path in plots.items() if name not in PLOT_WORDS]


def report_page(params: Params, inputs: Inputs) -> str:
    """The whole page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS | {"data_uri": data_uri}
    return environment.get_template("page.html.jinja").render(
        report_facts(params, inputs),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        loss_chart=loss_chart(inputs.history),
        rate_chart=rate_chart(inputs.history),
        plots=plot_figures(inputs.plots),
        sheets=[row for row in extremes(inputs.rows, SHEETS_EACH) if row.name in inputs.sheets],
    )
