"""The evaluate stage as a user runs it: two small models, two characters, a real encoder folder."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

from repro.hashing import hash_tree
from repro.params import read_yaml
from repro.randomness import Stream

import pytest
import yaml
from PIL import Image
from small_sdxl import write_small_sdxl

from booru.images.indexing import index_here

PICTURES, REFERENCES, CHARACTERS = 2, 3, ("aoi", "mika_(lorelei)")
ENTRY = {"series": "lorelei", "gender_tag": "1girl", "artists": ["lisa_wischofsky", "zoish"], "core_tags": []}


def picture(post: int) -> bytes:
    """A picture of coarse coloured squares, another for each post."""
    stream = Stream(2, "evaluate test", post)
    small = Image.frombytes("RGB", (6, 5), bytes(stream.below(256) for _ in range(90)))
    buffer = BytesIO()
    small.resize((96, 80), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()


def write_archive(root: Path, images: dict[int, bytes]) -> None:
    root.mkdir(exist_ok=True)
    with tarfile.open(root / "data-0000.tar", "w") as tar:
        for post, data in images.items():
            member = tarfile.TarInfo(f"{post}.png")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """Folder with everything that the stage reads; character `ruri` has too few references."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_small_sdxl(folder / "base", 1)
    write_small_sdxl(folder / "merged", 2)
    shutil.copytree(golden / "evaluate/ccip/hub/deepghs/ccip_onnx/ccip-caformer-24-randaug-pruned", folder / "ccip")
    posts = {name: [8_000_000 + 1000 * (10 * i + k) for k in range(REFERENCES)] for i, name in enumerate(CHARACTERS)}
    posts["ruri"] = [9_000_000]
    write_archive(folder / "images", {post: picture(post) for ids in posts.values() for post in ids})
    index_here(folder / "images", folder / "image_index")
    references = {"characters": {n: {**ENTRY, "posts": ids} for n, ids in posts.items()}, "held_out": [["aoi", "johan_melin"]]}
    (folder / "references.json").write_text(json.dumps(references))
    values = read_yaml(Path("params.yaml").read_text(), "params.yaml")
    values["evaluate"] |= {"pictures": PICTURES, "reference_pictures": REFERENCES, "steps": 2, "width": 32, "height": 48}
    values["evaluate"] |= {"bootstrap_samples": 50}
    values["runtime"] |= {"image_root": str(folder / "images"), "processes": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


def command(inputs: Path, output: Path, *more: str) -> list[str]:
    options = {
        "params": inputs / "params.yaml",
        "base": inputs / "base",
        "merged": inputs / "merged",
        "ccip": inputs / "ccip",
        "references": inputs / "references.json",
        "image-index": inputs / "image_index",
        "output": output / "ccip.json",
        "characters": output / "ccip_characters.csv",
        "plots": output / "ccip",
        "pictures": output / "pictures",
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "stages/evaluate_ccip.py", *given, *more]


def evaluate(inputs: Path, output: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"STATE_ROOT": str(output.parent / f"state-{output.name}")} | environment
    return subprocess.run(command(inputs, output, *more), env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "reports"
    run = evaluate(inputs, output)
    assert run.returncode == 0, run.stderr
    assert "2 characters, 1 skipped" in run.stdout
    return output


def refused(inputs: Path, output: Path, *more: str) -> str:
    """The one or two lines that the stage stops with; nothing may be written."""
    run = evaluate(inputs, output, *more)
    assert run.returncode == 2, run.stderr
    assert not output.exists()
    assert "Traceback" not in run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("evaluate_ccip.py:")]
    assert len(lines) == 1, run.stderr
    return lines[0]


def test_report_has_the_agreed_keys(inputs, finished):
    report = json.loads((finished / "ccip.json").read_text())
    assert report["characters"] == len(CHARACTERS)
    assert report["threshold"] == json.loads((inputs / "ccip/metrics.json").read_text())["threshold"]
    assert set(report["models"]) == {"base", "merged"}
    assert 0 <= report["models"]["merged"]["score"] <= 1
    low, high = report["difference"]["ci95"]
    assert low <= report["difference"]["mean"] <= high
    assert sum(report["difference"][key] for key in ("wins", "ties", "losses")) == len(CHARACTERS)
    assert report["skipped"] == [{"character": "ruri", "reason": "1 reference pictures, evaluate.reference_pictures needs 3"}]
    assert report["held_out"]["pairs"] == 1


def test_report_agrees_with_the_tables(finished):
    report = json.loads((finished / "ccip.json").read_text())
    with open(finished / "ccip_characters.csv", newline="") as file:
        characters = list(csv.DictReader(file))
    with open(finished / "pictures/pictures.csv", newline="") as file:
        pictures = list(csv.DictReader(file))
    assert [(row["character"], row["model"]) for row in characters] == [(c, m) for c in CHARACTERS for m in ("base", "merged")]
    for model in ("base", "merged"):
        scores = [float(row["score"]) for row in characters if row["model"] == model]
        assert report["models"][model]["score"] == pytest.approx(sum(scores) / len(scores), abs=2e-6)
        for row in characters:
            own = [p for p in pictures if (p["model"], p["character"], p["held_out"]) == (row["model"], row["character"], "0")]
            assert len(own) == PICTURES
            assert float(row["score"]) == pytest.approx(sum(float(p["score"]) for p in own) / PICTURES, abs=2e-6)
    seeds = {model: [p["seed"] for p in pictures if p["model"] == model] for model in ("base", "merged")}
    assert seeds["base"] == seeds["merged"]


def test_every_character_has_its_sheet(finished):
    names = sorted(hash_tree(finished / "pictures"))
    assert names == ["aoi.png", "grid.png", "mika_(lorelei).png", "pictures.csv"]
    assert (finished / "ccip" / "rank.csv").read_text().count("\n") == 1 + len(CHARACTERS)


def test_a_run_killed_and_continued_by_another_number_of_processes_gives_the_same_bytes(inputs, finished, tmp_path):
    state = tmp_path / "state-killed"
    process = subprocess.Popen(
        command(inputs, tmp_path / "killed"), env=os.environ | {"STATE_ROOT": str(state)}, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(state.rglob("0*.png"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = list(state.rglob("0*.png"))
    assert 3 <= len(kept) < 2 * (PICTURES * len(CHARACTERS) + 1)
    settings = {"PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    run = evaluate(inputs, tmp_path / "killed", "--set", "runtime.processes=1", **settings)
    assert run.returncode == 0, run.stderr
    assert hash_tree(tmp_path / "killed") == hash_tree(finished)
    assert not list(state.rglob("*.png")), "state of a finished run is removed"


def test_one_picture_one_reference_and_equal_models(inputs, tmp_path):
    sets = ["--set", "evaluate.pictures=1", "--set", "evaluate.reference_pictures=1", "--merged", str(inputs / "base")]
    run = evaluate(inputs, tmp_path / "one", *sets)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "one/ccip.json").read_text())
    assert (report["characters"], report["skipped"]) == (3, [])
    assert report["references"]["ref_self"] is None
    assert report["difference"] == {"mean": 0.0, "ci95": [0.0, 0.0], "wins": 0, "ties": 3, "losses": 0}


def test_a_broken_reference_picture_is_named(inputs, tmp_path):
    images = {8_000_000 + 1000 * k: picture(k) for k in range(REFERENCES)} | {8_001_000: b"\x89PNG not quite"}
    write_archive(tmp_path / "images", images)
    index_here(tmp_path / "images", tmp_path / "image_index")
    references = {"characters": {"aoi": {**ENTRY, "posts": sorted(images)}}}
    (tmp_path / "references.json").write_text(json.dumps(references))
    line = refused(
        inputs, tmp_path / "out", "--references", str(tmp_path / "references.json"), "--image-index",
        str(tmp_path / "image_index"), "--set", f"runtime.image_root={tmp_path / 'images'}",
    )  # fmt: skip
    assert "8001000.png, a reference of aoi, cannot be decoded" in line


def test_a_changed_archive_is_named(inputs, tmp_path):
    data = (inputs / "images/data-0000.tar").read_bytes()
    (tmp_path / "images").mkdir()
    (tmp_path / "images/data-0000.tar").write_bytes(data.replace(b"IDAT", b"IDAX", 1))
    line = refused(inputs, tmp_path / "out", "--set", f"runtime.image_root={tmp_path / 'images'}")
    assert "post 8000000" in line


def test_a_reference_outside_the_index_is_named(inputs, tmp_path):
    write_archive(tmp_path / "images", {8_000_000: picture(8_000_000), 8_001_000: picture(8_001_000)})
    index_here(tmp_path / "images", tmp_path / "image_index")
    line = refused(inputs, tmp_path / "out", "--image-index", str(tmp_path / "image_index"))
    assert "post 8002000, a reference of aoi, is not in the image index" in line


@pytest.mark.parametrize("file", ["model_feat.onnx", "metrics.json"])
def test_an_incomplete_encoder_folder_is_named(inputs, tmp_path, file):
    shutil.copytree(inputs / "ccip", tmp_path / "ccip")
    (tmp_path / "ccip" / file).unlink()
    assert file in refused(inputs, tmp_path / "out", "--ccip", str(tmp_path / "ccip"))


def test_a_missing_model_is_named(inputs, tmp_path):
    assert str(tmp_path / "nowhere") in refused(inputs, tmp_path / "out", "--merged", str(tmp_path / "nowhere"))


def test_a_wrong_prompt_field_stops_before_any_work(inputs, tmp_path):
    line = refused(inputs, tmp_path / "out", "--set", 'evaluate.prompts=["{charcter}, solo"]')
    assert "evaluate.prompts.0" in line
    assert "{character}" in line
