"""attest_model.py and check_model.py on a small pipeline that DVC ran: the model itself, changed ones, and another run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_repository import made, run

STAGES = Path("stages").resolve()
PIPELINE = """stages:
  caption:
    cmd: python code/caption.py words.txt data/captions
    deps:
      - code/caption.py
      - words.txt
    outs:
      - data/captions
  train:
    cmd: python code/train.py data/captions models/lokr.safetensors ${lr}
    deps:
      - code/train.py
      - data/captions
    params:
      - lr
    outs:
      - models/lokr.safetensors
  merge:
    cmd: python code/merge.py models/lokr.safetensors models/${merge.name}.safetensors
    deps:
      - code/merge.py
      - models/lokr.safetensors
    params:
      - merge
    outs:
      - models/${merge.name}.safetensors
"""
CAPTION = """import sys
from pathlib import Path
words = Path(sys.argv[1]).read_text().split()
Path(sys.argv[2]).mkdir(parents=True)
for number, word in enumerate(words):
    Path(sys.argv[2], f"{number}.txt").write_text(word)
"""
TRAIN = """import sys, torch
from pathlib import Path
from safetensors.torch import save_file
total = sum(len(path.read_text()) for path in Path(sys.argv[1]).iterdir())
Path(sys.argv[2]).parent.mkdir(exist_ok=True)
save_file({"w": torch.full((4,), total * float(sys.argv[3]))}, sys.argv[2])
"""
MERGE = """import sys
from safetensors.torch import load_file, save_file
save_file({"merged": load_file(sys.argv[1])["w"] + 1.0}, sys.argv[2], {"title": "sample"})
"""


def attest(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return run(folder, sys.executable, str(STAGES / "attest_model.py"), *options)


def check(folder: Path, file: Path | str, attestation: Path | str) -> subprocess.CompletedProcess:
    return run(folder, sys.executable, str(STAGES / "check_model.py"), str(file), str(attestation))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose pipeline has run, committed, with its attestation at attestation.json."""
    folder = tmp_path_factory.mktemp("attested") / "a run"
    (folder / "stages").mkdir(parents=True)
    (folder / "code").mkdir()
    (folder / "stages/stage.py").write_text("# the code\n")
    for name, text in (("caption", CAPTION), ("train", TRAIN), ("merge", MERGE)):
        (folder / f"code/{name}.py").write_text(text)
    (folder / "words.txt").write_text("one two three\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "requirements.lock").write_text("torch==1.2.3\n")
    shutil.copyfile("recipes/sample.yaml", folder / "params.yaml")
    made(folder, "git", "init", "--quiet")
    made(folder, "dvc", "init", "--quiet")
    made(folder, "dvc", "repro", "--quiet")
    made(folder, "git", "add", "--all")
    made(folder, "git", "commit", "--quiet", "--message", "run")
    result = attest(folder, "--out", "attestation.json")
    assert result.returncode == 0, result.stderr
    assert "3 outputs of 3 stages" in result.stdout
    return folder


@pytest.fixture
def other(finished: Path, tmp_path: Path) -> Path:
    """A copy to run anew, in another place."""
    return Path(shutil.copytree(finished, tmp_path / "elsewhere"))


def test_the_model_itself_is_told_from_any_folder(finished: Path, tmp_path: Path) -> None:
    shutil.copyfile(finished / "models/sample.safetensors", tmp_path / "renamed.safetensors")
    result = check(tmp_path, "renamed.safetensors", finished / "attestation.json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("renamed.safetensors: is Sample XL (models/sample.safetensors, AutoV2 ")


def test_an_attestation_says_all_and_neither_place_nor_time(finished: Path, other: Path) -> None:
    attested = json.loads((finished / "attestation.json").read_bytes())
    assert attested["recipe"]["train"]["updates"] == 380 and not {"runtime", "inputs", "card"} & attested["recipe"].keys()
    assert attested["code"]["stages_tree"] == made(finished, "git", "rev-parse", "HEAD:stages").strip()
    assert attested["packages"]["versions"] == {"torch": "1.2.3"}
    assert attested["inputs"].keys() == {"words.txt", "code/caption.py", "code/train.py", "code/merge.py"}
    assert [stage["name"] for stage in attested["stages"]] == ["caption", "train", "merge"]
    assert attested["stages"][0]["outputs"]["data/captions"]["files"].keys() == {"0.txt", "1.txt", "2.txt"}
    assert attest(other, "--out", "again.json").returncode == 0
    assert (other / "again.json").read_bytes() == (finished / "attestation.json").read_bytes()
    assert str(finished).encode() not in (finished / "attestation.json").read_bytes()


def test_other_metadata_other_outputs_and_foreign_files_are_told_apart(finished: Path, tmp_path: Path) -> None:
    attestation = finished / "attestation.json"
    save_file(load_file(finished / "models/sample.safetensors"), tmp_path / "retitled.safetensors", {"title": "mine"})
    assert "has the tensors of Sample XL" in check(tmp_path, "retitled.safetensors", attestation).stdout
    lokr = check(tmp_path, finished / "models/lokr.safetensors", attestation)
    assert "it is models/lokr.safetensors of the same run" in lokr.stdout
    save_file({"merged": torch.zeros(4)}, tmp_path / "foreign.safetensors")
    foreign = check(tmp_path, "foreign.safetensors", attestation)
    assert (foreign.returncode, "sha256" in foreign.stdout) == (1, True)
    assert foreign.stdout.endswith("no run is in this folder; with the attested recipe in params.yaml, `make` and ask again\n")


def test_another_rate_is_the_first_difference_of_a_run(finished: Path, other: Path) -> None:
    params = (other / "params.yaml").read_text()
    (other / "params.yaml").write_text(params.replace("lr: 0.001\n", "lr: 0.002\n", 1))
    made(other, "dvc", "repro", "--quiet")
    result = check(other, "models/sample.safetensors", finished / "attestation.json")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[1:] == [
        "first difference: stage train, models/lokr.safetensors (lokr.safetensors)",
        "  parameter lr: here 0.002, attested 0.001",
    ]


def test_another_input_is_the_first_difference_of_a_run_with_its_file(finished: Path, other: Path) -> None:
    (other / "words.txt").write_text("one two four\n")
    (other / "requirements.lock").write_text("torch==1.2.4\n")
    made(other, "dvc", "repro", "--quiet")
    lines = check(other, "models/sample.safetensors", finished / "attestation.json").stdout.splitlines()
    assert lines[1:] == [
        "first difference: stage caption, data/captions (2.txt)",
        "  package torch: here 1.2.4, attested 1.2.3",
        "  input words.txt: other bytes",
    ]


def test_a_file_broken_after_the_run_is_told_from_a_run_that_differs(finished: Path, other: Path) -> None:
    save_file({"merged": torch.zeros(4)}, other / "broken.safetensors")
    result = check(other, "broken.safetensors", finished / "attestation.json")
    assert result.stdout.splitlines()[1:] == ["every output of the run in this folder is the attested one"]


def test_a_stale_run_or_code_that_is_not_committed_is_not_attested(other: Path) -> None:
    (other / "words.txt").write_text("other words\n")
    result = attest(other)
    assert (result.returncode, "stage caption is not up to date" in result.stderr) == (2, True), result.stderr
    (other / "words.txt").write_text("one two three\n")
    (other / "stages/stage.py").write_text("# other code\n")
    result = attest(other)
    assert (result.returncode, "stages/stage.py: not committed" in result.stderr) == (2, True), result.stderr
    assert not (other / "models/sample.attestation.json").exists()


def test_what_is_no_model_or_no_attestation_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    for file, attestation, words in (
        ("none.safetensors", finished / "attestation.json", "none.safetensors: no such file"),
        ("text.safetensors", finished / "attestation.json", "text.safetensors: not a safetensors file"),
        (finished / "models/sample.safetensors", "text.safetensors", "text.safetensors: not an attestation of format 1"),
        (finished / "models/sample.safetensors", "none.json", "none.json: no such attestation"),
    ):
        result = check(tmp_path, file, attestation)
        assert (result.returncode, "Traceback" in result.stderr, words in result.stderr) == (2, False, True), result.stderr
