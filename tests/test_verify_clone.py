"""verify_clone.py on a small pipeline with a frozen stage: equal, leaking surroundings, uncommitted changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VERIFY = Path("stages/verify_clone.py").resolve()
PIPELINE = """stages:
  sample:
    frozen: true
    cmd: exit 1
    deps:
      - draw.py
    outs:
      - sample.txt:
          cache: false
  train:
    cmd: python train.py sample.txt history.csv ${lr}
    deps:
      - sample.txt
      - train.py
    params:
      - lr
    outs:
      - history.csv
  report:
    cmd: python report.py history.csv card.json
    deps:
      - history.csv
      - report.py
    metrics:
      - card.json:
          cache: false
"""
MEASURE = """  measure:
    cmd: python measure.py history.csv reports/measured.json
    deps:
      - history.csv
      - measure.py
    metrics:
      - reports/measured.json:
          cache: false
"""
MEASURE_PROGRAM = """import json, sys
from pathlib import Path
Path(sys.argv[2]).write_text(json.dumps({"last": Path(sys.argv[1]).read_text().split(",")[-1].strip()}) + "\\n")
"""
TRAIN = """import sys
from pathlib import Path
source, target, lr = sys.argv[1:]
Path(target).write_text(f"update,loss\\n0,{Path(source).read_text().strip()}\\n1,{lr}\\n")
"""
LEAKY_TRAIN = """import os, sys
from pathlib import Path
source, target, lr = sys.argv[1:]
Path(target).write_text(f"update,loss\\n0,{Path(source).read_text().strip()}\\n1,{lr}{os.environ.get('TZ', '')}\\n")
"""
REPORT = """import json, sys, yaml
from pathlib import Path
processes = yaml.safe_load(Path("params.yaml").read_text())["runtime"]["processes"]
print("processes", processes)
Path(sys.argv[2]).write_text(json.dumps({"rows": len(Path(sys.argv[1]).read_text().split())}) + "\\n")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Programs of this environment, a git identity, and DVC's caches inside the test's folder."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
        "TMPDIR": str(tmp_path / "scratch"),
        "TZ": "UTC",
    }


@pytest.fixture
def repository(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A repository whose pipeline ran once and is committed."""
    folder = tmp_path / "repository"
    for path in (folder, tmp_path / "scratch"):
        path.mkdir()
    (tmp_path / "gitconfig").write_text("[user]\n  name = Test\n  email = test@example.org\n")
    files = {"dvc.yaml": PIPELINE, "train.py": TRAIN, "report.py": REPORT, "draw.py": "", "sample.txt": "0.9\n"}
    files["params.yaml"] = "lr: 2e-05\nruntime:\n  image_root: images\n  processes: 2\n"
    for name, text in files.items():
        (folder / name).write_text(text)
    run_in(folder, environment, "git", "init", "--quiet")
    run_in(folder, environment, "dvc", "init", "--quiet")
    run_pipeline(folder, environment)
    return folder


def run_in(folder: Path, environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def run_pipeline(folder: Path, environment: dict[str, str]) -> None:
    """Run it and commit what it made."""
    run_in(folder, environment, "dvc", "commit", "--quiet", "--force", "sample")
    run_in(folder, environment, "dvc", "repro", "--quiet")
    run_in(folder, environment, "git", "add", "--all")
    run_in(folder, environment, "git", "commit", "--quiet", "--message", "run")


def verify(folder: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(VERIFY), *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_reproducible_pipeline_is_equal_and_leaves_nothing(
    repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    result = verify(repository, environment, "--processes", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    table = [line.split() for line in result.stdout.splitlines()[-5:-2]]
    assert table == [["sample", "sample.txt", "equal"], ["train", "history.csv", "equal"], ["report", "card.json", "equal"]]
    assert "all 3 outputs and dvc.lock are equal" in result.stdout
    assert "processes 1" in result.stdout, "the clone ran with the width asked for"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_depends_on_the_surroundings_is_found(repository: Path, environment: dict[str, str]) -> None:
    (repository / "train.py").write_text(LEAKY_TRAIN)
    run_pipeline(repository, environment)
    result = verify(repository, environment)
    assert result.returncode == 1, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    at = lines.index("first difference: stage train, history.csv")
    assert lines[at - 2].split() == ["train", "history.csv", "DIFFERENT"]
    assert lines[at - 1].split() == ["report", "card.json", "equal"]
    assert lines[at + 1].startswith("  row 1 (update '1'), column loss: '2e-05UTC' | '2e-05NPT")
    kept = Path(lines[-1].removeprefix("the clone is kept: "))
    assert (kept / "history.csv").exists()
    shutil.rmtree(kept.parent)


def test_a_frozen_output_that_is_not_the_locks_is_found(repository: Path, environment: dict[str, str]) -> None:
    (repository / "sample.txt").write_text("0.8\n")
    run_in(repository, environment, "git", "commit", "--quiet", "--all", "--message", "changed by hand")
    result = verify(repository, environment)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "first difference: stage sample, sample.txt" in result.stdout
    assert "dvc.lock names other bytes than these" in result.stdout


def test_uncommitted_changes_are_refused(repository: Path, environment: dict[str, str]) -> None:
    (repository / "train.py").write_text(LEAKY_TRAIN)
    result = verify(repository, environment)
    assert result.returncode == 2
    assert "uncommitted changes (train.py)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_lock_with_a_stage_that_is_gone_is_refused(repository: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (repository / "dvc.yaml").write_text(PIPELINE.replace("  report:", "  card:"))
    run_pipeline(repository, environment)
    result = verify(repository, environment)
    assert result.returncode == 2
    assert "dvc.lock: stage 'report' is not in dvc.yaml; take its lines out of dvc.lock" in result.stderr
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_failing_stage_is_an_error(repository: Path, environment: dict[str, str]) -> None:
    (repository / "report.py").write_text("raise SystemExit(3)\n")
    run_in(repository, environment, "git", "commit", "--quiet", "--all", "--message", "broken")
    result = verify(repository, environment)
    assert result.returncode == 2
    assert "dvc repro failed" in result.stderr


def run_recipe(folder: Path, environment: dict[str, str], name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(VERIFY.with_name("run_recipe.py")), name]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def commit(folder: Path, environment: dict[str, str], message: str) -> None:
    run_in(folder, environment, "git", "add", "--all")
    run_in(folder, environment, "git", "commit", "--quiet", "--message", message)


@pytest.fixture
def two_recipes(repository: Path, environment: dict[str, str]) -> Path:
    """The repository with a stage that writes into reports/, and a second recipe, another rate, whose lock is not there yet."""
    (repository / "dvc.yaml").write_text(PIPELINE + MEASURE)
    (repository / "measure.py").write_text(MEASURE_PROGRAM)
    (repository / "recipes").mkdir()
    (repository / "recipes" / "fast.yaml").write_text((repository / "params.yaml").read_text().replace("2e-05", "0.5"))
    (repository / "reports").mkdir()
    (repository / "reports" / "note.txt").write_text("committed\n")
    with open(repository / ".gitignore", "a") as ignored:
        ignored.write("/state/\n")
    run_pipeline(repository, environment)
    return repository


def test_a_recipe_beside_the_one_in_place_gets_a_lock_and_is_verified_by_it(
    two_recipes: Path, environment: dict[str, str]
) -> None:
    in_place = {name: (two_recipes / name).read_bytes() for name in ("params.yaml", "dvc.lock", "history.csv", "card.json")}
    result = run_recipe(two_recipes, environment, "fast")
    assert result.returncode == 0, result.stderr
    lock = two_recipes / "recipes" / "fast.lock"
    assert "lr: 0.5" in lock.read_text()
    assert {name: (two_recipes / name).read_bytes() for name in in_place} == in_place
    assert (two_recipes / "state" / "recipe-runs" / "fast" / "history.csv").read_text().endswith("1,0.5\n")
    commit(two_recipes, environment, "lock")
    result = verify(two_recipes, environment, "--recipe", "fast")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all 4 outputs and recipes/fast.lock are equal" in result.stdout

    lock.write_text(lock.read_text().replace(lock.read_text().split("path: card.json")[1].split("md5: ")[1][:32], "a" * 32))
    commit(two_recipes, environment, "another lock")
    result = verify(two_recipes, environment, "--recipe", "fast")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "first difference: stage report, card.json" in result.stdout


def assert_followed(repository: Path, result: subprocess.CompletedProcess[str]) -> None:
    """The new report was made, what the run had was not made again, and nothing is left beside the clone."""
    assert result.returncode == 0, result.stderr
    assert "Stage 'train' didn't change" in result.stdout and "Stage 'measure' didn't change" in result.stdout
    clone = repository / "state" / "recipe-runs" / "fast"
    assert "lines" in (clone / "card.json").read_text()
    assert (clone / "reports" / "measured.json").read_text() == '{"last": "0.5"}\n'
    assert list(clone.parent.iterdir()) == [clone]


def test_a_recipes_run_follows_a_commit_and_keeps_what_it_has(two_recipes: Path, environment: dict[str, str]) -> None:
    assert run_recipe(two_recipes, environment, "fast").returncode == 0
    (two_recipes / "report.py").write_text(REPORT.replace('"rows"', '"lines"'))
    commit(two_recipes, environment, "another report")
    assert_followed(two_recipes, run_recipe(two_recipes, environment, "fast"))


@pytest.mark.parametrize("aside", [["reports"], ["reports", "dvc.lock"], ["dvc.lock"]])
def test_a_run_killed_while_it_follows_a_commit_keeps_what_it_has(
    two_recipes: Path, environment: dict[str, str], aside: list[str]
) -> None:
    """Put aside, put aside and the commit's in their place, half put back: what is aside is the run's own."""
    assert run_recipe(two_recipes, environment, "fast").returncode == 0
    (two_recipes / "report.py").write_text(REPORT.replace('"rows"', '"lines"'))
    commit(two_recipes, environment, "another report")
    clone = two_recipes / "state" / "recipe-runs" / "fast"
    kept = clone.with_name("fast as run")
    kept.mkdir()
    for name in aside:
        (clone / name).rename(kept / name)
    if len(aside) == 2:
        run_in(clone, environment, "git", "checkout", "--quiet", "--force", "HEAD", "--", *aside)
    assert_followed(two_recipes, run_recipe(two_recipes, environment, "fast"))


def test_a_recipe_without_a_lock_cannot_be_verified(two_recipes: Path, environment: dict[str, str]) -> None:
    result = verify(two_recipes, environment, "--recipe", "fast")
    assert result.returncode == 2
    assert "recipes/fast.lock: not found; `make recipe-lock NAME=fast` runs the recipe" in result.stderr


def test_a_recipe_that_is_not_there_is_refused(two_recipes: Path, environment: dict[str, str]) -> None:
    result = run_recipe(two_recipes, environment, "slow")
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["run_recipe.py: recipes/slow.yaml: no such recipe"]
    assert not (two_recipes / "state").exists()
