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

from reporting.facts import base_models, extremes, report_facts
from reporting.records import Inputs
from reporting.wording import FILTERS

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


def license_fields(name: str) -> dict[str, str]:
    """The front matter's licence keys."""
    short = name.lower()
    return {"license": short} if short in HUB_LICENSES else {"license": "other", "license_name": short.replace(" ", "-")}


def front_matter(params: Params, inputs: Inputs) -> str:
    """YAML that the hub reads: licence, tags, base model, and the score as an evaluation result."""
    evaluation = inputs.evaluation
    fields = {
        **license_fields(params.merge.license),
        "language": ["en"],
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": names[0] if len(names := base_models(params)) == 1 else names,
        "base_model_relation": "finetune",
        "tags": [
            "text-to-image",
            "stable-diffusion-xl",
            "anime",
            "art",
            *(["lokr", "lycoris"] if params.train.method == "lokr" else []),
        ],
        "model-index": [
            {
                "name": params.report.title,
                "results": [
                    {
                        "task": {"type": "text-to-image"},
                        "dataset": {"type": "references", "name": f"{evaluation.characters} characters"},
                        "metrics": [
                            {
                                "type": "ccip-score",
                                "name": "CCIP score, mean over characters",
                                "value": evaluation.models.merged.score,
                            }
                        ],
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)


def model_card(params: Params, inputs: Inputs, card: Path) -> str:
    """The whole card as text; `card` is where it will stand, for the relative link to the picture grid."""
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
    return environment.get_template("card.md.jinja").render(
        report_facts(params, inputs),
        front_matter=Markup(front_matter(params, inputs)),
        grid_link=Markup(quote(Path(os.path.relpath(inputs.grid, card.parent)).as_posix())),
        rows=extremes(inputs.rows, EXTREMES),
    )
