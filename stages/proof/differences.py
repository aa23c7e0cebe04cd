"""The first difference between two files or folders, in the terms of their contents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.hashing import CHUNK

import numpy as np
import polars as pl
import torch
from PIL import Image
from safetensors import safe_open

SHOWN = 60
MISSING = object()


def same_bytes(a: Path, b: Path) -> bool:
    if a.stat().st_size != b.stat().st_size:
        return False
    with open(a, "rb") as first, open(b, "rb") as second:
        while block := first.read(CHUNK):
            if block != second.read(CHUNK):
                return False
    return True


def _short(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _pair(a: Any, b: Any) -> str:
    return f"{_short(a)} | {_short(b)}"


def _tensor_difference(name: str, a: torch.Tensor, b: torch.Tensor) -> str | None:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"tensor {name}: {a.dtype} {list(a.shape)} | {b.dtype} {list(b.shape)}"
    raw_a, raw_b = (t.contiguous().reshape(-1).view(torch.uint8).reshape(t.numel(), -1) for t in (a, b))
    differing = (raw_a != raw_b).any(dim=1)
    if not bool(differing.any()):
        return None
    first = int(differing.int().argmax())
    index = [int(i) for i in np.unravel_index(first, a.shape)] if a.ndim else []
    difference = (a.double() - b.double()).abs()
    return (
        f"tensor {name}, index {index}: {_pair(a.flatten()[first].item(), b.flatten()[first].item())}"
        f" ({int(differing.sum())} of {a.numel()} numbers differ, by at most {float(difference.max()):.3g})"
    )


def tensors_difference(a: Path, b: Path) -> str:
    """First differing tensor by name, with its first differing index and the largest absolute difference."""
    with safe_open(a, framework="pt") as first, safe_open(b, framework="pt") as second:
        names, others = set(first.keys()), set(second.keys())
        for name in sorted(names | others):
            if name not in names or name not in others:
                return f"tensor {name} is only in the {'first' if name in names else 'second'}"
            if found := _tensor_difference(name, first.get_tensor(name), second.get_tensor(name)):
                return found
        metadata, other_metadata = first.metadata() or {}, second.metadata() or {}
    for key in sorted(metadata.keys() | other_metadata.keys()):
        if metadata.get(key) != other_metadata.get(key):
            return f"equal tensors; metadata {key}: {_pair(metadata.get(key, MISSING), other_metadata.get(key, MISSING))}"
    return "equal tensors and metadata; the header is written differently"


def _rows_difference(a: pl.DataFrame, b: pl.DataFrame) -> str | None:
    """First row, and in it the first column, that differs; the row is also named by its first column (update, id, ...)."""
    if a.schema != b.schema:
        return f"columns {_pair(dict(a.schema), dict(b.schema))}"
    key = a.columns[0] if a.columns else ""
    for number, (row, other) in enumerate(zip(a.iter_rows(), b.iter_rows(), strict=False)):
        for column, value, other_value in zip(a.columns, row, other, strict=True):
            if value != other_value and not (value != value and other_value != other_value):
                return f"row {number} ({key} {_short(row[0])}), column {column}: {_pair(value, other_value)}"
    return None if a.height == b.height else f"{a.height} rows | {b.height} rows, equal as far as both go"


def parquet_difference(a: Path, b: Path) -> str:
    return _rows_difference(pl.read_parquet(a), pl.read_parquet(b)) or "equal tables; the container is written differently"


def csv_difference(a: Path, b: Path) -> str:
    """Numbers are compared as they are written: the first update of a training history whose text differs."""
    tables = [pl.read_csv(path, infer_schema=False) for path in (a, b)]
    return _rows_difference(*tables) or text_difference(a, b)


def _json_leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {leaf: v for key in sorted(value) for leaf, v in _json_leaves(value[key], f"{path}.{key}").items()}
    if isinstance(value, list) and value:
        return {leaf: v for i, item in enumerate(value) for leaf, v in _json_leaves(item, f"{path}[{i}]").items()}
    return {path.removeprefix("."): value}


def json_difference(a: Path, b: Path) -> str:
    leaves, others = (_json_leaves(json.loads(path.read_text(encoding="utf-8"))) for path in (a, b))
    for key in [*leaves, *(key for key in others if key not in leaves)]:
        if (value := leaves.get(key, MISSING)) != (other := others.get(key, MISSING)):
            return f"{key}: {_pair(value, other)}"
    return text_difference(a, b)


def text_difference(a: Path, b: Path) -> str:
    """First differing line, shown from shortly before the place where it differs."""
    lines = [path.read_bytes().decode("utf-8", "replace").split("\n") for path in (a, b)]
    for number, (line, other) in enumerate(zip(*lines, strict=False), start=1):
        if line != other:
            at = next((i for i, (x, y) in enumerate(zip(line, other, strict=False)) if x != y), min(len(line), len(other)))
            start = max(0, at - 20)
            return f"line {number}, column {at + 1}: {_pair(line[start:], other[start:])}"
    counts = [len(side) for side in lines]
    return f"equal up to line {min(counts)}, where the {'first' if counts[0] < counts[1] else 'second'} ends"


def picture_difference(a: Path, b: Path) -> str:
    with Image.open(a) as first, Image.open(b) as second:
        if (first.mode, first.size) != (second.mode, second.size):
            return f"{first.mode} {first.size} | {second.mode} {second.size}"
        pixels, others = (np.atleast_3d(np.asarray(picture)) for picture in (first, second))
    differing = (pixels != others).any(axis=-1)
    if not differing.any():
        return "equal pixels; the file is written differently"
    y, x = (int(i) for i in np.argwhere(differing)[0])
    largest = int(np.abs(pixels.astype(int) - others.astype(int)).max())
    return (
        f"pixel x={x} y={y}: {_pair(pixels[y, x].tolist(), others[y, x].tolist())}"
        f" ({int(differing.sum())} of {differing.size} pixels differ, by at most {largest})"
    )


def byte_difference(a: Path, b: Path) -> str:
    first, second = a.read_bytes(), b.read_bytes()
    at = next((i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y), min(len(first), len(second)))
    return f"byte {at} of {len(first)} | {len(second)}: {_pair(first[at : at + 8].hex(' '), second[at : at + 8].hex(' '))}"


READERS: dict[str, Callable[[Path, Path], str]] = {
    ".safetensors": tensors_difference,
    ".parquet": parquet_difference,
    ".csv": csv_difference,
    ".json": json_difference,
    **dict.fromkeys([".md", ".html", ".txt", ".yaml", ".svg"], text_difference),
    **dict.fromkeys([".png", ".webp", ".jpg", ".jpeg"], picture_difference),
}


def file_difference(a: Path, b: Path) -> str:
    """How two files with other bytes differ; a file that its reader cannot read is compared byte by byte."""
    reader = READERS.get(a.suffix.lower(), byte_difference)
    try:
        return reader(a, b)
    except Exception as error:  # whatever a broken file makes its library raise
        return f"{byte_difference(a, b)} (not readable as {a.suffix}: {str(error).splitlines()[0]})"


def _files(path: Path) -> dict[str, Path]:
    if path.is_dir():
        return {str(f.relative_to(path)): f for f in sorted(path.rglob("*")) if f.is_file() and "__pycache__" not in f.parts}
    return {"": path}


def first_difference(a: Path, b: Path) -> str | None:
    """The first file, by name, whose bytes differ, and how; None for equal files or folders."""
    if a.is_dir() != b.is_dir():
        return f"a {'folder' if a.is_dir() else 'file'} | a {'folder' if b.is_dir() else 'file'}"
    files, others = _files(a), _files(b)
    for name in sorted(files.keys() | others.keys()):
        if name not in files or name not in others:
            return f"{name} is only in the {'first' if name in files else 'second'}"
        if not same_bytes(files[name], others[name]):
            return f"{name}: {file_difference(files[name], others[name])}" if name else file_difference(files[name], others[name])
    return None
