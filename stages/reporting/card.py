"""The model card: YAML front matter for the hub and Markdown in the order of Kohaku XL's cards."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from repro.params import Params

import jinja2
import yaml
from markupsafe import Markup

from reporting.evaluation import extremes, mode_lines, named_skipped, plots_in_order
from reporting.facts import report_facts
from reporting.families import FAMILY_WORDS
from reporting.inputs import Paths
from reporting.records import HashedFile, Inputs
from reporting.wording import FILTERS, mode

TEMPLATES = Path(__file__).parent / "templates"
EXTREMES = 20
# Licence names that the hub knows and that such models carry; any other is `other` with its name beside it.
HUB_LICENSES = (
    "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "mit", "openrail",
    "openrail++",
)  # fmt: skip
# Backslash escapes: CommonMark 2.4. A letter or digit never needs one; `.` and `-` matter at a line's start only.
MARKDOWN_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def markdown_text(value: Any) -> str:
    """A value as Markdown that shows exactly its text, on one line, also inside a table."""
    if isinstance(value, Markup):
        return value
    return MARKDOWN_MARKS.sub(r"\\\1", re.sub(r"\s+", " ", str(value)))


def code(value: Any) -> Markup:
    """A code span that holds the text whatever backticks are in it; newlines become spaces."""
    text = " ".join(str(value).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def fenced(text: str, language: str) -> Markup:
    """A fenced block whose fence is longer than any run of backticks inside."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def quoted(text: str) -> Markup:
    """A Python string literal on one line, for the code example."""
    return Markup(json.dumps(text, ensure_ascii=False))


def license_fields(name: str, link: str | None) -> dict[str, str]:
    """The front matter's licence keys; a licence that the hub does not know has a name, and the link to its text if any."""
    short = name.lower()
    if short in HUB_LICENSES:
        return {"license": short}
    slug = re.sub(r"[^a-z0-9.]+", "-", short).strip("-")
    return {"license": "other", "license_name": slug} | ({"license_link": link} if link else {})


def evaluation_results(inputs: Inputs) -> list[dict[str, Any]]:
    """The front matter's results: the last model's score in each mode, over the characters that have it."""
    return [
        {
            "task": {"type": "text-to-image", "name": "Text-to-Image"},
            "dataset": {"type": "references", "name": f"References of {figures.characters} characters"},
            "metrics": [
                {
                    "type": "ccip-score",
                    "name": f"CCIP score {mode(name)}, mean over characters",
                    "value": figures.models[inputs.after].score,
                }
            ],
        }
        for name, figures in mode_lines(inputs)
    ]


def front_matter(params: Params, inputs: Inputs) -> str:
    """YAML that the hub reads: licence, tags, base model, and the scores as evaluation results."""
    report = params.report
    fields = {
        **license_fields(params.merge.license, report.license_link),
        "language": ["en"],
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **({"base_model": report.base_models, "base_model_relation": "finetune"} if report.base_models else {}),
        **({"datasets": report.datasets} if report.datasets else {}),
        "tags": [
            "text-to-image",
            FAMILY_WORDS[params.family].hub_tag,
            "anime",
            "art",
            *(["lokr", "lycoris"] if params.train.method == "lokr" else []),
        ],
        "model-index": [{"name": report.title, "results": evaluation_results(inputs)}],
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)


def link(path: Path, card: Path) -> Markup:
    """A relative link from the card to a file, spaces and brackets escaped."""
    return Markup(quote(Path(os.path.relpath(path, card.parent)).as_posix()))


def checksum_command(files: list[HashedFile], card: Path) -> str:
    """A shell command that compares the files with their sha256, from the card's folder."""
    lines = [f"{file.sha256}  {Path(os.path.relpath(file.path, card.parent)).as_posix()}" for file in files]
    return "\n".join(["sha256sum --check <<'END'", *lines, "END"])


def model_card(params: Params, inputs: Inputs, paths: Paths, card: Path) -> str:
    """The whole card as text; `card` is where it will stand, for the relative links to files."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # that is for HTML; `finalize` escapes every value as Markdown
        finalize=markdown_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS | {"code": code, "fenced": fenced, "quoted": quoted, "raw": Markup}
    plots = plots_in_order(inputs.plots)
    linked = [
        *inputs.grids.values(),
        *(path for plot in plots for path in (plot.png, plot.svg) if path),
        *(file.path for file in inputs.hashed),
    ]
    skipped_named, skipped_more = named_skipped(inputs.evaluation.skipped)
    return environment.get_template("card.md.jinja").render(
        report_facts(params, inputs),
        front_matter=Markup(front_matter(params, inputs)),
        links={path: link(path, card) for path in linked},
        paths=paths,
        plots=plots,
        rows=extremes(inputs.rows, EXTREMES, inputs.change),
        skipped_named=skipped_named,
        skipped_more=skipped_more,
        checksums=checksum_command(inputs.hashed, card),
    )
