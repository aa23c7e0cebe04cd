"""The script that tags a folder, as a process: golden captions, interruption, pictures that cannot be read, mistakes."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.errors import run_stage

import numpy as np
import pytest
from damaged_pictures import png_with_broken_chunk
from PIL import Image
from tiny_taggers import write_wd_tagger

from tag_images import main
from tagging.wd_folder import CHUNK, LARGEST, Picture, make_chunks

USER_ERROR = 2
MANY = 150
# What the golden answers call the revisions that the script can prepare pictures as.
REVISIONS = {"2024": "kohya-2024-04", "2025": "kohya-2025-02", "headfix": "kohya-2026-01"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "wd"
    write_wd_tagger(folder)
    return folder


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setattr("repro.state.STATE_ROOT", tmp_path / "state")
    return tmp_path / "state"


def command(images: Path, model: Path, *options: str) -> list[str]:
    return [sys.executable, "stages/tag_images.py", "--images", str(images), "--model", str(model), *options]


def run(images: Path, model: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(images, model, *options), capture_output=True, text=True, check=False)


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    draws = np.random.default_rng(3)
    for number in range(count):
        Image.fromarray(draws.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")


def captions(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*.txt"))}


@pytest.fixture
def golden_images(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "evaluate/tagger/set/images", tmp_path / "images"))


@pytest.mark.golden
@pytest.mark.parametrize(("revision", "name"), [("2024", "sote"), ("2025", "rating_last"), ("headfix", "chars_first_many")])
def test_the_reference_captions_file_by_file(golden: Path, golden_images: Path, revision: str, name: str):
    answers = json.loads((golden / "evaluate/tagger/set/expected.json").read_text())
    (model,) = (golden / "evaluate/tagger/model_dir").iterdir()
    options = [*answers["option_sets"][name]["args"], "--preprocess", REVISIONS[revision]]
    result = run(golden_images, model, *options)
    assert result.returncode == 0, result.stderr
    assert captions(golden_images) == answers["results"][revision][name]["captions"]
    main(["--images", str(golden_images), "--model", str(model), *options])  # appends nothing, where it is to append
    assert captions(golden_images) == answers["results"][revision][name]["captions"]


@pytest.mark.golden
def test_the_folder_itself_by_default_and_a_batch_of_any_size(golden: Path, golden_images: Path):
    answers = json.loads((golden / "evaluate/tagger/set/expected.json").read_text())["results"]["2024"]
    (model,) = (golden / "evaluate/tagger/model_dir").iterdir()
    main(["--images", str(golden_images), "--model", str(model), "--batch_size", "3"])
    assert captions(golden_images) == answers["defaults"]["captions"]


def test_any_number_of_processes_gives_the_same_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    write_pictures(tmp_path / "a", MANY)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    many = run(tmp_path / "b", model, "--processes", "3", "--batch_size", "4", "--frequency_tags")
    main(["--images", str(tmp_path / "a"), "--model", str(model), "--batch_size", "4", "--frequency_tags"])
    assert captions(tmp_path / "a") == captions(tmp_path / "b")
    assert len(captions(tmp_path / "a")) == MANY
    *counts, _ = capsys.readouterr().out.splitlines()
    assert counts == many.stdout.splitlines()[:-1]
    found = [word for text in captions(tmp_path / "a").values() for word in text.strip("\n").split(", ") if word]
    assert {line.rpartition(": ")[0]: int(line.rpartition(": ")[2]) for line in counts} == {w: found.count(w) for w in found}


def test_a_killed_run_goes_on_without_doing_anything_twice(model: Path, tmp_path: Path, own_state: Path):
    write_pictures(tmp_path / "whole", MANY)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    options = ("--append_tags", "--character_tag_expand", "--batch_size", "2")
    main(["--images", str(tmp_path / "whole"), "--model", str(model), *options])
    process = subprocess.Popen(command(tmp_path / "killed", model, *options), stderr=subprocess.DEVNULL)
    while not list(own_state.glob("tag-images/*/*/[!.]*.parquet")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Nothing of the first chunk is opened again: its pictures are no pictures any more.
    chunk = make_chunks([known(file, tmp_path / "killed") for file in sorted((tmp_path / "killed").glob("*.png"))])[0]
    for picture in chunk:
        path = tmp_path / "killed" / picture.path
        path.write_bytes(bytes(picture.size))
        os.utime(path, ns=(picture.mtime_ns, picture.mtime_ns))
    main(["--images", str(tmp_path / "killed"), "--model", str(model), *options])
    assert captions(tmp_path / "killed") == captions(tmp_path / "whole")
    assert not list(own_state.rglob("*.parquet"))


def known(file: Path, folder: Path) -> Picture:
    return Picture(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns)


def test_broken_pictures_are_named_and_the_others_done(model: Path, tmp_path: Path):
    write_pictures(tmp_path / "images", 12)
    (tmp_path / "images" / "003.png").write_bytes(png_with_broken_chunk())
    (tmp_path / "images" / "007.png").write_bytes(b"")
    result = run(tmp_path / "images", model, "--batch_size", "5")
    assert result.returncode == USER_ERROR
    *_, first, second, last = result.stderr.splitlines()
    assert first.startswith("003.png: ")
    assert second == "007.png: not an image file"
    assert "2 of 12 pictures got no caption, the others have theirs" in last
    assert sorted(captions(tmp_path / "images")) == [f"{n:03}.txt" for n in range(12) if n not in (3, 7)]
    whole = captions(tmp_path / "images")
    write_pictures(tmp_path / "again", 12)
    for number in (3, 7):
        shutil.copyfile(tmp_path / "again" / f"{number:03}.png", tmp_path / "images" / f"{number:03}.png")
    main(["--images", str(tmp_path / "images"), "--model", str(model), "--batch_size", "5"])
    assert len(captions(tmp_path / "images")) == 12
    assert whole.items() <= captions(tmp_path / "images").items()


def test_a_caption_that_is_no_text_is_left_alone(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    write_pictures(tmp_path / "images", 2)
    (tmp_path / "images" / "000.txt").write_bytes(b"caf\xe9")
    assert "000.png: 000.txt is not UTF-8 text" in refused(capfd, tmp_path / "images", model, "--append_tags")
    assert (tmp_path / "images" / "000.txt").read_bytes() == b"caf\xe9"
    assert (tmp_path / "images" / "001.txt").exists()


def test_every_lost_picture_is_named_and_one_caption_that_cannot_be_written_ends_nothing(model: Path, tmp_path: Path, capfd):
    write_pictures(tmp_path / "images", 12)
    for number in range(8):
        (tmp_path / "images" / f"{number:03}.png").write_bytes(b"")
    (tmp_path / "images" / "008.txt").mkdir()
    told = refused(capfd, tmp_path / "images", model)
    assert [f"{number:03}.png: not an image file" in told for number in range(8)] == [True] * 8
    assert "008.png: 008.txt cannot be read or written (Is a directory)" in told
    assert "9 of 12 pictures got no caption" in told
    assert sorted(path.name for path in (tmp_path / "images").glob("*.txt") if path.is_file()) == [
        "009.txt",
        "010.txt",
        "011.txt",
    ]


def test_two_folders_have_nothing_to_do_with_each_other(model: Path, tmp_path: Path, own_state: Path, capfd):
    """One is being tagged, and holds its lock, while the other is; an unfinished one is no reason for words."""
    for name in ("a", "b"):
        write_pictures(tmp_path / name, 2)
    (tmp_path / "a" / "000.png").write_bytes(b"")
    refused(capfd, tmp_path / "a", model)
    (lock,) = own_state.glob("tag-images/*/lock")
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        main(["--images", str(tmp_path / "b"), "--model", str(model)])
    assert "beginning anew" not in capfd.readouterr().err
    assert len(captions(tmp_path / "b")) == 2


def refused(capfd: pytest.CaptureFixture, images: Path, model: Path, *options: str) -> str:
    """What the script, run in this process, tells the user as it exits with 2."""
    with pytest.raises(SystemExit) as exit_:
        run_stage(main, ["--images", str(images), "--model", str(model), *options])
    assert exit_.value.code == USER_ERROR
    return capfd.readouterr().err


def test_two_pictures_with_one_caption_are_refused_before_any_work(model: Path, tmp_path: Path, capfd):
    write_pictures(tmp_path / "images" / "sub", 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "sub" / "001.JPG")
    told = refused(capfd, tmp_path / "images", model, "--recursive")
    assert "sub/001.JPG and sub/001.png would both have the caption sub/001.txt" in told
    assert not captions(tmp_path / "images")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no pictures in it; --recursive looks into its sub-folders"),
        (("--recursive", "--caption_extension", ".png"), "--caption_extension .png: expected an extension of text files"),
        (("--recursive", "--caption_extension", "txt"), "--caption_extension txt: expected an extension of text files"),
        (("--recursive", "--tag_replacement", "a"), "--tag_replacement 'a': expected pairs"),
        (("--recursive", "--caption_separator", " "), "--caption_separator ' '"),
        (("--general_threshold", "35"), "argument --general_threshold: expected a probability, 0 to 1"),
        (("--thresh", "nan"), "argument --thresh: expected a probability, 0 to 1"),
        (("--batch_size", "0"), "argument --batch_size: expected 1 or more"),
    ],
)
def test_mistakes_are_told_before_any_work(model: Path, tmp_path: Path, capfd, options: tuple[str, ...], message: str):
    write_pictures(tmp_path / "images" / "sub", 1)
    before = sorted(tmp_path.joinpath("images").rglob("*"))
    assert message in refused(capfd, tmp_path / "images", model, *options)
    assert sorted(tmp_path.joinpath("images").rglob("*")) == before


def test_missing_folders_are_named(model: Path, tmp_path: Path, capfd):
    write_pictures(tmp_path / "images", 1)
    assert "none: no such folder" in refused(capfd, tmp_path / "none", model)
    assert "none/model.onnx: no such file" in refused(capfd, tmp_path / "images", tmp_path / "none")


def test_hidden_files_are_passed_over(model: Path, tmp_path: Path):
    write_pictures(tmp_path / "images", 1)
    write_pictures(tmp_path / "images" / ".thumbnails", 1)
    shutil.copyfile(tmp_path / "images" / "000.png", tmp_path / "images" / ".cover.png")
    main(["--images", str(tmp_path / "images"), "--model", str(model), "--recursive"])
    assert sorted(captions(tmp_path / "images")) == ["000.txt"]


def test_one_picture_more_changes_few_chunks():
    pictures = [Picture(f"{number:05}.png", 1, 1) for number in range(20 * CHUNK)]
    chunks = make_chunks(pictures)
    assert [picture for chunk in chunks for picture in chunk] == pictures
    assert max(map(len, chunks)) <= LARGEST
    more = make_chunks([Picture("0.png", 1, 1), *pictures])
    assert len(set(more) - set(chunks)) <= 2
