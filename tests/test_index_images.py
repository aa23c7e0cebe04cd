"""The image index as a process."""

import polars as pl
from tiny_booru import make_archives, make_tar, refusal, run_script


def index(root, output, **environment):
    result = run_script("index_images.py", "--images", root, "--output", output, **environment)
    assert result.returncode == 0, result.stderr
    return result


def test_index_of_a_folder_of_archives(tmp_path):
    root = make_archives(tmp_path / "images", [3, 1003, 2004])
    assert "3 images in 2 archives" in index(root, tmp_path / "images.parquet").stdout
    assert pl.read_parquet(tmp_path / "images.parquet")["id"].to_list() == [3, 1003, 2004]


def test_same_bytes_from_any_process_and_place(tmp_path):
    ids = [i * 1000 + i % 8 for i in range(100)]
    index(make_archives(tmp_path / "here", ids), tmp_path / "a.parquet", PYTHONHASHSEED="1", POLARS_MAX_THREADS="1")
    index(make_archives(tmp_path / "there", ids[::-1]), tmp_path / "c.parquet")
    index(make_archives(tmp_path / "far" / "away", ids), tmp_path / "b.parquet", PYTHONHASHSEED="2", POLARS_MAX_THREADS="4")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "c.parquet").read_bytes()


def test_truncated_tar(tmp_path):
    path = make_tar(tmp_path / "images" / "data-0003.tar", {"1003.webp": bytes(5000), "2003.webp": bytes(5000)})
    path.write_bytes(path.read_bytes()[:7000])
    text = refusal("index_images.py", "--images", path.parent, "--output", tmp_path / "images.parquet")
    assert f"{path}: not a whole tar archive" in text
    assert not (tmp_path / "images.parquet").exists()


def test_no_archives(tmp_path):
    text = refusal("index_images.py", "--images", tmp_path / "images", "--output", tmp_path / "images.parquet")
    assert "no such folder of image archives" in text
