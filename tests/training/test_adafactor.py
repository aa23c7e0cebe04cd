"""Adafactor against transformers' own, with the settings of sd-scripts' recipes."""

from decimal import Decimal

import repro  # noqa: F401 - fixes the numeric environment

import pytest
import torch
from small_updates import DECAY, RATE, flat_gradient, flat_weights, golden_start, optimizer_of

from training.adafactor import mean_square_decay

SHAPES = [(64, 70), (300,), (12, 8, 3, 3), (16, 5), (5000,), (2, 3, 4), (1, 1), (1,)]


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("size", [1.0, 1e-6, 0.0])
def test_updates_are_transformers(decay: float, size: float) -> None:
    """Matrices, convolutions and vectors, clipped and unclipped updates, gradients of one size or of zero."""
    from transformers.optimization import Adafactor

    flat = flat_weights(SHAPES)
    optimizer = optimizer_of(flat, "adafactor", weight_decay=decay)
    views = flat.views(flat.weights)
    parameters = {name: torch.nn.Parameter(view.clone()) for name, view in views.items()}
    theirs = Adafactor(
        list(parameters.values()), lr=0.01, eps=(1e-30, 1e-3), clip_threshold=1.0, decay_rate=-0.8, beta1=None,
        weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False,
    )  # fmt: skip
    for update in range(6):
        gradient = flat_gradient(flat, update) * (10.0 if update == 3 else 1.0) * size
        for name, view in flat.views(gradient).items():
            parameters[name].grad = view.clone()
        optimizer.step(gradient, {"unet": 0.01}, update)
        theirs.step()
    for name, parameter in parameters.items():
        assert torch.allclose(views[name], parameter.detach(), rtol=1e-5, atol=1e-7), name
    kept = {name: torch.cat([theirs.state[p][key].flatten() for p in parameters.values() if key in theirs.state[p]])
            for name, key in (("row", "exp_avg_sq_row"), ("column", "exp_avg_sq_col"), ("number", "exp_avg_sq"))}  # fmt: skip
    for name, expected in kept.items():
        assert torch.allclose(optimizer.state[name], expected, rtol=1e-5, atol=0), name


def test_a_weight_whose_gradient_was_zero_for_long_moves_by_the_rate_at_most() -> None:
    """The root of its mean square is clipped to 1, however small the mean squares were."""
    flat = flat_weights([(64, 70)])
    optimizer = optimizer_of(flat, "adafactor", weight_decay=0.0)
    for update in range(3):
        optimizer.step(torch.zeros_like(flat.weights), {"unet": RATE}, update)
    gradient = torch.zeros_like(flat.weights)
    gradient[7] = 1.0
    optimizer.step(gradient, {"unet": RATE}, 3)
    moved = flat.weights[: 64 * 70] - golden_start(64 * 70)
    assert bool(torch.isfinite(moved).all())
    assert moved[7] < 0
    assert float(moved.double().square().mean().sqrt()) <= RATE * 1.001


def test_the_state_is_a_row_and_a_column_of_each_matrix() -> None:
    state = optimizer_of(flat_weights(SHAPES), "adafactor").state
    assert len(state["row"]) == 64 + 12 * 8 * 3 + 16 + 2 * 3 + 1
    assert len(state["column"]) == 70 + 12 * 8 * 3 + 5 + 2 * 4 + 1
    assert len(state["number"]) == 300 + 5000 + 1


def test_a_buffer_without_vectors_has_a_state_too() -> None:
    flat = flat_weights([(4, 4)])
    optimizer = optimizer_of(flat, "adafactor")
    optimizer.step(flat_gradient(flat, 0), {"unet": RATE}, 0)
    assert optimizer.places == {"row": (0, 4), "column": (0, 4), "number": (0, 0)}
    assert {name: len(tensor) for name, tensor in optimizer.state.items()} == {"row": 4, "column": 4, "number": 0}


def test_mean_squares_decay_as_in_the_paper() -> None:
    assert mean_square_decay(0) == 0.0
    assert [mean_square_decay(k) for k in range(1, 50)] == pytest.approx([1 - (k + 1) ** -0.8 for k in range(1, 50)], rel=1e-14)
    assert mean_square_decay(31) == float(1 - Decimal(1) / 16), "32 ** -0.8 is 1/16"
