"""Canonical safetensors files.

safetensors' own writer orders metadata keys at random (its issue 584), so the header is written
here: metadata sorted by key, tensors ordered by dtype (widest first) and then by name, as the
library orders them, header padded with spaces to 8 bytes. Reading is the library's.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.outputs import whole_file

if TYPE_CHECKING:
    import torch

# The library's order: larger alignment first, then its own enumeration of types.
DTYPE_ORDER = ["I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "I8", "U8", "BOOL"]


def _dtype_names() -> "dict[torch.dtype, str]":
    import torch

    return {
        torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
        torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16",
        torch.float8_e4m3fn: "F8_E4M3", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip


def tensor_bytes(tensor: "torch.Tensor") -> bytes:
    """The tensor's elements, little-endian, row-major."""
    import torch

    tensor = tensor.detach().cpu().contiguous().flatten()
    return tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _file_order(tensors: "Mapping[str, torch.Tensor]") -> list[str]:
    names = _dtype_names()
    return sorted(tensors, key=lambda name: (DTYPE_ORDER.index(names[tensors[name].dtype]), name))


def data_sha256(tensors: "Mapping[str, torch.Tensor]") -> str:
    """The sha256 that `write_tensors` returns, before anything is written: for metadata that names it."""
    digest = hashlib.sha256()
    for name in _file_order(tensors):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file whole; returns the sha256 of its data section (the `modelspec.hash_sha256`
    digest without its 0x)."""
    names, order = _dtype_names(), _file_order(tensors)
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    offset = 0
    for name in order:
        size = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": names[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            data = tensor_bytes(tensors[name])
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
