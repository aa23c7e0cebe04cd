"""The recipes that only merge, as a user runs them: `dvc repro merge` on small models in the published ones' places."""

import json
import shutil
import sys
from pathlib import Path

from repro.params import load_params

import pytest
import torch
from safetensors.torch import load_file
from small_repository import made
from small_sdxl import write_small_sdxl

MERGE = str(Path("stages/merge.py").resolve())
DVC = str(Path(sys.executable).with_name("dvc"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dvc.yaml and stages/ with both recipes' models: single files of small models, and one's configs."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("stages", "recipes"):
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile("dvc.yaml", folder / "dvc.yaml")
    made(folder, DVC, "init", "--quiet", "--no-scm")
    files = load_params(Path("recipes/kohaku-xl-gamma-rev1.yaml")).models.files
    files = files | load_params(Path("recipes/kohaku-xl-gamma-rev2.yaml")).models.files
    for seed, (name, file) in enumerate(sorted(files.items())):
        model = write_small_sdxl(folder / "made" / name, seed=seed)
        target = folder / "models" / "published" / file
        if target.suffix == ".safetensors":
            target.parent.mkdir(parents=True, exist_ok=True)
            made(folder, sys.executable, MERGE, "--formula", "m", "--model", f"m={model}", "--out", str(target))
        else:
            shutil.copytree(model, target)
    return folder


@pytest.mark.parametrize("name", ["kohaku-xl-gamma-rev1", "kohaku-xl-gamma-rev2"])
def test_dvc_repro_merge_runs_the_merge_alone_and_gives_the_formulas_bytes(project: Path, name: str) -> None:
    recipe = load_params(Path(f"recipes/{name}.yaml"))
    shutil.copyfile(project / f"recipes/{name}.yaml", project / "params.yaml")
    (project / "dvc.lock").unlink(missing_ok=True)
    told = made(project, DVC, "repro", "merge")
    assert [line for line in told.splitlines() if line.startswith("Running stage")] == ["Running stage 'merge':"]
    used = {key: file for key, file in recipe.models.files.items() if key != "sdxl_configs"}
    assert len(used) == 4
    named = [word for key, file in used.items() for word in ("--model", f"{key}=models/published/{file}")]
    made(project, sys.executable, MERGE, "--formula", recipe.merge.formula, *named, "--out", "by_hand.safetensors")
    merged, by_hand = load_file(project / f"models/{name}.safetensors"), load_file(project / "by_hand.safetensors")
    assert merged.keys() == by_hand.keys()
    assert all(torch.equal(merged[key], by_hand[key]) for key in merged)
    beta7 = load_file(project / "models/published" / recipe.models.files["beta7"])
    assert sum(torch.equal(merged[key], beta7[key]) for key in merged) < len(merged) / 2
    report = json.loads((project / "reports/merge.json").read_text())
    assert (report["formula"], report["inputs"]["sha256"].keys()) == (recipe.merge.formula, used.keys())
    assert (project / f"models/{name}/model_index.json").is_file()
    assert "'merge' didn't change" in made(project, DVC, "repro", "merge")
