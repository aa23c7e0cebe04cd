"""First differences, in the terms of what a file holds."""

from pathlib import Path

from repro.tensorfile import write_tensors

import polars as pl
import pytest
import torch
from PIL import Image

from proof.differences import first_difference


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    return a, b


def test_equal_files_and_folders_have_none(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "x.txt").write_text("same")
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "x.pyc").write_bytes(str(folder).encode())
    a, b = pair
    assert first_difference(a, b) is None
    assert first_difference(a / "x.txt", b / "x.txt") is None


def test_the_first_file_by_name_is_reported(pair: tuple[Path, Path]) -> None:
    a, b = pair
    for folder in pair:
        for name in ("1", "2", "3"):
            (folder / f"{name}.txt").write_text("same" if name == "1" else str(folder))
    assert first_difference(a, b).startswith("2.txt: line 1")
    (b / "0.txt").touch()
    assert first_difference(a, b) == "0.txt is only in the second"
    assert first_difference(a, b / "0.txt") == "a folder | a file"


def tensors() -> dict[str, torch.Tensor]:
    return {"a.alpha": torch.tensor(1.0), "b.weight": torch.arange(12.0).view(3, 4), "c.weight": torch.zeros(5)}


def tensor_difference(pair: tuple[Path, Path], second: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> str:
    a, b = (folder / "x.safetensors" for folder in pair)
    write_tensors(a, tensors(), {"title": "x"})
    write_tensors(b, second, metadata or {"title": "x"})
    return first_difference(a, b)


def test_tensors_name_index_values_and_largest_difference(pair: tuple[Path, Path]) -> None:
    second = tensors()
    second["b.weight"][1, 2] = 6.5
    second["b.weight"][2, 3] = 12.0
    second["c.weight"][0] = 1.0
    expected = "tensor b.weight, index [1, 2]: 6.0 | 6.5 (2 of 12 numbers differ, by at most 1)"
    assert tensor_difference(pair, second) == expected


def test_tensors_that_differ_in_the_last_bit_only(pair: tuple[Path, Path]) -> None:
    second = tensors()
    second["c.weight"][3] = -0.0
    assert tensor_difference(pair, second).startswith("tensor c.weight, index [3]: 0.0 | -0.0 (1 of 5")


def test_tensors_of_other_shape_type_name_or_metadata(pair: tuple[Path, Path]) -> None:
    assert "tensor a.alpha: torch.float32 [] | torch.float16 []" in tensor_difference(
        pair, tensors() | {"a.alpha": torch.tensor(1.0).half()}
    )
    assert "tensor d is only in the second" in tensor_difference(pair, tensors() | {"d": torch.ones(1)})
    assert tensor_difference(pair, tensors(), {"title": "y"}) == "equal tensors; metadata title: 'x' | 'y'"


def test_tables_name_row_key_and_column(pair: tuple[Path, Path]) -> None:
    a, b = (folder / "x.parquet" for folder in pair)
    frame = pl.DataFrame({"id": [10, 20, 30], "score": [0.5, float("nan"), 1.0], "tags": [[1], [2, 3], []]})
    frame.write_parquet(a)
    frame.with_columns(tags=pl.Series([[1], [2, 3], [4]])).write_parquet(b)
    assert first_difference(a, b) == "row 2 (id 30), column tags: [] | [4]"
    frame.head(2).write_parquet(b)
    assert first_difference(a, b) == "3 rows | 2 rows, equal as far as both go"
    frame.write_parquet(b, compression="uncompressed")
    assert first_difference(a, b) == "equal tables; the container is written differently"


def test_a_history_names_the_first_update_that_differs(pair: tuple[Path, Path]) -> None:
    a, b = (folder / "train.csv" for folder in pair)
    a.write_text("update,loss,lr\n0,0.91,0\n1,0.80,1e-3\n2,0.7,1e-3\n")
    b.write_text("update,loss,lr\n0,0.91,0\n1,0.8,1e-3\n2,0.6,1e-3\n")
    assert first_difference(a, b) == "row 1 (update '1'), column loss: '0.80' | '0.8'"


def test_json_names_the_path(pair: tuple[Path, Path]) -> None:
    a, b = (folder / "ccip.json" for folder in pair)
    a.write_text('{"models": {"base": {"score": 0.1}, "merged": {"score": 0.8}}, "list": [1, 2]}')
    b.write_text('{"models": {"base": {"score": 0.1}, "merged": {"score": 0.9}}, "list": [1, 2]}')
    assert first_difference(a, b) == "models.merged.score: 0.8 | 0.9"
    b.write_text('{"models": {"base": {"score": 0.1}}, "list": [1, 2]}')
    assert first_difference(a, b) == "models.merged.score: 0.8 | nothing"
    b.write_text(a.read_text() + "\n")
    assert first_difference(a, b) == "equal up to line 1, where the first ends"


def test_text_shows_line_and_column(pair: tuple[Path, Path]) -> None:
    a, b = (folder / "card.md" for folder in pair)
    a.write_text("# Title\n" + "x" * 200 + "a\n")
    b.write_text("# Title\n" + "x" * 200 + "b\n")
    assert first_difference(a, b) == f"line 2, column 201: '{'x' * 20}a' | '{'x' * 20}b'"


def test_pictures_name_the_first_pixel(pair: tuple[Path, Path]) -> None:
    a, b = (folder / "x.png" for folder in pair)
    picture = Image.new("RGB", (8, 4), (1, 2, 3))
    picture.save(a)
    picture.putpixel((5, 1), (1, 2, 9))
    picture.putpixel((0, 2), (1, 2, 4))
    picture.save(b)
    assert first_difference(a, b) == "pixel x=5 y=1: [1, 2, 3] | [1, 2, 9] (2 of 32 pixels differ, by at most 6)"
    picture.resize((4, 4)).save(b)
    assert first_difference(a, b) == "RGB (8, 4) | RGB (4, 4)"


def test_other_and_broken_files_are_compared_by_bytes(pair: tuple[Path, Path]) -> None:
    a, b = (folder / "x.bin" for folder in pair)
    a.write_bytes(b"\x00\x01\x02")
    b.write_bytes(b"\x00\x01")
    assert first_difference(a, b) == "byte 2 of 3 | 2: '02' | ''"
    a, b = (folder / "x.safetensors" for folder in pair)
    write_tensors(a, tensors())
    b.write_bytes(b"torn")
    assert "byte 0" in first_difference(a, b)
    assert "not readable as .safetensors" in first_difference(a, b)
