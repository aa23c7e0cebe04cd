"""Make the model that training starts from: check a named diffusers folder and write it in canonical form.

    python stages/make_base.py --base-dir models/sample-base --output models/base

Weights are written as fp16, the precision in which base models are published and merged; JSON without
the folder names of the machine that saved it. The same folder gives the same bytes.
"""

from pathlib import Path

from repro.command import stage_parser
from repro.errors import StageError, run_stage

import torch

from checkpoints.diffusers_folder import TOKENIZERS, DiffusersModel, read_folder, write_folder
from checkpoints.keymap import Tensors


def check_tokenizers(model: DiffusersModel) -> None:
    """Raises:
    StageError: a tokenizer has no vocabulary of its own."""
    for tokenizer in TOKENIZERS:
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            if not (model.folder / tokenizer / name).is_file():
                raise StageError(f"{model.folder / tokenizer / name}: missing; expected the diffusers folder of an SDXL model")


def to_fp16(model: DiffusersModel) -> dict[str, Tensors]:
    """The weights by component, floating point ones rounded to fp16.

    Raises:
        StageError: a weight is not finite, or too large for fp16.
    """
    rounded: dict[str, Tensors] = {}
    for component, tensors in model.models.items():
        rounded[component] = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        for name, tensor in rounded[component].items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                cause = "too large for fp16" if bool(torch.isfinite(tensors[name]).all()) else "not finite (NaN or infinite)"
                raise StageError(f"{model.folder / component}: weight {name} is {cause}; use another base model")
    return rounded


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--base-dir", type=Path, required=True, help="diffusers folder of an SDXL model")
    parser.add_argument("--output", type=Path, required=True, help="diffusers folder to write")
    args = parser.parse_args(arguments)
    model = read_folder(args.base_dir)
    check_tokenizers(model)
    write_folder(args.output, model, to_fp16(model))
    numbers = sum(tensor.numel() for tensors in model.models.values() for tensor in tensors.values())
    print(f"{args.output}: {numbers:,} weights of {args.base_dir} as fp16")


if __name__ == "__main__":
    run_stage(main)
