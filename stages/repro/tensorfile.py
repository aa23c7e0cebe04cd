"""Canonical safetensors files.

safetensors' own writer orders metadata keys at random (its issue 584), so the header is written
here: metadata sorted by key, tensors ordered by dtype (widest first) and then by name, as the
library orders them, header padded with spaces to 8 bytes.
"""

import hashlib
import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.outputs import whole_file

if TYPE_CHECKING:
    import torch

# Bytes an element. The order is the library's: larger alignment first, then its own enumeration of types.
ITEM_BYTES = {
    "I64": 8, "F64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
DTYPE_ORDER = list(ITEM_BYTES)
CHUNKS_IN_FLIGHT = 4


@dataclass(frozen=True)
class TensorSpec:
    """What a header says of a tensor: its type by safetensors' name (`F16`) and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def byte_count(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        return "F" in self.dtype


def torch_dtypes() -> "dict[str, torch.dtype]":
    """{safetensors' name: torch's type}."""
    import torch

    return {
        "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32,
        "BF16": torch.bfloat16, "F16": torch.float16, "I16": torch.int16, "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip


def spec_of(tensor: "torch.Tensor") -> TensorSpec:
    names = {dtype: name for name, dtype in torch_dtypes().items()}
    return TensorSpec(names[tensor.dtype], tuple(tensor.shape))


def tensor_bytes(tensor: "torch.Tensor") -> memoryview:
    """The tensor's elements, little-endian, row-major."""
    import torch

    tensor = tensor.detach().cpu().contiguous().flatten()
    return memoryview(tensor.view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")


def file_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """The names in the order in which a file holds them."""
    return sorted(specs, key=lambda name: (DTYPE_ORDER.index(specs[name].dtype), name))


def data_sha256(tensors: "Mapping[str, torch.Tensor]") -> str:
    """The sha256 that `write_tensors` returns, before anything is written: for metadata that names it."""
    digest = hashlib.sha256()
    for name in file_order({name: spec_of(tensor) for name, tensor in tensors.items()}):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file whole; returns the sha256 of its data section (the `modelspec.hash_sha256`
    digest without its 0x)."""
    specs = {name: spec_of(tensor) for name, tensor in tensors.items()}
    return stream_tensors(path, specs, lambda name: [tensor_bytes(tensors[name])], lambda _: metadata or {})


def stream_tensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    chunks: Callable[[str], Iterable[memoryview]],
    metadata: Callable[[str], Mapping[str, str]],
) -> str:
    """Write a safetensors file whole without holding it; returns the sha256 of its data section.

    Args:
        specs: of every tensor. chunks: gives a tensor's bytes in order, in pieces of its own choice; asked once for
            each tensor, in `file_order`. metadata: gives the header's metadata, knowing the data's sha256 (it may name
            it: the text's length must not depend on the digest's digits).
    Raises:
        ValueError: the pieces of a tensor are not as long as its spec says.
    """
    order = file_order(specs)
    length = len(_header(order, specs, metadata("0" * 64)))
    digest = hashlib.sha256()
    with whole_file(path) as temporary, open(temporary, "wb", buffering=0) as file, ThreadPoolExecutor(1) as writer:
        file.seek(length)

        def take(chunk: memoryview) -> None:
            digest.update(chunk)
            written = 0
            while written < len(chunk):  # the kernel may take less than it is given
                written += file.write(chunk[written:])

        in_flight: deque[Future[None]] = deque()
        for name in order:
            left = specs[name].byte_count
            for chunk in chunks(name):
                left -= len(chunk)
                in_flight.append(writer.submit(take, chunk))
                while len(in_flight) > CHUNKS_IN_FLIGHT:
                    in_flight.popleft().result()
            if left:
                raise ValueError(f"{path}: tensor '{name}' came {abs(left)} bytes {'short' if left > 0 else 'long'}")
        for future in in_flight:
            future.result()
        header = _header(order, specs, metadata(digest.hexdigest()))
        if len(header) != length:
            raise ValueError(f"{path}: the metadata's length depends on the digest")
        file.seek(0)
        file.write(header)
    return digest.hexdigest()


def _header(order: list[str], specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in order:
        spec = specs[name]
        entries[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, offset + spec.byte_count]}
        offset += spec.byte_count
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
