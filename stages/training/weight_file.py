"""The file of trained weights as WebUI and ComfyUI open it: a LoKr, or a whole checkpoint where all weights are trained."""

import json
from collections.abc import Mapping
from pathlib import Path

from repro.params import Params
from repro.tensorfile import write_tensors

import torch

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import open_folder
from checkpoints.formula import parse_formula
from checkpoints.layouts import write_single_file
from checkpoints.merging import Merge
from checkpoints.metadata import modelspec
from checkpoints.operands import Operands
from checkpoints.rounding import Precision
from training.adapters import lokr_tensors

# What kohya's trainer writes, as far as it is true here and readers look at it: type and base of the network.
BASE_VERSIONS = {"sdxl": "sdxl_base_v1-0", "cascade": "stable_cascade"}
LOKR_METADATA = {
    family: {
        "ss_base_model_version": version,
        "ss_network_args": json.dumps({"algo": "lokr", "full_matrix": "True"}, sort_keys=True),
        "ss_network_module": "lycoris.kohya",
    }
    for family, version in BASE_VERSIONS.items()
}
# The checkpoint's name in formulas and its title: a recipe's title is the merged model's, and does not decide this file.
NAME = "trained"


def write_weights(path: Path, trained: Mapping[str, torch.Tensor], params: Params, base: Path) -> None:
    """Write the trained tensors, in `train.file_dtype`: as a LoKr file, or, for `train.method` full, with the rest of the
    model from `base` in the single-file layout.

    Args:
        trained: on the CPU, by their names in a LoKr file, or `<component>.<name>`. base: diffusers folder that was trained.
    Raises:
        StageError: method full, and the base is not whole, lacks a trained tensor, or a number is not finite in this type.
    """
    if params.train.method == "lokr":
        write_tensors(path, lokr_tensors(trained, params.train.file_dtype), LOKR_METADATA[params.family])
    else:
        _write_checkpoint(path, trained, params.train.file_dtype, base)


def _write_checkpoint(path: Path, trained: Mapping[str, torch.Tensor], file_dtype: str, base: Path) -> None:
    folder = open_folder(base).with_tensors(trained)
    configs = folder.configs
    model = Merge(parse_formula(NAME), Operands({NAME: Checkpoint(folder)}, {}), Precision(file_dtype))

    def metadata(data_digest: str) -> dict[str, str]:
        return modelspec(configs.family, NAME, None, configs.resolution, configs.schedule.modelspec, data_digest, stated={})

    write_single_file(path, model, metadata, configs.schedule)
