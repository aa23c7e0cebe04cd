"""Reading safetensors files piece by piece: the header checked whole first, then any run of a tensor's elements.

The library maps files into memory, where every page read counts as the process's; a merge of real checkpoints reads
28 GB. These reads go through small buffers instead. What a header may say is the library's own rule (safetensors'
README, "Format"): no gap, no overlap, nothing after the last tensor.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.tensorfile import ITEM_BYTES, TensorSpec, spec_of, torch_dtypes

import torch

MAX_HEADER_BYTES = 100_000_000  # the library's limit
LENGTH_BYTES = 8
MAX_DIMENSIONS = 16
MAX_NAME = 1000
MAX_ELEMENTS = 1 << 62


class TensorFile:
    """A safetensors file open for reading: `specs` by tensor name, `metadata`, and the elements on demand.

    Raises:
        StageError: no such file, or not a whole safetensors file of types known here.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise StageError(f"{path}: no such weight file")
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - open as long as the model is read
        self._handle = self._file.fileno()
        os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the disk reads on while one computes
        try:
            self._size = os.fstat(self._handle).st_size
            header, self._data = self._read_header()
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.specs: dict[str, TensorSpec] = {}
            self._offsets: dict[str, int] = {}
            for name, entry in header.items():
                self.specs[name], self._offsets[name] = self._checked(name, entry)
            self._refuse_gaps()
        except BaseException:
            self.close()
            raise
        self._dtypes = torch_dtypes()
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._scratch_bytes = memoryview(b"")

    def close(self) -> None:
        self._file.close()

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements start to stop of a tensor, counted row by row, as stored: one dimension, the file's own type.

        Raises:
            StageError: the file has become shorter since it was opened.
        """
        tensor = torch.empty(stop - start, dtype=self._dtypes[self.specs[name].dtype])
        if stop > start:
            self._fill(memoryview(tensor.view(torch.uint8).numpy()), name, start)
        return tensor

    def read_float32(self, name: str, start: int, stop: int) -> torch.Tensor:
        """As `read`, converted: through one buffer, which stays in the cache where fresh memory would not."""
        dtype = self.specs[name].dtype
        size = (stop - start) * ITEM_BYTES[dtype]
        if size > self._scratch.numel():
            self._scratch = torch.empty(size, dtype=torch.uint8)
            self._scratch_bytes = memoryview(self._scratch.numpy())
        if size:
            self._fill(self._scratch_bytes[:size], name, start)
        return self._scratch[:size].view(self._dtypes[dtype]).to(torch.float32, copy=True)

    def _fill(self, buffer: memoryview, name: str, start: int) -> None:
        """Read a tensor's bytes into `buffer`, from element `start` on."""
        offset = self._data + self._offsets[name] + start * ITEM_BYTES[self.specs[name].dtype]
        while buffer:
            read = os.preadv(self._handle, [buffer], offset)
            if not read:
                raise StageError(f"{self.path}: it became shorter while it was read; fetch or make it again")
            buffer, offset = buffer[read:], offset + read

    def whole(self, name: str) -> torch.Tensor:
        """The whole tensor in its shape."""
        spec = self.specs[name]
        return self.read(name, 0, spec.elements).reshape(spec.shape)

    def _broken(self, why: str) -> StageError:
        return StageError(f"{self.path}: not a whole safetensors file ({why}); fetch or make it again")

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """The header's JSON object, and where the data begins."""
        start = os.pread(self._handle, LENGTH_BYTES, 0)
        if len(start) < LENGTH_BYTES:
            raise self._broken("shorter than a header")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, self._size - LENGTH_BYTES):
            raise self._broken(f"a header of {length} bytes in a file of {self._size}")
        try:
            header = json.loads(os.pread(self._handle, length, LENGTH_BYTES).decode(), object_pairs_hook=_without_doubles)
            json.dumps(header, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
        except (ValueError, RecursionError) as error:
            raise self._broken(f"its header is not JSON: {str(error)[:100]}") from None
        metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._broken("its header is not an object with metadata in text")
        return header, LENGTH_BYTES + length

    def _checked(self, name: str, entry: Any) -> tuple[TensorSpec, int]:
        """A header's entry as spec and offset, once it fits the file."""
        if len(name) > MAX_NAME:
            raise self._broken(f"a tensor's name of {len(name)} characters")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._broken(f"tensor {name!r} needs dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise StageError(f"{self.path}: tensor {name!r} is of type {str(dtype)[:20]}; known are {', '.join(ITEM_BYTES)}")
        if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
            raise self._broken(f"tensor {name!r}: shape or data_offsets are not lists of whole numbers")
        spec = TensorSpec(dtype, tuple(shape))
        begin, end = offsets
        too_many = math.prod(n or 1 for n in shape) > MAX_ELEMENTS  # for a tensor's shape, even where one size is 0
        if too_many or end - begin != spec.byte_count or end > self._size - self._data:
            raise self._broken(f"tensor {name!r}: its shape, type and offsets do not fit each other and the file")
        return spec, begin

    def _refuse_gaps(self) -> None:
        end = 0
        for name in sorted(self.specs, key=lambda name: (self._offsets[name], self.specs[name].byte_count)):
            if self._offsets[name] != end:
                raise self._broken(f"tensor {name!r} does not begin where the one before it ends")
            end += self.specs[name].byte_count
        if end != self._size - self._data:
            raise self._broken(f"{self._size - self._data - end} bytes after the last tensor")


class HeldTensors:
    """Tensors in memory, read as those of a `TensorFile`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self._tensors = tensors
        self.specs = {name: spec_of(tensor) for name, tensor in tensors.items()}

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._tensors[name].flatten()[start:stop].clone()

    def read_float32(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._tensors[name].flatten()[start:stop].to(torch.float32, copy=True)

    def whole(self, name: str) -> torch.Tensor:
        return self._tensors[name].clone()


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands twice")
        found[key] = value
    return found


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)


def runs(elements: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, stop) of at most `size` elements that cover `elements` in order."""
    for start in range(0, elements, size):
        yield start, min(start + size, elements)
