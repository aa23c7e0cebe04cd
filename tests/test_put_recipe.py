"""put_recipe.py as a user runs it: what it shows, and that edits of one's own are kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path("stages/put_recipe.py").resolve()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree("recipes", tmp_path / "recipes")
    shutil.copyfile("recipes/sample.yaml", tmp_path / "params.yaml")
    return tmp_path


def put(project: Path, name: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), name], cwd=project, capture_output=True, text=True, env=os.environ)


def test_a_recipe_is_in_place_and_every_other_value_shown(project: Path) -> None:
    result = put(project, "kohaku-xl-delta")
    assert result.returncode == 0, result.stderr
    assert (project / "params.yaml").read_bytes() == (project / "recipes/kohaku-xl-delta.yaml").read_bytes()
    lines = result.stdout.splitlines()
    assert "  lr: 0.001 -> 4e-05" in lines
    assert "  models.files.sample_base: '.' -> (nothing)" in lines
    assert "  train.pictures.every: 190 -> (nothing)" in lines
    assert not any(line.startswith("  train.optimizer:") for line in lines)  # both have Lion8bit
    assert lines[0].endswith(f"{len(lines) - 1} values differ from what stood there:")
    assert not (project / "params.previous.yaml").exists()


def test_values_of_ones_own_are_kept(project: Path) -> None:
    own = (project / "params.yaml").read_text().replace("lr: 0.001\n", "lr: 0.002\n", 1)
    (project / "params.yaml").write_text(own)
    result = put(project, "sample")
    assert "  lr: 0.002 -> 0.001" in result.stdout.splitlines()
    assert "it is kept as params.previous.yaml" in result.stdout
    assert (project / "params.previous.yaml").read_text() == own


def test_the_recipe_in_place_again_changes_nothing(project: Path) -> None:
    assert "0 values differ" in put(project, "sample").stdout


def test_what_is_no_recipe_leaves_all_as_it_is(project: Path) -> None:
    (project / "recipes/wrong.yaml").write_text("recipe: wrong\n")
    before = (project / "params.yaml").read_bytes()
    for name, words in (("delta", "no such recipe; there are kohaku-xl-delta, "), ("wrong", "key 'family' is missing")):
        result = put(project, name)
        assert (result.returncode, "Traceback" in result.stderr) == (2, False)
        assert words in result.stderr
    assert (project / "params.yaml").read_bytes() == before
