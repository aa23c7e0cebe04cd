"""Saved state of a run: weights, optimizer state and everything that was counted, in one file, written whole.

The file holds the whole run's tensors, however many processes held shares of them, so that any number of processes can
go on from it. Rank 0 writes and reads it and tells the others: machines need no shared file system.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.tensorfile import write_tensors

import torch
from safetensors import SafetensorError, safe_open

from training.flat import FlatWeights
from training.loss_scale import LossScale
from training.optimizers import Optimizer
from training.ranks import Ranks

KEPT = 2
COUNTS, LOSS_WEIGHTS = "counts", "loss weights"


@dataclass
class Row:
    """One line of the training history: the mean weighted loss of an update's images, its rates and the norm of its
    gradient before clipping, None where fp16 overflowed and the update was skipped."""

    update: int
    loss: float
    lr: float
    te_lr: float
    grad_norm: float | None


@dataclass
class RunState:
    """What a run has counted: a row for every update, how many of them changed the weights, and fp16's loss scale."""

    history: list[Row] = field(default_factory=list)
    applied: int = 0
    scale: LossScale | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RunState":
        values: dict[str, Any] = json.loads(text)
        scale = None if values["scale"] is None else LossScale(**values["scale"])
        return cls([Row(**row) for row in values["history"]], values["applied"], scale)


def _saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("update-*.safetensors"))


def save_state(
    folder: Path, ranks: Ranks, flat: FlatWeights, optimizer: Optimizer, state: RunState, loss_weights: torch.Tensor | None = None
) -> None:
    """Save after `len(state.history)` updates; the two newest states are kept. Every rank takes part, rank 0 writes.

    Args:
        loss_weights: what every process has alike of weights that follow the losses; None where they do not.
    """
    tensors = {"weights": flat.weights.cpu()} if ranks.rank == 0 else {}
    if loss_weights is not None:
        tensors[LOSS_WEIGHTS] = loss_weights
    for name in sorted(optimizer.state):
        share = optimizer.state[name]
        tensors[f"optimizer.{name}"] = share.cpu() if optimizer.replicated else ranks.assemble(share, *optimizer.places[name])
    if ranks.rank == 0:
        # A tensor, since a header is not made for the history of a million updates.
        tensors[COUNTS] = torch.frombuffer(bytearray(state.to_json().encode()), dtype=torch.uint8)
        write_tensors(folder / f"update-{len(state.history):08d}.safetensors", tensors)
        for old in _saved(folder)[:-KEPT]:
            old.unlink()


def _read(
    file: Path, flat: FlatWeights, optimizer: Optimizer, loss_weights: torch.Tensor | None
) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors and the counts of a saved state, whose names and sizes must be those of this run.

    Raises:
        StageError: a broken file, or one of another run.
    """
    sizes = {"weights": len(flat.weights)} | ({} if loss_weights is None else {LOSS_WEIGHTS: len(loss_weights)})
    for name, share in optimizer.state.items():
        sizes[f"optimizer.{name}"] = share.numel() if optimizer.replicated else optimizer.places[name][1]
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - safe_open is no mapping
            counts = tensors.pop(COUNTS, None)
    except (SafetensorError, OSError) as error:
        raise StageError(f"{file}: not a whole saved state ({error}); remove it to go on from the one before") from None
    if counts is None or {name: tensor.numel() for name, tensor in tensors.items()} != sizes:
        raise StageError(f"{file}: its tensors are not those of this run; it is of another recipe or program. Remove it")
    return tensors, counts.numpy().tobytes().decode()


def load_state(
    folder: Path, ranks: Ranks, flat: FlatWeights, optimizer: Optimizer, loss_weights: torch.Tensor | None = None
) -> RunState | None:
    """Put the newest saved state that rank 0 has into `flat`, `optimizer` and `loss_weights` of every rank; None where there is
    none.

    Raises:
        StageError: the newest file is broken or of another run.
    """
    saved = _saved(folder) if ranks.rank == 0 else []
    tensors, counts = _read(saved[-1], flat, optimizer, loss_weights) if saved else ({}, "")
    counts = ranks.text_from_first(counts)
    if not counts:
        return None
    flat.weights.copy_(ranks.from_first(tensors.get("weights", torch.empty(len(flat.weights)))))
    if loss_weights is not None:
        loss_weights.copy_(ranks.from_first(tensors.get(LOSS_WEIGHTS, torch.empty_like(loss_weights))))
    for name, share in sorted(optimizer.state.items()):
        first, total = (0, share.numel()) if optimizer.replicated else optimizer.places[name]
        whole = ranks.from_first(tensors.get(f"optimizer.{name}", torch.empty(total, dtype=share.dtype)).flatten())
        share.copy_(whole[first : first + share.numel()].view_as(share))
    return RunState.from_json(counts)
