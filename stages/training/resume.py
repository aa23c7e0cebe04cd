"""Saved state of a run: weights, optimizer state and log rows in one file, written whole."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from repro.tensorfile import write_tensors

import torch
from safetensors import safe_open

KEPT = 2


@dataclass
class Row:
    """One line of the training history: the mean weighted loss of an update's images and its rates."""

    update: int
    loss: float
    lr: float
    te_lr: float
    grad_norm: float


def _saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("update-*.safetensors"))


def save_state(folder: Path, weights: torch.Tensor, optimizer: dict[str, torch.Tensor], history: list[Row]) -> None:
    """Save after `len(history)` updates; the two newest states are kept."""
    tensors = {"weights": weights, **{f"optimizer.{name}": tensor for name, tensor in optimizer.items()}}
    rows = json.dumps([asdict(row) for row in history])
    write_tensors(folder / f"update-{len(history):08d}.safetensors", tensors, {"history": rows})
    for old in _saved(folder)[:-KEPT]:
        old.unlink()


def load_state(folder: Path, weights: torch.Tensor, optimizer: dict[str, torch.Tensor]) -> list[Row]:
    """Put the newest saved state into `weights` and `optimizer`; returns its history, empty at the start."""
    saved = _saved(folder)
    if not saved:
        return []
    with safe_open(saved[-1], framework="pt") as file:
        weights.copy_(file.get_tensor("weights"))
        for name, tensor in optimizer.items():
            tensor.copy_(file.get_tensor(f"optimizer.{name}"))
        return [Row(**row) for row in json.loads(file.metadata()["history"])]
