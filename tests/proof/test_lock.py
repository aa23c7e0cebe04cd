"""dvc.lock: graph order and errors."""

from pathlib import Path

from repro.errors import StageError

import pytest

from proof.lock import Stage, graph_order, read_lock


def stage(name: str, inputs: list[str], outputs: list[str]) -> Stage:
    return Stage(name, "", dict.fromkeys(inputs, "x"), {}, dict.fromkeys(outputs, "y"))


def test_stages_come_after_what_feeds_them() -> None:
    report = stage("report", ["reports/train.csv"], ["reports/index.html"])
    train = stage("train", ["data/latents", "models/base"], ["models/lokr.safetensors", "reports/train.csv"])
    latents = stage("latents", ["data/captions/captions-00000.parquet", "models/base"], ["data/latents"])
    caption = stage("caption", ["data/posts"], ["data/captions"])
    base = stage("base", ["models/sample-base"], ["models/base"])
    ordered = [s.name for s in graph_order([report, train, base, latents, caption])]
    assert ordered == ["base", "caption", "latents", "train", "report"]


def test_a_folder_whose_name_begins_alike_feeds_nothing() -> None:
    assert [s.name for s in graph_order([stage("b", ["data/kept-old"], []), stage("a", [], ["data/kept"])])] == ["b", "a"]


def test_a_circle_is_refused() -> None:
    with pytest.raises(StageError, match="a, b feed each other"):
        graph_order([stage("a", ["x"], ["y"]), stage("b", ["y"], ["x"])])


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not found"):
        read_lock(tmp_path / "dvc.lock")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    with pytest.raises(StageError, match="not a lock file"):
        read_lock(tmp_path / "dvc.lock")


def test_rates_in_params_are_numbers(tmp_path: Path) -> None:
    text = """schema: '2.0'
stages:
  train:
    cmd: python stages/train.py
    deps:
    - path: data/latents
      hash: md5
      md5: 0123.dir
    params:
      params.yaml:
        lr: 2e-05
    outs:
    - path: models/lokr.safetensors
      hash: md5
      md5: '4567'
"""
    (tmp_path / "dvc.lock").write_text(text)
    (train,) = read_lock(tmp_path / "dvc.lock")
    assert train.params == {"params.yaml:lr": 2e-5}
    assert train.outputs == {"models/lokr.safetensors": "4567"}
