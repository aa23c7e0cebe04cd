"""Merge checkpoints and LoKr files by a formula, to a single file as WebUI and ComfyUI open it, a diffusers folder, or both.

    python stages/merge.py --formula "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)" \\
        --model beta7=FILE --model anxl3=FILE --model anxl2=FILE --model base7=FILE --out gamma_rev1.safetensors

In the pipeline, with the parameters' formula:

    python stages/merge.py --model base=models/base --model trained=models/lokr.safetensors \\
        --out models/sample.safetensors --layout both --report reports/merge.json

Formulas know + - * /, decimals and parentheses, and the functions lokr(x, trained, w), mbw(a, b, [20 weights]),
restore_embeddings(x, original), weighted_sum(a, b, w) and add_difference(a, b, c, w). They are evaluated as written, in separate
float32 operations, and rounded once. Models are single files or diffusers folders of any float type; a formula of one name
converts between the layouts. WebUI and ComfyUI open the single file; diffusers opens it without any network with

    StableDiffusionXLPipeline.from_single_file(FILE, config=FOLDER, local_files_only=True, torch_dtype=torch.float32)
    StableDiffusionXLPipeline.from_pretrained(FOLDER, local_files_only=True, torch_dtype=torch.float32)

where FOLDER gives the configs and tokenizers (without `config`, diffusers asks the hub for those of the real SDXL).

Of Stable Cascade the single file is ComfyUI's of stage C, with text encoder and image encoder; the folder has the decoder of
the folder that the configs come from, as it is there, and in comfyui-decoder.safetensors as ComfyUI's file of stages B and A.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import refuse_foreign_folder, sha256_file
from repro.outputs import write_json

from checkpoints.cascade_parts import DECODER, write_decoder_file
from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import DEFAULT_RESOLUTION, FolderConfigs
from checkpoints.explain import explain
from checkpoints.formula_command import FormulaJob, add_formula_options, formula_job
from checkpoints.layouts import folder_tensors, write_diffusers, write_single_file
from checkpoints.metadata import autov2, merge_recipe, modelspec
from checkpoints.model_family import CASCADE
from checkpoints.operands import Operands
from checkpoints.rounding import PRECISIONS, Precision
from checkpoints.schedule import Schedule


@dataclass(frozen=True)
class Job:
    """What one run is asked for; `stated` is what the recipe says of the model, by ModelSpec's names."""

    formula: FormulaJob
    precision: Precision
    title: str
    stated: Mapping[str, str]
    name: str


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    job = read_job(args)
    operands = job.formula.open()
    left_out = operands.family.without_a_folder if args.layout == "diffusers" else ()
    merge = job.formula.merge(operands, job.precision, left_out)
    if args.explain:
        print(explain(job.formula.formula, merge))
        return
    single_file, folder = output_paths(args)
    configs = job.formula.needed_configs(operands) if folder else job.formula.configs(operands)
    if folder:
        folder_tensors(merge.specs, configs)  # before the single file is computed for nothing
    schedule = operands.schedule(configs)
    source, report = merge, {"name": job.name, "formula": job.formula.formula.text, "dtype": job.precision.name}
    report["inputs"] = {"sha256": operands.hashes}
    if single_file:
        data_digest = write_single_file(
            single_file, merge, lambda digest: header(job, operands, configs, schedule, digest), schedule
        )
        report["single_file"] = describe(single_file, data_digest, len(merge.specs))
        source = Checkpoint(single_file)
    if folder:
        beside = write_decoder_file if configs.family is CASCADE and DECODER in configs.copied else None
        write_diffusers(folder, source, configs.with_schedule(schedule), beside)
        print(f"{folder}: {len(source.specs):,} tensors, {job.formula.formula.text}, as {job.precision.name}")
    report["components"] = merge.changes
    if args.report:
        write_json(args.report, report)
    for key, value in report.get("single_file", {}).items():
        print(f"{key}: {value}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add_formula_options(parser, "merge")
    parser.add_argument("--out", type=Path, help="output: a .safetensors file; with --layout diffusers, a folder")
    parser.add_argument(
        "--layout", choices=("single-file", "diffusers", "both"), default="single-file",
        help="both: also a diffusers folder, named as the file without its ending (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=PRECISIONS, help="default: the recipe's, or fp16 with --formula")
    parser.add_argument(
        "--fp8-tensors", choices=("all", "linear-and-conv"),
        help="with fp8: all tensors, or weights of linear and convolution layers, the rest fp16 (default: the recipe's, or all)",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, help="output: JSON with hashes and what changed")
    args = parser.parse_args(arguments)
    if args.out is None and not args.explain:
        parser.error("--out is needed")
    if args.formula is not None and args.overrides:
        parser.error("--set changes the parameter file's values; with --formula nothing is taken from it")
    return args


def read_job(args: argparse.Namespace) -> Job:
    """The job of the command line, and of the parameters where no formula is given there."""
    if args.formula is not None:
        precision = Precision(args.dtype or "fp16", fp8_layers_only=args.fp8_tensors == "linear-and-conv")
        return Job(formula_job(args, None, None), precision, args.formula, {}, args.out.stem if args.out else "")
    params = parameters(args)
    recipe = params.merge
    precision = Precision(args.dtype or recipe.dtype, (args.fp8_tensors or recipe.fp8_tensors) == "linear-and-conv")
    stated = {"author": recipe.author, "date": recipe.date, "license": recipe.license}
    return Job(formula_job(args, recipe, params.models, params.family), precision, recipe.title, stated, recipe.name)


def output_paths(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The single file and the folder to write.

    Raises:
        StageError: a name of the other kind, or something else is in the way.
    """
    if args.layout == "diffusers":
        if args.out.suffix == ".safetensors":
            raise StageError(f"--out {args.out}: a diffusers output is a folder; name it without .safetensors")
        refuse_foreign_folder(args.out)
        return None, args.out
    if args.out.suffix != ".safetensors" or args.out.is_dir():
        raise StageError(f"--out {args.out}: a single file's name ends in .safetensors")
    if args.layout == "single-file":
        return args.out, None
    refuse_foreign_folder(args.out.with_suffix(""))
    return args.out, args.out.with_suffix("")


def header(job: Job, operands: Operands, configs: FolderConfigs | None, schedule: Schedule, data_digest: str) -> dict[str, str]:
    """The single file's metadata."""
    spec = modelspec(
        family=operands.family,
        title=job.title,
        merged_from=", ".join(operands.hashes),
        resolution=configs.resolution if configs else DEFAULT_RESOLUTION,
        prediction_type=schedule.modelspec,
        data_sha256=data_digest,
        stated=job.stated,
    )
    recipe = {
        "formula": job.formula.formula.text,
        "models": operands.hashes,
        "dtype": job.precision.name,
        "fp8_tensors": "linear-and-conv" if job.precision.fp8_layers_only else "all",
        "unmatched": job.formula.unmatched,
        "unchanged": job.formula.unchanged,
    }
    return spec | merge_recipe(recipe)


def describe(path: Path, data_digest: str, tensors: int) -> dict[str, Any]:
    digest = sha256_file(path)
    return {
        "sha256": digest,
        "autov2": autov2(digest),
        "data_sha256": data_digest,
        "bytes": path.stat().st_size,
        "tensors": tensors,
    }


if __name__ == "__main__":
    run_stage(main)
