"""Pieces of safetensors files as the library reads them, and no file that the library refuses."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.tensorfile import ITEM_BYTES, file_order, torch_dtypes, write_tensors

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, load_file

from checkpoints.tensor_reader import MAX_DIMENSIONS, MAX_NAME, HeldTensors, TensorFile, runs


def of_every_type() -> dict[str, torch.Tensor]:
    """A tensor of each type known here, with every bit pattern of a byte; and scalars, empty ones and an odd name."""
    patterns = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).reshape(-1, 8)
    tensors = {name: patterns.view(dtype) for name, dtype in torch_dtypes().items() if name != "BOOL"}
    return tensors | {
        "BOOL": patterns > 100,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3, dtype=torch.float16),
        "ü.\n": torch.ones(1, 1, 2),
    }


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "x.safetensors"
    write_tensors(path, of_every_type(), {"title": "Zwölf", "a": ""})
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.safetensors"


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and bits(ours) == bits(theirs)


def test_whole_tensors_are_as_the_library_reads_them(every_type: Path) -> None:
    file, loaded = TensorFile(every_type), load_file(every_type)
    assert {*ITEM_BYTES} < file.specs.keys() == loaded.keys() == of_every_type().keys()
    assert [name for name in loaded if not same(file.whole(name), loaded[name])] == []
    assert all(file.specs[name].shape == tuple(loaded[name].shape) for name in loaded)
    assert file.metadata == {"title": "Zwölf", "a": ""}
    file.close()


@given(st.data())
def test_any_run_of_elements_is_as_the_library_reads_it(every_type: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(of_every_type())))
    theirs = load_file(every_type)[name].flatten()
    start = data.draw(st.integers(0, theirs.numel()))
    stop = data.draw(st.integers(start, theirs.numel()))
    file = TensorFile(every_type)
    assert same(file.read(name, start, stop), theirs[start:stop])
    assert same(file.read_float32(name, start, stop), theirs[start:stop].float())
    file.close()


def test_what_was_read_is_the_readers_own(every_type: Path) -> None:
    file, theirs = TensorFile(every_type), load_file(every_type)
    for read in (file.read, file.read_float32):
        for name in ("F32", "F16", "I64", "F8_E4M3"):
            first, longer = read(name, 0, 8), read(name, 0, 48)
            second = read(name, 8, 12)
            second.fill_(7)
            wanted = theirs[name].flatten().to(first.dtype)
            assert same(first, wanted[:8]) and same(longer, wanted[:48]), name
    assert same(file.whole("F32"), theirs["F32"])
    file.close()


@given(st.data())
def test_tensors_in_memory_are_read_as_those_of_a_file(every_type: Path, data: st.DataObject) -> None:
    file, held = TensorFile(every_type), HeldTensors(of_every_type())
    assert held.specs == file.specs
    name = data.draw(st.sampled_from(sorted(file.specs)))
    start = data.draw(st.integers(0, file.specs[name].elements))
    stop = data.draw(st.integers(start, file.specs[name].elements))
    assert same(held.read(name, start, stop), file.read(name, start, stop))
    assert same(held.read_float32(name, start, stop), file.read_float32(name, start, stop))
    assert same(held.whole(name), file.whole(name))


def test_what_was_read_of_tensors_in_memory_is_the_readers_own() -> None:
    held = HeldTensors({"a": torch.ones(2, 3)})
    for read in (held.read("a", 0, 6), held.read_float32("a", 1, 4), held.whole("a")):
        read.zero_()
        assert torch.equal(held.whole("a"), torch.ones(2, 3))


def test_runs_cover_all_elements_once() -> None:
    assert list(runs(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(runs(8, 4)) == [(0, 4), (4, 8)]
    assert list(runs(3, 4)) == [(0, 3)]
    assert list(runs(0, 4)) == []


def container(header: bytes | Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"__metadata__": {"a": "b"}, "x": entry([2, 3], 0, 24), "y": entry([4], 24, 32, "F16"), "z": entry([], 32, 33, "U8")}
GOOD_BYTES = container(GOOD, bytes(range(33)))


def library_reads(path: Path) -> dict[str, torch.Tensor] | None:
    """By the library, from memory: a file that it would map may not be what it seems."""
    try:
        return load(path.read_bytes())
    except (SafetensorError, KeyError):  # KeyError: a type that the library knows and its torch part does not
        return None


def read_or_refused(path: Path, content: bytes) -> dict[str, torch.Tensor] | None:
    """What the reader makes of a file: all tensors, or None after an error that names the file; never more than the library."""
    path.write_bytes(content)
    try:
        file = TensorFile(path)
    except StageError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 2000 + len(str(path))
        return None
    ours = {name: file.whole(name) for name in file.specs}
    for name in [*ours, *file.metadata, *file.metadata.values()]:
        name.encode()  # what is written again
    file.close()
    theirs = library_reads(path)
    assert theirs is not None and ours.keys() == theirs.keys()
    assert [name for name in ours if not same(ours[name], theirs[name])] == []
    return ours


def test_the_example_itself_is_read(scratch: Path) -> None:
    read = read_or_refused(scratch, GOOD_BYTES)
    assert read is not None and bits(read["x"]) == bytes(range(24))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(GOOD_BYTES) - 34), st.integers(0, 255)), min_size=1, max_size=4))
@example([(0, 0)])
@example([(7, 0x80)])
@example([(8, 0x20)])
def test_changed_bytes(scratch: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD_BYTES)
    for at, value in changes:
        content[at] = value
    read_or_refused(scratch, bytes(content))


@settings(max_examples=600)
@given(st.integers(0, len(GOOD_BYTES) - 34), st.sampled_from(list(b'0123456789-+.eE "[]{},:\\')), st.booleans())
def test_changed_bytes_of_jsons_own(scratch: Path, at: int, value: int, inserted: bool) -> None:
    header = GOOD_BYTES[8:-33]
    at = max(at - 8, 0)
    changed = header[:at] + bytes([value]) + header[at + (not inserted) :]
    read_or_refused(scratch, container(changed, bytes(range(33))))


@pytest.mark.parametrize("length", range(0, len(GOOD_BYTES), 5))
def test_a_truncated_file_is_refused(scratch: Path, length: int) -> None:
    assert read_or_refused(scratch, GOOD_BYTES[:length]) is None


@given(st.integers(0, 2**64 - 1) | st.integers(0, len(GOOD_BYTES) + 2))
@example(2**63 - 1)
@example(2**63)
@example(2**64 - 1)
@example(2**64 - 8)
@example(100_000_001)
def test_a_changed_length_of_the_header(scratch: Path, length: int) -> None:
    (right,) = struct.unpack("<Q", GOOD_BYTES[:8])
    read = read_or_refused(scratch, struct.pack("<Q", length) + GOOD_BYTES[8:])
    assert (read is not None) == (length == right)


# Each is refused by name; {} is the header, the text is part of the complaint.
WRONG: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "shorter than a header"),
    "seven bytes": (b"\0" * 7, "shorter than a header"),
    "no header": (container(b""), "not JSON"),
    "not JSON": (container(b"{nothing}"), "not JSON"),
    "HTML": (b"<!DOCTYPE html><html><body>Not found</body></html>", "a header of"),
    "a list": (container([]), "not an object"),
    "a number": (container(b"5"), "not an object"),
    "null": (container(b"null"), "not an object"),
    "cut within the header": (container(b'{"x":'), "not JSON"),
    "two objects": (container(b"{}{}"), "not JSON"),
    "not UTF-8": (container(b'{"\xff":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"1234"), "not JSON"),
    "half a surrogate": (container({"x\ud800": entry([1], 0, 4)}, b"1234"), ""),
    "half a surrogate in metadata": (container({"__metadata__": {"a": "\udfff"}, "x": entry([1], 0, 4)}, b"1234"), ""),
    "deep lists": (container(b"[" * 200_000), "not JSON"),
    "deep objects": (container(b'{"a":' * 200_000), "not JSON"),
    "deep shape": (
        container(b'{"x":{"dtype":"F32","data_offsets":[0,4],"shape":' + b"[" * 5000 + b"]" * 5000 + b"}}", b"1234"),
        "",
    ),
    "number of 5000 digits": (container(b'{"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'), ""),
    "doubled tensor": (
        container(
            b'{"x":' + json.dumps(entry([1], 0, 4)).encode() + b',"x":' + json.dumps(entry([1], 0, 4)).encode() + b"}", b"1234"
        ),
        "'x' stands twice",
    ),
    "doubled shape": (
        container(b'{"x":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}}', b"1234"),
        "'shape' stands twice",
    ),
    "doubled metadata": (container(b'{"__metadata__":{"a":"1","a":"2"}}'), "'a' stands twice"),
    "metadata of numbers": (container({"__metadata__": {"a": 1}}), "metadata in text"),
    "metadata of lists": (container({"__metadata__": {"a": ["b"]}}), "metadata in text"),
    "metadata in a list": (container({"__metadata__": ["a"]}), "metadata in text"),
    "metadata is text": (container({"__metadata__": "a"}), "metadata in text"),
    "gap before": (container({"x": entry([1], 4, 8)}, b"12345678"), "'x' does not begin where the one before it ends"),
    "gap between": (container({"x": entry([1], 0, 4), "y": entry([1], 5, 9)}, b"123456789"), "'y' does not begin"),
    "overlap": (container({"x": entry([2], 0, 8), "y": entry([1], 4, 8)}, b"12345678"), "'y' does not begin"),
    "the same data twice": (container({"x": entry([1], 0, 4), "y": entry([1], 0, 4)}, b"1234"), "'y' does not begin"),
    "none within another": (container({"x": entry([1], 0, 4), "y": entry([0], 2, 2)}, b"1234"), "'y' does not begin"),
    "bytes after": (container({"x": entry([1], 0, 4)}, b"12345"), "1 bytes after the last tensor"),
    "bytes and no tensor": (container({}, b"1"), "1 bytes after the last tensor"),
    "data too short": (container({"x": entry([1], 0, 4)}, b"123"), "do not fit each other and the file"),
    "too few bytes for the shape": (container({"x": entry([2], 0, 4)}, b"1234"), "do not fit"),
    "too many bytes for the shape": (container({"x": entry([1], 0, 8)}, b"12345678"), "do not fit"),
    "backward offsets": (container({"x": entry([1], 4, 0)}, b"1234"), "do not fit"),
    "negative offset": (container({"x": entry([1], -4, 0)}, b"1234"), "not lists of whole numbers"),
    "negative sizes": (container({"x": entry([-1, -1], 0, 4)}, b"1234"), "not lists of whole numbers"),
    "size true": (container({"x": entry([True], 0, 4)}, b"1234"), "not lists of whole numbers"),
    "offset false": (container({"x": entry([1], False, 4)}, b"1234"), "not lists of whole numbers"),
    "size 1.0": (container({"x": entry([1.0], 0, 4)}, b"1234"), "not lists of whole numbers"),
    "offset 4e0": (container(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}}', b"1234"), "not lists of whole numbers"),
    "size NaN": (container({"x": entry([float("nan")], 0, 4)}, b"1234"), "not lists of whole numbers"),
    "offset Infinity": (container({"x": entry([1], 0, float("inf"))}, b"1234"), "not lists of whole numbers"),
    "size in text": (container({"x": entry(["1"], 0, 4)}, b"1234"), "not lists of whole numbers"),
    "size null": (container({"x": entry([None], 0, 4)}, b"1234"), "not lists of whole numbers"),
    "shape a number": (container({"x": entry(1, 0, 4)}, b"1234"), "not lists of whole numbers"),
    "shape null": (container({"x": entry(None, 0, 4)}, b"1234"), "not lists of whole numbers"),
    "shape text": (container({"x": entry("", 0, 4)}, b"1234"), "not lists of whole numbers"),
    "one offset": (container({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, b"1234"), "not lists of whole numbers"),
    "three offsets": (container({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, b"1234"), "not lists of whole"),
    "too many dimensions": (container({"x": entry([1] * (MAX_DIMENSIONS + 1), 0, 4)}, b"1234"), "not lists of whole numbers"),
    "huge size": (container({"x": entry([2**60], 0, 4)}, b"1234"), "do not fit"),
    "huge size and offset": (container({"x": entry([2**60], 0, 2**62)}, b"1234"), "do not fit"),
    "product beyond 64 bits": (container({"x": entry([2**32, 2**32, 1], 0, 0)}), "do not fit"),
    "numbers beyond 64 bits": (container({"x": entry([2**64], 0, 2**66)}), "do not fit"),
    "none of a product beyond 64 bits": (container({"x": entry([2**40, 2**40, 0], 0, 0)}), ""),
    "none of a number beyond 64 bits": (container({"x": entry([0, 2**64], 0, 0)}), ""),
    "none of a number beyond 63 bits": (container({"x": entry([0, 2**63], 0, 0)}), ""),
    "offsets beyond 64 bits": (container({"x": entry([0], 2**70, 2**70)}), "do not fit"),
    "unknown type": (container({"x": entry([1], 0, 8, "C64")}, b"12345678"), "tensor 'x' is of type C64; known are I64, F64"),
    "misspelt type": (container({"x": entry([1], 0, 4, "f32")}, b"1234"), "tensor 'x' is of type f32"),
    "type null": (container({"x": entry([1], 0, 4, None)}, b"1234"), "tensor 'x' is of type None"),
    "type a list": (container({"x": entry([1], 0, 4, ["F32"])}, b"1234"), "tensor 'x' is of type"),
    "type a number": (container({"x": entry([1], 0, 4, 32)}, b"1234"), "tensor 'x' is of type 32"),
    "type of great length": (
        container({"x": entry([1], 0, 4, "F" * 10**5)}, b"1234"),
        "tensor 'x' is of type FFFFFFFFFFFFFFFFFFFF;",
    ),
    "no type": (container({"x": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"), "'x' needs dtype, shape and data_offsets"),
    "no shape": (container({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"), "'x' needs dtype, shape and data_offsets"),
    "another key": (container({"x": entry([1], 0, 4) | {"y": 1}}, b"1234"), "'x' needs dtype, shape and data_offsets"),
    "entry null": (container({"x": None}), "'x' needs dtype, shape and data_offsets"),
    "entry a list": (container({"x": [1]}), "'x' needs dtype, shape and data_offsets"),
    "name too long": (container({"x" * (MAX_NAME + 1): entry([1], 0, 4)}, b"1234"), "a tensor's name of 1001 characters"),
}


@pytest.mark.parametrize("content, complaint", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_by_name(scratch: Path, content: bytes, complaint: str) -> None:
    scratch.write_bytes(content)
    with pytest.raises(StageError) as caught:
        TensorFile(scratch)
    assert str(caught.value).startswith(f"{scratch}: ") and complaint in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(scratch)) + MAX_NAME


sizes = st.sampled_from([0, 1, 2, 3, 4, 8, 2**31, 2**32, 2**60, 2**63, 2**64, 10**30, -1, True, None, 1.0, "1"]) | st.integers(
    0, 12
)
offsets = st.integers(0, 16) | sizes
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*ITEM_BYTES, "C64", "F4", "U16", "", None]),
        "shape": st.lists(sizes, max_size=3),
        "data_offsets": st.lists(offsets, min_size=2, max_size=2) | st.lists(offsets, max_size=3),
    }
)
# Mostly right: one after the other, as long as shape and type say.
laid = st.lists(
    st.tuples(st.sampled_from(list(ITEM_BYTES)), st.lists(st.integers(0, 3), max_size=3), st.sampled_from([0] * 9 + [1, -1])),
    max_size=4,
)


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from(["x", "y", "z", "", "__metadata__"]), entries | st.none(), max_size=3), st.binary(max_size=16)
)
def test_headers_of_any_entries(scratch: Path, header: dict[str, Any], data: bytes) -> None:
    read_or_refused(scratch, container(header, data))


@settings(max_examples=300)
@given(laid, st.sampled_from([0] * 9 + [1, -1]))
def test_headers_right_but_for_a_step(scratch: Path, tensors: list[tuple[str, list[int], int]], more: int) -> None:
    header, end = {}, 0
    for n, (dtype, shape, step) in enumerate(tensors):
        begin, size = end + step, ITEM_BYTES[dtype] * torch.Size(shape).numel()
        header[f"t{n}"] = entry(shape, begin, begin + size, dtype)
        end = begin + size
    read = read_or_refused(scratch, container(header, bytes(max(end + more, 0))))
    if more == 0 and all(step == 0 for _, _, step in tensors):
        assert read is not None


def test_what_the_format_allows_is_read(scratch: Path) -> None:
    name = "n" * MAX_NAME
    header = {name: entry([1] * MAX_DIMENSIONS, 4, 8), "first": entry([4], 0, 4, "U8"), "none": entry([0, 5], 4, 4)}
    read = read_or_refused(scratch, container(json.dumps(header).encode() + b"   \n", b"12345678"))
    assert read is not None and bits(read["first"]) + bits(read[name]) == b"12345678"
    assert read_or_refused(scratch, container({})) == {}


BELOW_LIMIT = """
import resource, sys
from pathlib import Path
from repro.errors import StageError
from checkpoints.tensor_reader import TensorFile
import torch
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
try:
    torch.empty(256 << 20, dtype=torch.uint8)
    sys.exit("the limit does not hold")
except RuntimeError:
    pass
for path in sys.argv[1:]:
    try:
        TensorFile(Path(path))
        sys.exit(f"{path} was read")
    except StageError as error:
        print(error)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[list[Path]]:
    """Small or sparse files that claim very much."""
    tera = 1 << 40
    sparse = {  # name: (first bytes, size)
        "length": (struct.pack("<Q", tera // 2), tera),
        "limit": (struct.pack("<Q", 100_000_001), tera),
        "zeros": (b"", tera),
        "shape": (container({"x": entry([2**60], 0, 2**62)}), 4096),
        "data": (container({"x": entry([2**60], 0, 2**62)}), tera),
        "within": (container({"x": entry([2**34], 0, 2**36), "y": entry([2**34], 0, 2**36)}), tera),
        "product": (container({"x": entry([2**30] * 16, 0, 4)}), 4096),
    }
    paths = []
    for name, (start, size) in sparse.items():
        paths.append(tmp_path / name)
        with open(paths[-1], "wb") as file:
            file.write(start)
            file.truncate(size)
    yield paths
    for path in paths:
        path.unlink()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set from Linux's own figures")
def test_claims_of_huge_sizes_cost_no_memory(claims: list[Path]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", BELOW_LIMIT, *map(str, claims)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [str(path) for path in claims]


def test_a_run_of_a_large_sparse_file_is_read_alone(tmp_path: Path) -> None:
    path, elements = tmp_path / "x", 1 << 36
    start = container({"x": entry([elements], 0, 4 * elements)})
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * elements)
        file.seek(-8, os.SEEK_END)
        file.write(struct.pack("<ff", 1.5, 2.5))
    file = TensorFile(path)
    assert file.read("x", elements - 3, elements).tolist() == [0, 1.5, 2.5]
    file.close()


def test_a_file_that_becomes_shorter_while_it_is_read(every_type: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(every_type.read_bytes())
    file = TensorFile(path)
    first, *_, last = file_order(file.specs)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StageError, match=f"{path}: it became shorter while it was read"):
        file.whole(last)
    assert same(file.whole(first), of_every_type()[first])
    file.close()


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    with pytest.raises(StageError, match=f"{path}: no such weight file"):
        TensorFile(path)


def test_a_refused_file_is_closed(scratch: Path) -> None:
    scratch.write_bytes(GOOD_BYTES[:-1])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(StageError):
            TensorFile(scratch)
    assert len(os.listdir("/proc/self/fd")) == before
