"""The image index as a process."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.hashing import check_manifest

import polars as pl
import pytest
from live_processes import wait_until_gone
from PIL import Image
from tiny_booru import folder_bytes, make_archives, make_tar, refusal, run_script


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_ROOT", str(tmp_path / "state"))


def index(root, output, *arguments, **environment):
    result = run_script("index_images.py", "--images", root, "--output", output, *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def png(number: int, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.effect_mandelbrot((side, side), (-2 + number / 100, -1, 1, 1), 30).save(buffer, "PNG")
    return buffer.getvalue()


def make_everything(root: Path, side: int = 40) -> Path:
    """Main archives, an update that brings one post again, and a folder of pictures."""
    for bucket in range(6):
        ids = [bucket + 1000 * i for i in range(0, 900, 100)]
        make_tar(root / f"data-{bucket:04d}.tar", {f"{i}.png": png(i % 97, side) for i in ids})
    make_tar(root / "updates" / "2024" / "0.tar", {"3.png": png(1), "7.png": png(2), "8.mp4": b"film"})
    for number in range(9):
        path = root / "pixiv" / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, side))
        path.with_suffix(".txt").write_text(f"solo, number {number}")
    (root / "pixiv" / "0.png").write_bytes(b"")
    (root / "pixiv" / "art.psd").write_bytes(b"")
    return root


def test_index_of_archives_and_folders(tmp_path):
    stdout = index(make_everything(tmp_path / "images"), tmp_path / "index")
    assert "56 images in 7 archives, 7 of them read now" in stdout
    assert "10 pictures in folders, 1 of them without a sidecar" in stdout
    assert "1 other files left alone: pixiv/art.psd\n" in stdout
    assert "2 unreadable, 1 passed over" in stdout
    check_manifest(tmp_path / "index")
    frame = pl.read_parquet(tmp_path / "index" / "images-*.parquet")
    assert frame.height == 66
    assert frame.filter(pl.col("unreadable").is_not_null()).select("member").to_series().to_list() == ["8.mp4", "0.png"]
    assert str(tmp_path) not in (tmp_path / "index" / "MANIFEST.json").read_text()


def test_same_bytes_from_any_processes_and_place(tmp_path):
    surroundings = ({"POLARS_MAX_THREADS": "1"}, {"TZ": "Asia/Tokyo", "LC_ALL": "C"}, {"PYTHONHASHSEED": "5"})
    outputs = []
    for processes, environment in enumerate(surroundings, start=1):
        root = make_everything(tmp_path / f"place {processes}" / "images")
        output = tmp_path / f"index {processes}"
        index(root, output, "--set", f"runtime.processes={processes}", **environment)
        outputs.append(folder_bytes(output))
    assert outputs[0] == outputs[1] == outputs[2]


def test_order_of_the_members_shows_only_in_the_places(tmp_path):
    ids = [i * 1000 + i % 8 for i in range(100)]
    index(make_archives(tmp_path / "here", ids), tmp_path / "a")
    index(make_archives(tmp_path / "there", ids[::-1]), tmp_path / "b")
    a, b = (pl.read_parquet(tmp_path / name / "images-*.parquet") for name in "ab")
    assert not a.equals(b)
    assert a.drop("offset").equals(b.drop("offset"))


def test_added_archives_are_read_alone(tmp_path):
    root = make_everything(tmp_path / "images")
    index(root, tmp_path / "index")
    # The old archives' bytes are spoilt behind the index's back: were they read again, the run would fail.
    for path in root.glob("data-*.tar"):
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    make_tar(root / "updates" / "2025" / "0.tar", {"5001.png": png(3), "7.png": png(4)})
    (root / "pixiv" / "new.png").write_bytes(png(5))
    stdout = index(root, tmp_path / "index")
    assert "57 images in 8 archives, 1 of them read now" in stdout
    assert "11 pictures in folders" in stdout
    frame = pl.read_parquet(tmp_path / "index" / "images-*.parquet")
    assert frame.filter(pl.col("id") == 5001)["archive"].to_list() == ["updates/2025/0.tar"]
    assert pl.read_parquet(tmp_path / "index" / "passed_over.parquet")["archive"].to_list() == [
        "updates/2024/0.tar", "updates/2025/0.tar",
    ]  # fmt: skip


def test_changed_archives_are_read_again(tmp_path):
    root = make_archives(tmp_path / "images", [3, 4])
    index(root, tmp_path / "index")
    path = make_tar(root / "data-0004.tar", {"4.webp": b"PICTURE 4"})
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    assert "1 of them read now" in index(root, tmp_path / "index")
    (root / "data-0003.tar").unlink()
    assert "1 images in 1 archives, 0 of them read now" in index(root, tmp_path / "index")


@pytest.mark.parametrize("pieces", [1, 4])
def test_killed_and_continued_by_other_processes(tmp_path, pieces):
    root = make_everything(tmp_path / "images", side=700)
    command = [sys.executable, "stages/index_images.py", "--images", root, "--output", tmp_path / "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "state"
    while process.poll() is None and len(list(state.rglob("*.parquet"))) < pieces:
        time.sleep(0.005)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(workers)
    done = {path.name for path in state.rglob("*.parquet")}
    assert pieces <= len(done) < 8
    assert not (tmp_path / "killed").exists()
    stdout = index(root, tmp_path / "killed", "--set", "runtime.processes=3")
    assert "7 of them read now" not in stdout
    index(root, tmp_path / "undisturbed", STATE_ROOT=str(tmp_path / "other state"))
    assert folder_bytes(tmp_path / "killed") == folder_bytes(tmp_path / "undisturbed")


def test_progress_is_in_bytes(tmp_path):
    root = make_archives(tmp_path / "images", [3, 1003, 2004])
    size = sum(path.stat().st_size for path in root.iterdir())
    result = run_script("index_images.py", "--images", root, "--output", tmp_path / "index")
    assert f"index: {size}/{size} bytes, " in result.stderr


def test_truncated_tar(tmp_path):
    path = make_tar(tmp_path / "images" / "data-0003.tar", {"1003.webp": bytes(5000), "2003.webp": bytes(5000)})
    path.write_bytes(path.read_bytes()[:7000])
    text = refusal("index_images.py", "--images", path.parent, "--output", tmp_path / "index")
    assert f"{path}: not a whole tar archive" in text
    assert not (tmp_path / "index").exists()


def test_a_refused_archive_costs_only_itself(tmp_path):
    root = make_archives(tmp_path / "images", [3, 4, 5])
    make_tar(root / "data-0009.tar", {"8.webp": b"a"})
    assert "data-0009.tar: member '8.webp'" in refusal("index_images.py", "--images", root, "--output", tmp_path / "index")
    make_tar(root / "data-0009.tar", {"9.webp": b"another size"})
    assert "4 images in 4 archives, 1 of them read now" in index(root, tmp_path / "index")


def test_posts_that_contradict_each_other(tmp_path):
    root = make_tar(tmp_path / "images" / "data-0003.tar", {"1003.webp": b"a"}).parent
    make_tar(root / "data-1003.tar", {"1003.webp": b"b"})
    text = refusal("index_images.py", "--images", root, "--output", tmp_path / "index")
    assert "post 1003 is there twice with different bytes" in text
    assert not list(tmp_path.glob("*index*"))


def test_no_archives(tmp_path):
    text = refusal("index_images.py", "--images", tmp_path / "images", "--output", tmp_path / "index")
    assert "images: no such folder; --images names" in text


def test_a_full_disk_leaves_nothing(tmp_path, tiny_disk):
    root = make_archives(tmp_path / "images", range(2000))
    text = refusal("index_images.py", "--images", root, "--output", tiny_disk / "index")
    assert f"{tiny_disk}/" in text
    assert "no space left on the device" in text
    assert not list(tiny_disk.iterdir())


def test_a_full_disk_for_the_state(tmp_path, tiny_disk, monkeypatch):
    monkeypatch.setenv("STATE_ROOT", str(tiny_disk / "state"))
    root = make_archives(tmp_path / "images", range(2000))
    text = refusal("index_images.py", "--images", root, "--output", tmp_path / "index")
    assert "no space left on the device" in text
    assert not list(tiny_disk.rglob("*.partial"))
    assert not (tmp_path / "index").exists()
