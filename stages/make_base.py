"""Make the model that training starts from: a formula over published checkpoints, written as a canonical diffusers folder.

    python stages/make_base.py --output models/base
    python stages/make_base.py --formula "0.5 * restore_embeddings(gamma_rev2, sdxl) + 0.5 * restore_embeddings(beta7, sdxl)" \\
        --model gamma_rev2=FILE --model beta7=FILE --model sdxl=FOLDER --output models/base

SDXL's weights are written as fp16, the precision in which base models are published and merged, Stable Cascade's as fp32; JSON
without the folder names of the machine that saved it. Formulas are those of merge.py. Configs and tokenizers are taken from the
formula's first model that is a diffusers folder, else from the first that is listed. What the model predicts and its noise
schedule are written into its scheduler's config: base.prediction and base.zero_terminal_snr, or, where those are null, what the
markers of the formula's first model say, or the configs.

Stable Cascade's folder has the image encoder and the decoder too: those of base.image_encoder and base.decoder, or, where
those are null, the first model's own. Models may be whole folders, folders of a StableCascadePriorPipeline, ComfyUI's single
files, or Stability AI's file of stage C.
"""

from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import refuse_foreign_folder
from repro.params import Params

from checkpoints.cascade_parts import ENCODER_PREFIX, whole_base
from checkpoints.explain import explain
from checkpoints.formula import require_formulas
from checkpoints.formula_command import add_formula_options, formula_job
from checkpoints.layouts import write_diffusers
from checkpoints.model_family import CASCADE, SDXL
from checkpoints.rounding import Precision

# What adds the parts of a base that the formula does not name, by the family's title; None where it names all.
ADD_PARTS = {SDXL.title: None, CASCADE.title: whole_base}


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    add_formula_options(parser, "base")
    parser.add_argument("--output", type=Path, required=True, help="diffusers folder to write")
    args = parser.parse_args(arguments)
    params = None if args.formula is not None else parameters(args)
    if params:
        require_formulas(params)
    job = formula_job(args, params and params.base, params and params.models, params and params.family)
    operands = job.open()
    precision = Precision(operands.family.base_precision)
    image_encoder, decoder = cascade_parts(params)
    left_out = operands.family.without_a_folder + ((ENCODER_PREFIX,) if image_encoder else ())
    merge = job.merge(operands, precision, left_out)
    if args.explain:
        print(explain(job.formula, merge))
        return
    refuse_foreign_folder(args.output)
    configs = job.needed_configs(operands)
    schedule = operands.schedule(configs)
    if params:
        schedule = schedule.changed(params.base.prediction, params.base.zero_terminal_snr)
    source = merge
    if add_parts := ADD_PARTS[operands.family.title]:
        source, configs = add_parts(merge, configs, image_encoder, decoder, precision)
    write_diffusers(args.output, source, configs.with_schedule(schedule))
    numbers = sum(spec.elements for spec in source.specs.values())
    print(f"{args.output}: {numbers:,} weights, {job.formula.text}, as {precision.name}")


def cascade_parts(params: Params | None) -> tuple[Path | None, Path | None]:
    """Where the parameters say that the image encoder and the decoder are; None where they do not."""
    named = (params.base.image_encoder, params.base.decoder) if params else (None, None)
    return tuple(Path(params.models.folder, part) if part is not None else None for part in named)


if __name__ == "__main__":
    run_stage(main)
