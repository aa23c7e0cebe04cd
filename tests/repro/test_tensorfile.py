"""safetensors files with equal bytes from every process, readable by the library."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

from repro.tensorfile import data_sha256, write_tensors

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

WRITE = """
import sys
from pathlib import Path
from repro.tensorfile import write_tensors
import torch
names = list({"w1", "w2", "alpha", "bias", "scale"})  # a set: another order in each process
tensors = {n: torch.full((3, len(n)), float(len(n)), dtype=torch.float16 if n == "bias" else torch.float32) for n in names}
metadata = {n: n * 2 for n in names}
print(write_tensors(Path(sys.argv[1]), tensors, metadata))
"""


def example() -> dict[str, torch.Tensor]:
    numbers = torch.arange(12).reshape(3, 4)
    return {
        "z.f32": numbers.float() / 7,
        "a.f16": numbers.half(),
        "b.bf16": numbers.bfloat16(),
        "c.i64": numbers,
        "d.f64": numbers.double(),
        "e.u8": numbers.to(torch.uint8),
        "f.bool": numbers > 5,
        "g.fp8": numbers.float().to(torch.float8_e4m3fn),
        "h.scalar": torch.tensor(2.5),
        "i.empty": torch.zeros(0, 3),
        "j.transposed": numbers.float().T,
        "ü": numbers.int(),
    }


def test_equal_bytes_from_processes_with_other_hash_seeds(tmp_path: Path) -> None:
    digests = set()
    for seed in ("0", "1", "4242"):
        path = tmp_path / f"{seed}.safetensors"
        environment = os.environ | {"PYTHONPATH": str(Path("stages").resolve()), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", WRITE, str(path)], env=environment, check=True, capture_output=True)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_library_reads_back_every_value_and_type(tmp_path: Path) -> None:
    tensors = example()
    write_tensors(tmp_path / "x.safetensors", tensors, {"title": "Zwölf", "b": "2", "a": "1"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert loaded[name].shape == tensor.shape, name
        assert torch.equal(loaded[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)) if tensor.ndim else True
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"title": "Zwölf", "b": "2", "a": "1"}


def test_without_metadata_the_bytes_are_the_librarys(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in example().items()}
    write_tensors(tmp_path / "x.safetensors", tensors)
    ours, theirs = (tmp_path / "x.safetensors").read_bytes(), save(tensors)
    assert json.loads(ours[8 : 8 + struct.unpack("<Q", ours[:8])[0]]) == json.loads(
        theirs[8 : 8 + struct.unpack("<Q", theirs[:8])[0]]
    )
    assert ours == theirs


def test_metadata_is_sorted_and_the_header_aligned(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {"z": "1", "k": "2", "b": "3"})
    data = (tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert list(json.loads(data[8 : 8 + length])["__metadata__"]) == ["b", "k", "z"]


def test_the_returned_digest_is_that_of_the_data_section(tmp_path: Path) -> None:
    digest = write_tensors(tmp_path / "x.safetensors", example(), {"a": "b"})
    data = (tmp_path / "x.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert digest == hashlib.sha256(data[start:]).hexdigest() == data_sha256(example())


def test_the_order_of_insertion_does_not_matter(tmp_path: Path) -> None:
    tensors = example()
    write_tensors(tmp_path / "a.safetensors", tensors)
    write_tensors(tmp_path / "b.safetensors", dict(reversed(tensors.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2, dtype=torch.complex64)})
    assert list(tmp_path.iterdir()) == []
