"""AdamW against torch's own and its formula, AdamW8bit against bitsandbytes'; exact square roots."""

import math
from fractions import Fraction

import repro  # noqa: F401 - fixes the numeric environment

import numpy as np
import pytest
import torch
from small_updates import (
    BETAS,
    DECAY,
    RATE,
    flat_gradient,
    flat_weights,
    golden_gradient,
    golden_start,
    optimizer_of,
    train_settings,
    updated,
)

from training.adamw import AdamW, AdamW8bit, whole_power
from training.block_quantizer import BlockQuantizer
from training.flat import BLOCK, FlatWeights
from training.optimizers import make_optimizer
from training.square_root import square_root

BETA1, BETA2 = BETAS


def adamw_formula(n: int, updates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights and both moments by the paper's formula in float64."""
    p, m, v = golden_start(n).double().numpy(), np.zeros(n), np.zeros(n)
    for t in range(1, updates + 1):
        g = golden_gradient(n, t - 1).double().numpy()
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        p = p * (1 - RATE * DECAY) - RATE * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + 1e-8)
    return p, m, v


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_float32_moments_follow_the_formula(name: str) -> None:
    """Decoupled decay and bias correction, up to float32's rounding."""
    weights, optimizer = updated(1000, 5, name)
    p, m, v = adamw_formula(1000, 5)
    assert np.abs(weights.numpy() - p).max() < 2e-8
    assert np.allclose(optimizer.state["exp_avg.0"][:1000].numpy(), m, rtol=1e-4, atol=1e-9)
    assert np.allclose(optimizer.state["exp_avg_sq.0"][:1000].numpy(), v, rtol=1e-5, atol=0)


def test_adamw_has_the_bits_of_torchs_fused_one_over_each_stretch() -> None:
    """The stretches end where weights do: the kernel rounds the last few of each call otherwise than the rest."""
    shapes, updates = [(64, 70), (5001,), (3, 5), (7,), (17,)], 30
    flat = flat_weights(shapes, ("text", "unet"))
    optimizer = optimizer_of(flat, "adamw")
    parts = []
    for segment in flat.segments:
        small = sum(math.prod(shape) for shape in shapes if math.prod(shape) < 4096)
        end = segment.stop if segment.quantised else segment.start + small
        parts.append((segment, end, torch.nn.Parameter(flat.weights[segment.start : end].clone())))
    rates = {"text": 1e-3, "unet": 3e-3}
    groups = [{"params": [part], "lr": rates[segment.group]} for segment, _, part in parts]
    theirs = torch.optim.AdamW(groups, betas=BETAS, weight_decay=DECAY, fused=True)
    for update in range(updates):
        gradient = flat_gradient(flat, update) * 10.0 ** -(update % 5)
        optimizer.step(gradient, rates, update)
        for segment, end, part in parts:
            part.grad = gradient[segment.start : end].clone()
        theirs.step()
    for segment, end, part in parts:
        assert torch.equal(flat.weights[segment.start : end], part.detach())


def bitsandbytes(parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit([parameter], lr=RATE, betas=BETAS, eps=1e-8, weight_decay=DECAY)


def test_8_bits_are_bitsandbytes_from_each_of_its_states() -> None:
    """From the same weights, codes and magnitudes one update differs by float32's rounding only.

    Over many updates they part: their CPU kernel takes codes from 65,536 bins, so small moments get other codes.
    """
    n, updates = 40 * BLOCK, 8
    flat, parameter = flat_weights([(n,)]), torch.nn.Parameter(golden_start(n))
    optimizer, theirs = optimizer_of(flat, "adamw8bit"), bitsandbytes(parameter)
    for update in range(updates):
        flat.weights[:n] = parameter.detach()
        if update:
            kept = theirs.state[parameter]
            for name, codes, magnitudes in (("exp_avg", "state1", "absmax1"), ("exp_avg_sq", "state2", "absmax2")):
                optimizer.state[f"{name}.0.codes"].copy_(kept[codes])
                optimizer.state[f"{name}.0.magnitudes"].copy_(kept[magnitudes])
        optimizer.step(flat_gradient(flat, update), {"unet": RATE}, update)
        parameter.grad = golden_gradient(n, update)
        theirs.step()
        assert float((flat.weights[:n] - parameter.detach()).abs().max()) <= 4 * 2.0**-29, "four ulps of weights below 1/32"
        kept = theirs.state[parameter]
        for signed, name, codes, magnitudes in (
            (True, "exp_avg", "state1", "absmax1"),
            (False, "exp_avg_sq", "state2", "absmax2"),
        ):
            ours = optimizer.state[f"{name}.0.codes"], optimizer.state[f"{name}.0.magnitudes"]
            assert torch.allclose(ours[1], kept[magnitudes], rtol=1e-6, atol=0)
            restored = [BlockQuantizer(signed).dequantise(*pair).view(-1, BLOCK) for pair in (ours, (kept[codes], ours[1]))]
            # One code apart at most where a number stands at a border; near zero, within a bin of theirs.
            assert bool(((restored[0] - restored[1]).abs() <= 0.0142 * ours[1].unsqueeze(1)).all())
            assert float((ours[0] != kept[codes]).float().mean()) < 0.05


def test_8_bits_stay_close_to_bitsandbytes() -> None:
    n, updates = 4096, 20
    parameter = torch.nn.Parameter(golden_start(n))
    theirs = bitsandbytes(parameter)
    for update in range(updates):
        parameter.grad = golden_gradient(n, update)
        theirs.step()
    weights, _ = updated(n, updates, "adamw8bit")
    moved = (parameter.detach() - golden_start(n)).abs().mean()
    assert float((weights - parameter.detach()).abs().mean()) < 0.005 * float(moved)


def test_decay_follows_the_step_as_on_cuda() -> None:
    """The CPU kernel of bitsandbytes decays first: 1 * (1 - 1/4) - 1/2 instead of (1 - 1/2) * (1 - 1/4)."""
    for n in (1000, 4096):
        flat = FlatWeights({"unet": [("p", torch.nn.Parameter(torch.ones(n)))]})
        gradient = torch.zeros_like(flat.weights)
        gradient[:n] = 1.0
        optimizer_of(flat, "adamw8bit", weight_decay=0.5).step(gradient, {"unet": 0.5}, 0)
        assert flat.weights[:n].tolist() == pytest.approx([0.375] * n, rel=1e-6)


def test_weights_without_gradient_stay() -> None:
    def half(n: int, update: int) -> torch.Tensor:
        gradient = golden_gradient(n, update)
        gradient[::2] = 0
        return gradient

    flat = flat_weights([(4096,)])
    optimizer = optimizer_of(flat, "adamw8bit", weight_decay=0.0)
    for update in range(5):
        optimizer.step(flat_gradient(flat, update, half), {"unet": RATE}, update)
    assert torch.equal(flat.weights[:4096:2], golden_start(4096)[::2])
    assert not torch.equal(flat.weights[1:4096:2], golden_start(4096)[1::2])


@pytest.mark.parametrize("make", [AdamW, AdamW8bit])
def test_bias_is_corrected_by_the_update_asked_for(make: type) -> None:
    """A first update at count 99 is nearly uncorrected: counters are the loop's, not in the state."""
    moved = []
    for update in (0, 99):
        flat = flat_weights([(8,)])
        optimizer = make_optimizer(flat, range(len(flat.weights)), train_settings(make.__name__.lower(), weight_decay=0.0))
        assert isinstance(optimizer, make)
        start = flat.weights[:8].clone()
        optimizer.step(flat_gradient(flat, 3), {"unet": RATE}, update)
        moved.append(float((flat.weights[:8] - start).abs().mean()))
    uncorrected = (1 - BETA1) / math.sqrt(1 - BETA2)
    assert moved == pytest.approx([RATE, RATE * uncorrected], rel=1e-2)


def test_whole_powers_are_powers() -> None:
    for base in (0.9, 0.95, 0.999):
        for exponent in (0, 1, 2, 3, 10, 1000, 12345):
            exact = float(Fraction(base) ** exponent)
            assert whole_power(base, exponent) == pytest.approx(exact, rel=1e-12)
    assert whole_power(0.0, 0) == 1.0
    assert whole_power(0.0, 5) == 0.0


def test_square_roots_are_correctly_rounded() -> None:
    draw = torch.Generator().manual_seed(3)
    values = torch.randint(0, 0x7F800000, (200_000,), generator=draw, dtype=torch.int32).view(torch.float32)
    values = torch.cat([values, torch.tensor([0.0, 2.0**-149, 1.0, 4.0])])
    before = values.clone()
    assert torch.equal(square_root(values), values.double().sqrt().float())
    assert torch.equal(values, before)
