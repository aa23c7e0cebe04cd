"""Learning-rate schedules against sd-scripts' numbers."""

import json
from pathlib import Path

from repro.params import Train, load_params

import pytest
from tiny_training import write_params

from training.schedules import rate_factor


def settings(tmp_path: Path, **train: object) -> Train:
    return load_params(write_params(tmp_path / "p.yaml", **train)).train


@pytest.mark.golden
def test_constant_with_warmup_gives_sd_scripts_rates(golden: Path, tmp_path: Path) -> None:
    cases = json.loads((golden / "train" / "lr_constant_with_warmup.json").read_text())["cases"]
    for case in cases:
        schedule = settings(
            tmp_path, schedule="constant_with_warmup", warmup_updates=case["lr_warmup_steps"], updates=case["max_train_steps"]
        )
        for group, base in enumerate(case["base_lrs"]):
            used = case[f"lr_used_at_update_k_group{group}"]
            assert [base * rate_factor(k, schedule) for k in range(len(used))] == pytest.approx(used, rel=1e-14, abs=0)


def test_linear_rises_and_falls_to_zero(tmp_path: Path) -> None:
    schedule = settings(tmp_path, schedule="linear", warmup_updates=4, updates=12)
    assert [rate_factor(k, schedule) for k in range(12)] == [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "linear"])
def test_no_warmup_starts_at_the_full_rate(tmp_path: Path, schedule: str) -> None:
    assert rate_factor(0, settings(tmp_path, schedule=schedule, warmup_updates=0, updates=3)) == 1.0


def test_a_warmup_longer_than_the_run_is_a_rise_to_its_end(tmp_path: Path) -> None:
    schedule = settings(tmp_path, schedule="linear", warmup_updates=10, updates=5)
    assert [rate_factor(k, schedule) for k in range(5)] == [0, 0.1, 0.2, 0.3, 0.4]
