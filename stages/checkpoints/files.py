"""Reading weight files, with errors for people."""

from pathlib import Path

from repro.errors import StageError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, in the types they are stored in.

    Raises:
        StageError: no such file, or not a whole safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise StageError(f"{path}: no such weight file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise StageError(f"{path}: not a whole safetensors file ({error}); fetch or make it again") from None
