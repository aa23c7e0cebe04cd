"""Whether merged and converted checkpoints hold what they must, read tensor by tensor."""

from pathlib import Path

import numpy as np
from merge_data import lokr_name
from safetensors import safe_open


def require_equal_files(expected: Path, found: Path, what: str) -> int:
    """The number of values in each of two files that must hold the same.

    Raises:
        ValueError: the files have other tensors, or a tensor has another type, shape or bit.
    """
    values = 0
    with safe_open(expected, "numpy") as one, safe_open(found, "numpy") as other:
        if set(one.keys()) != set(other.keys()):
            raise ValueError(f"{what}: other tensors: {sorted(set(one.keys()) ^ set(other.keys()))[:5]}")
        for name in one.keys():  # noqa: SIM118  (a file, not a mapping)
            _require_same(one.get_tensor(name), other.get_tensor(name), f"{what}: {name}")
            values += one.get_tensor(name).size
    return values


def require_equal_folders(expected: Path, found: Path, what: str) -> None:
    """That all weight files of two diffusers folders hold the same."""
    files = sorted(path.relative_to(expected) for path in expected.rglob("*.safetensors"))
    if files != sorted(path.relative_to(found) for path in found.rglob("*.safetensors")):
        raise ValueError(f"{what}: other weight files than {', '.join(map(str, files))}")
    for file in files:
        require_equal_files(expected / file, found / file, f"{what}: {file}")


def require_lokr_merged(base: Path, lokr: Path, merged: Path, what: str) -> int:
    """The number of tensors that the LoKr changes; `merged` must be the base + kron(w1, w2), summed in float32.

    Raises:
        ValueError: another tensor, type, shape or bit in `merged`.
    """
    changed = 0
    with safe_open(base, "numpy") as before, safe_open(lokr, "numpy") as change, safe_open(merged, "numpy") as after:
        modules = {key.split(".")[0] for key in change.keys()}  # noqa: SIM118
        if set(before.keys()) != set(after.keys()):
            raise ValueError(f"{what}: other tensors: {sorted(set(before.keys()) ^ set(after.keys()))[:5]}")
        for name in before.keys():  # noqa: SIM118
            expected = before.get_tensor(name)
            module = lokr_name(name)
            if name.endswith(".weight") and module in modules:
                w1, w2 = (change.get_tensor(f"{module}.{factor}").astype(np.float32) for factor in ("lokr_w1", "lokr_w2"))
                delta = np.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2)
                expected = (expected.astype(np.float32) + delta).astype(expected.dtype)
                changed += 1
            _require_same(expected, after.get_tensor(name), f"{what}: {name}")
    if changed != len(modules):
        raise ValueError(f"{what}: {changed} of {len(modules)} modules have a tensor in {base.name}")
    return changed


def _require_same(expected: np.ndarray, found: np.ndarray, what: str) -> None:
    if expected.dtype != found.dtype or expected.shape != found.shape or expected.tobytes() != found.tobytes():
        raise ValueError(f"{what}: expected {expected.dtype}{list(expected.shape)}, found other values, or another type or shape")
