"""Stable Cascade's schedule and loss weights against sd-scripts' GDF classes, and what must hold between them."""

import json
import math
from pathlib import Path

from repro.randomness import Stream

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families.cascade_schedule import (
    ADAPTIVE_BUCKETS,
    AdaptiveWeights,
    P2Weights,
    draw_timestep,
    log_snr,
    noise_conditions,
    signal_and_noise_scales,
    signal_share,
    time_of_share,
)

CPU = torch.device("cpu")
TIMES = st.floats(0.0, 1.0)


@pytest.fixture
def gdf(golden: Path) -> dict:
    return json.loads((golden / "train" / "stable_cascade_gdf.json").read_text())


def shape_of(values: int) -> torch.Tensor:
    """0, 1, 2, ... as float32 [2, 16, 4, 4], of which the golden pictures are made."""
    return torch.arange(values, dtype=torch.float32).view(2, 16, 4, 4)


@pytest.mark.golden
def test_schedule_is_the_golden_one(gdf: dict) -> None:
    """The reference computes in float32, whose log SNR is the least exact."""
    expected = gdf["schedule"]
    times = torch.tensor(expected["t"])
    signal, scale = signal_and_noise_scales(times)
    assert [log_snr(signal_share(time)) for time in times.tolist()] == pytest.approx(expected["logSNR"], abs=2e-5)
    assert signal.tolist() == pytest.approx(expected["a"], abs=1e-6)
    assert scale.tolist() == pytest.approx(expected["b"], abs=1e-6)
    assert noise_conditions(times).tolist() == pytest.approx(expected["noise_cond_t"], abs=1e-6)
    assert [log_snr(signal_share(time)) for time in (1.0, 0.0)] == pytest.approx(expected["limits"], abs=1e-5)


@pytest.mark.golden
def test_weights_are_the_golden_ones(gdf: dict) -> None:
    expected = gdf["schedule"]
    times, adaptive = torch.tensor(expected["t"]), AdaptiveWeights(CPU)
    assert P2Weights(CPU).of(times).tolist() == pytest.approx(expected["p2_weight"], abs=1e-6)
    assert adaptive.of(times).tolist() == expected["adaptive_initial"]
    adaptive.follow(times, torch.linspace(0.1, 2.0, len(times)))
    assert adaptive.of(times).tolist() == expected["adaptive_after_1_update_loss_linspace_0.1_2.0"]


@pytest.mark.golden
def test_a_noised_picture_and_its_loss_are_the_golden_ones(gdf: dict) -> None:
    expected = gdf["diffuse"]
    times, numbers = torch.tensor(expected["t"]), shape_of(512)
    signal, scale = (table.view(-1, 1, 1, 1) for table in signal_and_noise_scales(times))
    noise = torch.cos(0.17 * numbers)
    noised = signal * torch.sin(0.3 * numbers) + scale * noise
    losses = (torch.sin(0.05 * numbers) - noise).square().mean(dim=(1, 2, 3))
    assert noised.flatten()[:8].tolist() == pytest.approx(expected["noised_first8"], abs=1e-6)
    assert float(noised.sum()) == pytest.approx(expected["noised_sum"], abs=1e-3)
    assert noise_conditions(times).tolist() == pytest.approx(expected["noise_cond"], abs=1e-6)
    assert losses.tolist() == pytest.approx(expected["per_sample_mse"], abs=1e-5)
    assert float((losses * P2Weights(CPU).of(times)).mean()) == pytest.approx(expected["loss_p2"], abs=1e-5)


@given(TIMES, TIMES)
def test_the_signal_fades_and_the_noise_condition_is_the_time(one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert signal_share(early) >= signal_share(late)
    if 0.003 < one < 0.993:
        assert time_of_share(signal_share(one)) == pytest.approx(one, abs=1e-9)
    signal, scale = signal_and_noise_scales(torch.tensor([one]))
    assert float(signal**2 + scale**2) == pytest.approx(1.0, abs=1e-6)


def test_times_are_drawn_evenly_and_by_key() -> None:
    drawn = [draw_timestep(Stream(1, "timestep", number)) for number in range(4000)]
    assert drawn == [draw_timestep(Stream(1, "timestep", number)) for number in range(4000)]
    assert all(0.001 <= time <= 1.0 for time in drawn)
    assert sum(drawn) / len(drawn) == pytest.approx(0.501, abs=0.02)
    assert sum(time < 0.25 for time in drawn) / len(drawn) == pytest.approx(0.25, abs=0.03)
    assert any(time == 1.0 for time in drawn)


@given(st.lists(st.tuples(TIMES, st.floats(0.0, 50.0)), min_size=1, max_size=8))
def test_of_equal_buckets_the_last_loss_counts_and_others_stay(pictures: list[tuple[float, float]]) -> None:
    weights = AdaptiveWeights(CPU)
    times, losses = (torch.tensor(values) for values in zip(*pictures, strict=True))
    weights.follow(times, losses)
    last = {}
    for time, loss in zip(times.tolist(), losses.tolist(), strict=True):
        edges = torch.linspace(-10, 10, ADAPTIVE_BUCKETS - 1)
        last[int(torch.searchsorted(edges, torch.tensor(log_snr(signal_share(time)))))] = 0.99 + 0.01 * loss
    changed = {bucket: value for bucket, value in enumerate(weights.state.tolist()) if bucket in last}
    assert changed == pytest.approx(last, rel=1e-6)
    assert all(value == 1.0 for bucket, value in enumerate(weights.state.tolist()) if bucket not in last)


def test_adaptive_weights_are_the_inverse_within_limits() -> None:
    weights, times = AdaptiveWeights(CPU), torch.tensor([0.2, 0.5, 0.8])
    weights.follow(times, torch.tensor([0.0, 1e12, 101.0]))
    assert weights.of(times).tolist() == pytest.approx([1 / 0.99, 1e-7, 0.5], rel=1e-6)
    assert weights.state.dtype == torch.float32 and math.isclose(float(weights.state.max()), 1e10, rel_tol=1e-6)
    weights.state.zero_()
    assert weights.of(times).tolist() == [1e7, 1e7, 1e7]
