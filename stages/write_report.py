"""Write the model card and the report page from the other stages' reports.

    python stages/write_report.py --funnel reports/filter.json --artists reports/artists.json \\
        --characters reports/characters.json --latents data/latents --history reports/train.csv \\
        --train-metrics reports/train.json --merge reports/merge.json --ccip reports/ccip.json \\
        --ccip-characters reports/ccip_characters.csv --ccip-plots reports/ccip --pictures reports/pictures \\
        --hash models/sample-ccip --hash data/sample/references.json \\
        --card reports/MODEL_CARD.md --page reports/index.html

The page is one HTML file with everything inside. Both outputs say only what the parameters and the
inputs say; parameters below `runtime` reach neither.
"""

from argparse import ArgumentParser
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.outputs import write_text

from reporting.card import model_card
from reporting.inputs import Paths, read_inputs
from reporting.page import report_page


def report_parser() -> ArgumentParser:
    parser = stage_parser(__doc__)
    parser.add_argument("--funnel", type=Path, required=True, help="JSON of the filter stage")
    parser.add_argument("--artists", type=Path, required=True, help="JSON of the caption stage: posts by artist")
    parser.add_argument("--characters", type=Path, required=True, help="JSON of the caption stage: posts by character")
    parser.add_argument("--latents", type=Path, required=True, help="folder of the cache-latents stage")
    parser.add_argument("--history", type=Path, required=True, help="CSV of the train stage")
    parser.add_argument("--train-metrics", type=Path, required=True, help="JSON of the train stage")
    parser.add_argument("--merge", type=Path, required=True, help="JSON of the merge stage")
    parser.add_argument("--ccip", type=Path, required=True, help="JSON of the evaluate-CCIP stage")
    parser.add_argument("--ccip-characters", type=Path, required=True, help="CSV of the evaluate-CCIP stage")
    parser.add_argument("--ccip-plots", type=Path, required=True, help="folder of the evaluate-CCIP stage with its plots")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the evaluate-CCIP stage with its picture sheets")
    parser.add_argument(
        "--hash", type=Path, dest="hashed", action="append", default=[], metavar="PATH",
        help="one more file or folder whose sha256 both outputs list; may be repeated",
    )  # fmt: skip
    parser.add_argument("--card", type=Path, required=True, help="Markdown to write: the model card")
    parser.add_argument("--page", type=Path, required=True, help="HTML to write: the report page")
    return parser


def main(arguments: list[str]) -> None:
    args = report_parser().parse_args(arguments)
    params = parameters(args)
    inputs = read_inputs(
        Paths(
            funnel=args.funnel,
            artists=args.artists,
            characters=args.characters,
            latents=args.latents,
            history=args.history,
            train_metrics=args.train_metrics,
            merge=args.merge,
            ccip=args.ccip,
            ccip_characters=args.ccip_characters,
            ccip_plots=args.ccip_plots,
            pictures=args.pictures,
            hashed=tuple(args.hashed),
        )
    )
    write_text(args.card, model_card(params, inputs, args.card))
    write_text(args.page, report_page(params, inputs))


if __name__ == "__main__":
    run_stage(main)
