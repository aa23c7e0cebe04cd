"""Learning-rate schedules against sd-scripts' and transformers' numbers."""

import itertools
import json
import math
from pathlib import Path

import repro  # noqa: F401 - fixes the numeric environment

import pytest
import torch
from small_updates import train_settings

from training.schedules import half_cosine, rate_factor, schedule_words


def factors(schedule: str, warmup: int, updates: int, count: int | None = None) -> list[float]:
    settings = train_settings(schedule=schedule, warmup_updates=warmup)
    return [rate_factor(k, settings, updates) for k in range(updates if count is None else count)]


@pytest.mark.golden
def test_constant_with_warmup_gives_sd_scripts_rates(golden: Path) -> None:
    cases = json.loads((golden / "train" / "lr_constant_with_warmup.json").read_text())["cases"]
    for case in cases:
        for group, base in enumerate(case["base_lrs"]):
            used = case[f"lr_used_at_update_k_group{group}"]
            ours = factors("constant", case["lr_warmup_steps"], case["max_train_steps"], len(used))
            assert [base * factor for factor in ours] == pytest.approx(used, rel=1e-14, abs=0)


@pytest.mark.golden
@pytest.mark.parametrize("processes", [2, 4])
def test_a_warmup_of_sd_scripts_was_as_many_times_shorter_as_it_had_processes(golden: Path, processes: int) -> None:
    """Under accelerate update k used the rate of scheduler step k * processes; here the recipe says it in updates."""
    cases = json.loads((golden / "train" / "lr_constant_with_warmup.json").read_text())["cases"]
    for case in cases[:2]:
        used = case["lr_used_at_update_k_group0"][::processes]
        ours = factors("constant", case["lr_warmup_steps"] // processes, case["max_train_steps"], len(used))
        assert [case["base_lrs"][0] * factor for factor in ours] == pytest.approx(used, rel=1e-14, abs=0)


def test_linear_rises_and_falls_to_zero() -> None:
    assert factors("linear", 4, 12) == [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


@pytest.mark.parametrize(("warmup", "updates"), [(0, 7), (4, 12), (100, 1357), (9, 10)])
def test_cosine_is_transformers(warmup: int, updates: int) -> None:
    from transformers.optimization import get_cosine_schedule_with_warmup

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, updates)
    used = []
    for _ in range(updates):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert factors("cosine", warmup, updates) == pytest.approx(used, rel=1e-9, abs=1e-15)


def test_cosine_is_half_of_itself_in_the_middle() -> None:
    assert half_cosine(0, 8) == 1.0
    assert half_cosine(4, 8) == 0.5
    assert half_cosine(1, 3) == 0.75
    assert half_cosine(2, 3) == 0.25
    assert half_cosine(8, 8) == pytest.approx(0.0, abs=1e-30)


def test_cosine_keeps_its_digits_at_the_end_of_a_long_run() -> None:
    """1 + cos x loses them; sin(x / 2) squared of what is left does not."""
    updates = 1_000_000
    assert half_cosine(updates - 1, updates) == pytest.approx(math.sin(math.pi / 2 / updates) ** 2, rel=1e-13)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_no_warmup_starts_at_the_full_rate(schedule: str) -> None:
    assert factors(schedule, 0, 3)[0] == 1.0


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_rate_never_rises_after_the_warmup(schedule: str) -> None:
    after = factors(schedule, 10, 500)[10:]
    assert after[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))
    assert min(after) > 0


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_warmup_longer_than_the_run_is_a_rise_to_its_end(schedule: str) -> None:
    assert factors(schedule, 10, 5) == [0, 0.1, 0.2, 0.3, 0.4]


def test_a_warm_up_that_the_run_does_not_end_is_told():
    settings = train_settings(schedule="constant", warmup_updates=10)
    assert schedule_words(settings, 11) == schedule_words(settings, 0) == "constant, warm-up 10 updates"
    assert schedule_words(settings, 10) == "constant, warm-up 10 updates, but the run has 10: the rate never reaches lr"
