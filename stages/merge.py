"""Merge the base model and the trained LoKr: a diffusers folder, and one file in SDXL's original layout.

    python stages/merge.py --base models/base --lokr models/lokr.safetensors \\
        --single-file models/sample.safetensors --diffusers models/sample --report reports/merge.json

Every weight is W + merge.lokr_weight * kron(w1, w2) in float32, rounded once to merge.precision. WebUI and ComfyUI open
the single file; diffusers opens it without any network, to the same pictures as the folder, with

    StableDiffusionXLPipeline.from_single_file(FILE, config=FOLDER, local_files_only=True, torch_dtype=torch.float32)
    StableDiffusionXLPipeline.from_pretrained(FOLDER, local_files_only=True, torch_dtype=torch.float32)

where FOLDER gives the configs and tokenizers (without `config`, diffusers asks the hub for those of the real SDXL).
"""

from pathlib import Path
from typing import Any

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import sha256_file
from repro.numerics import fix_torch
from repro.outputs import write_json
from repro.params import Merge
from repro.tensorfile import data_sha256, write_tensors

from checkpoints.diffusers_folder import DiffusersModel, read_folder, write_folder
from checkpoints.keymap import Architecture, Layout, component_of, to_diffusers, to_single_file
from checkpoints.lokr import read_lokr
from checkpoints.merging import PRECISIONS, Merged, merge_lokr
from checkpoints.metadata import autov2, merge_recipe, modelspec


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder of the model that was trained on")
    parser.add_argument("--lokr", type=Path, required=True, help="LoKr file to add")
    parser.add_argument("--single-file", type=Path, required=True, help="output: one .safetensors in SDXL's original layout")
    parser.add_argument("--diffusers", type=Path, required=True, help="output: diffusers folder")
    parser.add_argument("--report", type=Path, required=True, help="output: JSON with hashes and what changed")
    args = parser.parse_args(arguments)
    recipe = parameters(args).merge
    fix_torch()

    base = read_folder(args.base)
    layout = Layout(Architecture.from_configs(base.configs))
    merged = merge_lokr(
        to_single_file(base.models, layout), read_lokr(args.lokr), recipe.lokr_weight, PRECISIONS[recipe.precision],
        layout, str(args.base), str(args.lokr),
    )  # fmt: skip
    inputs = {"base": base.sha256, "trained": sha256_file(args.lokr)}
    data_digest = data_sha256(merged.tensors)
    write_tensors(args.single_file, merged.tensors, header(recipe, base, inputs, data_digest))
    write_folder(args.diffusers, base, to_diffusers(merged.tensors, layout))
    write_json(args.report, report(recipe, base, inputs, merged, args.single_file, data_digest))


def header(recipe: Merge, base: DiffusersModel, inputs: dict[str, str], data_digest: str) -> dict[str, str]:
    """The single file's metadata."""
    spec = modelspec(
        title=recipe.title,
        author=recipe.author,
        date=recipe.date,
        license=recipe.license,
        resolution=base.resolution,
        prediction_type=base.configs["scheduler"]["prediction_type"],
        data_sha256=data_digest,
    )
    return spec | merge_recipe(f"lokr(base, trained, {recipe.lokr_weight})", inputs)


def report(
    recipe: Merge, base: DiffusersModel, inputs: dict[str, str], merged: Merged, single_file: Path, data_digest: str
) -> dict[str, Any]:
    file_digest = sha256_file(single_file)
    return {
        "name": recipe.name,
        "weight": recipe.lokr_weight,
        "precision": recipe.precision,
        "inputs": {"sha256": inputs, "base_files": base.weight_hashes},
        "single_file": {
            "sha256": file_digest,
            "autov2": autov2(file_digest),
            "data_sha256": data_digest,
            "bytes": single_file.stat().st_size,
            "tensors": len(merged.tensors),
        },
        "components": {
            component: {
                "tensors": sum(component_of(name) == component for name in merged.tensors),
                "lokr_modules": modules,
                "changed": merged.changed[component],
            }
            for component, modules in merged.modules.items()
        },
    }


if __name__ == "__main__":
    run_stage(main)
