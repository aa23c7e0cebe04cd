"""report_change.py on a small pipeline under git and DVC: what it tells of a change, and of none."""

import sys
from pathlib import Path

import pytest
from small_repository import made, run

from proof.change import loss_chart, thinned

SCRIPT = str(Path("stages/report_change.py").resolve())
PIPELINE = """stages:
  train:
    cmd: python train.py ${lr}
    deps:
      - train.py
    params:
      - lr
    outs:
      - model.txt
      - reports/train.csv:
          cache: false
    metrics:
      - reports/train.json:
          cache: false
  card:
    cmd: python -c "open('card.txt', 'w').write('always the same')"
    deps:
      - model.txt
    outs:
      - card.txt
"""
TRAIN = """import json, sys
from pathlib import Path
lr = float(sys.argv[1])
Path("model.txt").write_text(str(lr))
Path("reports").mkdir(exist_ok=True)
losses = [1 / (1 + lr * update) for update in range(100)]
Path("reports/train.csv").write_text("update,loss\\n" + "".join(f"{u},{loss}\\n" for u, loss in enumerate(losses)))
Path("reports/train.json").write_text(json.dumps({"last": round(losses[-1], 4)}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("dvc.yaml", PIPELINE), ("train.py", TRAIN), ("params.yaml", "lr: 0.1\n")):
        (tmp_path / name).write_text(text)
    made(tmp_path, "git", "init", "--quiet")
    made(tmp_path, "dvc", "init", "--quiet")
    made(tmp_path, "dvc", "repro", "--quiet")
    made(tmp_path, "git", "add", "--all")
    made(tmp_path, "git", "commit", "--quiet", "--message", "run")
    return tmp_path


def test_a_run_that_did_not_change_says_so(project: Path) -> None:
    report = made(project, sys.executable, SCRIPT, "HEAD")
    assert "4 of 4 outputs are the same to the last byte." in report
    assert report.count("No difference.") == 2
    assert "(this run; the same as before)" in report and report.count("  line [") == 1


def test_another_rate_is_told_with_its_outputs_metrics_and_losses(project: Path) -> None:
    (project / "params.yaml").write_text("lr: 0.2\n")
    made(project, "dvc", "repro", "--quiet")
    assert made(project, sys.executable, SCRIPT, "HEAD", "--out", "change.md") == ""
    report = (project / "change.md").read_text()
    assert "1 of 4 outputs are the same to the last byte." in report
    assert [line for line in report.splitlines() if line.startswith("| train |")] == [
        "| train | `model.txt` | changed |",
        "| train | `reports/train.csv` | changed |",
        "| train | `reports/train.json` | changed |",
    ]
    assert "lr" in report.partition("### Parameters")[2].partition("### Metrics")[0]
    assert "0.0917" in report and "0.0481" in report
    assert "(this run red, the one before grey)" in report and report.count("  line [") == 2


def test_what_is_no_revision_is_told(project: Path) -> None:
    result = run(project, sys.executable, SCRIPT, "origin/main")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "origin/main: no such revision, or one without dvc.lock" in result.stderr


def test_stretches_are_means_of_all_losses() -> None:
    assert thinned([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert thinned([1.0, 3.0], 30) == [1.0, 3.0]
    assert thinned([]) == []
    assert loss_chart(None, None) == []


def test_runs_of_other_lengths_share_no_axis() -> None:
    one, two = ("update,loss\n" + "".join(f"{u},{u}\n" for u in range(length)) for length in (50, 100))
    chart = loss_chart(one, two)
    assert chart[0] == "### Training loss (this run; the one before has 50 updates)"
    assert sum(line.startswith("  line [") for line in chart) == 1
