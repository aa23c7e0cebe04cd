"""Write the model card and the report page from the other stages' reports.

    python stages/write_report.py --selection reports/select.json --funnel reports/filter.json \\
        --captions reports/captions.json --artists reports/artists.json --characters reports/characters.json \\
        --latents data/latents --history reports/train.csv --train-metrics reports/train.json \\
        --training-pictures reports/training_pictures --trained models/lokr.safetensors --checkpoints models/checkpoints \\
        --merge reports/merge.json --model models/sample.safetensors --references data/references.json \\
        --pictures-list data/pictures/base/pictures.csv --ccip reports/ccip.json --ccip-characters reports/ccip_characters.csv \\
        --ccip-run reports/ccip_run.json --ccip-plots reports/ccip --pictures reports/pictures \\
        --card reports/MODEL_CARD.md --page reports/index.html

The page is one HTML file with everything inside. Both outputs say only what the parameters and the
inputs say; parameters below `runtime`, `inputs` and `card` reach neither.
"""

from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.outputs import write_text

from reporting.card import model_card
from reporting.inputs import Paths, read_inputs
from reporting.page import report_page

# (option, what it names); each is the field of the same name of reporting.inputs.Paths.
INPUTS = (
    ("--selection", "JSON of the select stage"),
    ("--funnel", "JSON of the filter stage"),
    ("--captions", "JSON of the caption stage"),
    ("--artists", "JSON of the caption stage: posts by artist"),
    ("--characters", "JSON of the caption stage: posts by character"),
    ("--latents", "folder of the cache-latents stage"),
    ("--history", "CSV of the train stage"),
    ("--train-metrics", "JSON of the train stage"),
    ("--training-pictures", "folder of the train stage with the pictures of its middle"),
    ("--trained", "trained weights"),
    ("--checkpoints", "folder of the train stage with the weights of its middle"),
    ("--merge", "JSON of the merge stage"),
    ("--model", "single file of the merge stage"),
    ("--references", "references.json of the references stage"),
    ("--pictures-list", "pictures.csv of the first model, by the generate stage"),
    ("--ccip", "JSON of the evaluate-CCIP stage: the scores"),
    ("--ccip-characters", "CSV of the evaluate-CCIP stage"),
    ("--ccip-run", "JSON of the evaluate-CCIP stage: what was scored"),
    ("--ccip-plots", "folder of the evaluate-CCIP stage with its plots"),
    ("--pictures", "folder of the evaluate-CCIP stage with its picture grids and sheets"),
)


def report_parser() -> ArgumentParser:
    parser = stage_parser(__doc__)
    for option, words in INPUTS:
        parser.add_argument(option, type=Path, required=True, help=words)
    parser.add_argument("--card", type=Path, required=True, help="Markdown to write: the model card")
    parser.add_argument("--page", type=Path, required=True, help="HTML to write: the report page")
    return parser


def main(arguments: list[str]) -> None:
    args = report_parser().parse_args(arguments)
    params = parameters(args)
    paths = Paths(**{field.name: getattr(args, field.name) for field in fields(Paths)})
    inputs = read_inputs(paths)
    card, page = model_card(params, inputs, paths, args.card), report_page(params, inputs, paths)
    write_text(args.card, card)
    write_text(args.page, page)


if __name__ == "__main__":
    run_stage(main)
