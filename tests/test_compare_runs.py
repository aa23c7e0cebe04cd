"""compare_runs.py names the first stage in graph order that parts, and why."""

import subprocess
import sys
from pathlib import Path
from zlib import crc32

LOCK = """schema: '2.0'
stages:
  report:
    cmd: report
    deps:
    - path: train.csv
      md5: '{csv}'
    outs:
    - path: card.md
      md5: '{card}'
  train:
    cmd: train
    deps:
    - path: code.py
      md5: '{code}'
    params:
      params.yaml:
        lr: {lr}
    outs:
    - path: train.csv
      md5: '{csv}'
"""
HEADER = "update,loss\n"


def write_run(folder: Path, history: str = "0,1.0\n1,0.5\n", card: str = "0.5", lr: str = "2e-05", code: str = "1") -> Path:
    folder.mkdir()
    (folder / "train.csv").write_text(HEADER + history)
    (folder / "card.md").write_text(card)
    (folder / "dvc.lock").write_text(LOCK.format(csv=crc32(history.encode()), card=crc32(card.encode()), lr=lr, code=code))
    return folder


def compare(a: Path, b: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "stages/compare_runs.py", str(a), str(b)], capture_output=True, text=True, timeout=120)


def test_equal_runs(tmp_path: Path) -> None:
    result = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == "all 2 outputs are equal"


def test_the_first_stage_in_graph_order_is_named_with_the_update(tmp_path: Path) -> None:
    result = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", history="0,1.0\n1,0.25\n", card="0.25"))
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "train   train.csv  DIFFERENT",
        "report  card.md    DIFFERENT",
        "first difference: stage train, train.csv",
        "  row 1 (update '1'), column loss: '0.5' | '0.25'",
        "  made from the same command, parameters and inputs",
    ]


def test_other_parameters_and_code_are_named_as_the_cause(tmp_path: Path) -> None:
    result = compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", history="0,9\n", lr="0.1", code="2"))
    assert "  params params.yaml:lr: 2e-05 | 0.1" in result.stdout.splitlines()
    assert "  input code.py differs" in result.stdout.splitlines()


def test_outputs_that_are_not_there_are_compared_by_the_locks(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", card="other")
    (b / "train.csv").unlink()
    (b / "card.md").unlink()
    lines = compare(a, b).stdout.splitlines()
    assert lines[:2] == ["train   train.csv  equal", "report  card.md    DIFFERENT"]
    assert "not in both folders" in lines[3]


def test_a_folder_without_a_lock_is_an_error(tmp_path: Path) -> None:
    result = compare(write_run(tmp_path / "a"), tmp_path)
    assert result.returncode == 2
    assert "dvc.lock: not found" in result.stderr
