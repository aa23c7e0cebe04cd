"""The report page: one HTML file that needs nothing else, neither network nor the files it was made from."""

from pathlib import Path

from repro.params import Params

import jinja2
from markupsafe import Markup

from reporting.embedding import is_wide, picture_uri, plot_uri, sheet_uris
from reporting.evaluation import GRID_WORDS, extremes, plots_in_order
from reporting.facts import report_facts
from reporting.families import FAMILY_WORDS
from reporting.inputs import GRID, Paths
from reporting.plots import loss_chart, rate_chart
from reporting.records import Inputs
from reporting.wording import FILTERS

TEMPLATES = Path(__file__).parent / "templates"
# Sheets are large: with more characters than three times this, only the ends of the ranking and the most changed are shown.
SHEETS_EACH = 20
# Rows of the character table that show before one asks for more.
FIRST_ROWS = 100


def report_page(params: Params, inputs: Inputs, paths: Paths) -> str:
    """The whole page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS | {"picture_uri": picture_uri, "plot_uri": plot_uri, "is_wide": is_wide}
    family = FAMILY_WORDS[params.family]
    sheets = [row for row in extremes(inputs.rows, SHEETS_EACH, inputs.change) if row.name in inputs.sheets]
    return environment.get_template("page.html.jinja").render(
        report_facts(params, inputs),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        paths=paths,
        first_rows=FIRST_ROWS,
        overview=inputs.grids[GRID],
        grids=[(words, inputs.grids[name]) for name, words in GRID_WORDS.items() if name in inputs.grids],
        loss_chart=loss_chart(inputs.history),
        rate_chart=rate_chart(inputs.history, family.denoiser, family.encoders),
        plots=plots_in_order(inputs.plots),
        sheets=sheets,
        sheet_places={row.name: place for place, row in enumerate(sheets, start=1)},
        sheet_uris=sheet_uris([inputs.sheets[row.name] for row in sheets]),
    )
