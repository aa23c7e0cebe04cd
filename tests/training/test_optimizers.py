"""Lion8bit against bitsandbytes' numbers (minus its zero bias), AdamW against its formula."""

import hashlib
import json
from pathlib import Path

from repro.params import Train, load_params

import numpy as np
import pytest
import torch
from tiny_training import write_params

from training.flat import BLOCK, FlatWeights
from training.optimizers import AdamW, BlockQuantizer, Lion8bit, signed_code_map

RATE = 2e-5


@pytest.fixture
def settings(tmp_path: Path) -> Train:
    return load_params(write_params(tmp_path / "p.yaml", betas=[0.9, 0.95], weight_decay=0.1)).train


def golden_start(n: int) -> torch.Tensor:
    return (0.02 * torch.sin(0.37 * torch.arange(n, dtype=torch.float64) + 0.1)).float()


def golden_gradient(n: int, step: int) -> torch.Tensor:
    i = torch.arange(n, dtype=torch.float64)
    return (1e-3 * torch.cos(0.11 * i + step) * (1 + i % 7)).float()


def ours(n: int, steps: int, settings: Train, gradient=golden_gradient) -> Lion8bit:
    flat = FlatWeights({"unet": [("p", torch.nn.Parameter(golden_start(n)))]})
    optimizer = Lion8bit(flat, settings)
    for step in range(steps):
        padded = torch.zeros_like(flat.weights)
        padded[:n] = gradient(n, step)
        optimizer.step(padded, {"unet": RATE})
    return optimizer


def bitsandbytes(n: int, steps: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    from bitsandbytes.optim import Lion8bit as Theirs

    parameter = torch.nn.Parameter(golden_start(n))
    optimizer = Theirs([parameter], lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        parameter.grad = golden_gradient(n, step)
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()


@pytest.fixture
def cases(golden: Path) -> dict[int, dict]:
    document = json.loads((golden / "train" / "lion8bit_cpu.json").read_text())
    return {case["n"]: case for case in document["cases"]}


@pytest.mark.golden
def test_the_code_map_is_bitsandbytes(golden: Path) -> None:
    expected = json.loads((golden / "train" / "lion8bit_cpu.json").read_text())["qmap_signed_dynamic"]
    assert signed_code_map().tolist() == expected
    assert expected[127] == 0.0


@pytest.mark.golden
def test_a_small_weight_is_bitsandbytes_float32_lion(cases: dict[int, dict], settings: Train) -> None:
    case = cases[1000]
    optimizer = ours(1000, case["steps"], settings)
    assert sha256(optimizer.flat.weights) == case["p_sha256"]
    momentum = optimizer.state["momentum.0"][:16]
    assert torch.allclose(momentum, torch.tensor(case["state1_first16"]), rtol=1e-6, atol=1e-10)


@pytest.mark.golden
def test_a_large_weight_follows_bitsandbytes_up_to_its_rounding(cases: dict[int, dict], settings: Train) -> None:
    """Their CPU kernel's codes come from 65,536 bins and a biased zero, ours are the nearest."""
    case = cases[4096]
    weights, state = bitsandbytes(4096, case["steps"])
    assert sha256(weights) == case["p_sha256"], "the installed bitsandbytes is not the reference's"
    assert sha256(state["state1"]) == case["state1_sha256"]
    optimizer = ours(4096, case["steps"], settings)
    assert int((optimizer.state["codes.0"] != state["state1"]).sum()) < 0.05 * 4096
    momentum = optimizer.quantizer.dequantise(optimizer.state["codes.0"], optimizer.state["maxima.0"])
    theirs = optimizer.quantizer.dequantise(state["state1"], state["absmax1"])
    assert bool(((momentum - theirs).abs().view(-1, BLOCK) < 0.04 * state["absmax1"].unsqueeze(1)).all())
    differing = optimizer.flat.weights != weights
    assert int(differing.sum()) < 0.003 * 4096, "a sign differs only where momentum and gradient cancel"
    assert torch.allclose(optimizer.flat.weights, weights, rtol=0, atol=2 * RATE * case["steps"])


def test_weights_without_gradient_only_decay(settings: Train) -> None:
    """bitsandbytes' CPU kernel fails this: its zero becomes 2e-5 of the block's maximum."""

    def half(n: int, step: int) -> torch.Tensor:
        gradient = golden_gradient(n, step)
        gradient[::2] = 0
        return gradient

    for n in (1000, 4096):
        weights = ours(n, 5, settings, half).flat.weights
        expected = golden_start(n)
        for _ in range(5):
            expected = expected * (1 - RATE * 0.1)
        assert torch.equal(weights[::2], expected[::2])
        assert not torch.equal(weights[1::2], expected[1::2])


def test_codes_are_the_nearest_and_never_change_the_sign() -> None:
    quantizer = BlockQuantizer()
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(40 * BLOCK, generator=draw) * torch.rand(40 * BLOCK, generator=draw) ** 8
    codes, maxima = quantizer.quantise(values)
    ratios = (values.view(-1, BLOCK) / values.view(-1, BLOCK).abs().amax(1, keepdim=True)).flatten()
    distance = (ratios.unsqueeze(1).double() - quantizer.code.double()).abs()
    chosen = distance[torch.arange(len(values)), codes.long()]
    best = distance.min(dim=1).values
    moved = chosen > best + 1e-12
    restored = quantizer.dequantise(codes, maxima)
    assert bool((restored * values >= 0).all())
    assert bool((ratios[moved].abs() < 1e-6).all()), "only a value next to zero leaves its nearest code, to keep its sign"
    assert torch.equal(maxima, values.view(-1, BLOCK).abs().amax(1))


def test_a_block_of_zeros_stays_zero() -> None:
    quantizer = BlockQuantizer()
    codes, maxima = quantizer.quantise(torch.zeros(BLOCK))
    assert torch.equal(quantizer.dequantise(codes, maxima), torch.zeros(BLOCK))


def test_padding_never_moves(settings: Train) -> None:
    optimizer = ours(4100, 5, settings)
    assert torch.equal(optimizer.flat.weights[4100:], torch.zeros(len(optimizer.flat.weights) - 4100))


def test_groups_have_their_own_rates(settings: Train) -> None:
    def weight() -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.zeros(8))

    for make in (Lion8bit, AdamW):
        flat = FlatWeights({"text": [("t", weight())], "unet": [("u", weight())]})
        make(flat, settings).step(torch.ones(16), {"text": 1e-3, "unet": 1e-2})
        moved = {name: view.detach().abs().mean().item() for name, view in flat.views(flat.weights).items()}
        assert moved == pytest.approx({"t": 1e-3, "u": 1e-2}, rel=1e-5)


def test_adamw_is_its_formula(settings: Train) -> None:
    """Decoupled decay and bias correction, up to float32's rounding."""
    n, beta1, beta2 = 1000, 0.9, 0.95
    flat = FlatWeights({"unet": [("p", torch.nn.Parameter(golden_start(n)))]})
    optimizer = AdamW(flat, settings)
    p, m, v = golden_start(n).double().numpy(), np.zeros(n), np.zeros(n)
    for step in range(1, 6):
        g = golden_gradient(n, step).double().numpy()
        optimizer.step(torch.from_numpy(g).float(), {"unet": RATE})
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p = p * (1 - RATE * 0.1) - RATE * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + 1e-8)
    assert np.abs(flat.weights.numpy() - p).max() < 2e-8
    assert np.allclose(optimizer.state["exp_avg.0"].numpy(), m, rtol=1e-4, atol=1e-9)
    assert optimizer.state["step.0"].item() == 5


@pytest.mark.parametrize("make", [Lion8bit, AdamW])
def test_the_state_is_all_that_continuation_needs(make: type, settings: Train) -> None:
    def run(first: int, last: int, weights: torch.Tensor, state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        flat = FlatWeights({"unet": [("p", torch.nn.Parameter(weights.clone()))]})
        optimizer = make(flat, settings)
        for name, tensor in state.items():
            optimizer.state[name].copy_(tensor)
        for step in range(first, last):
            optimizer.step(golden_gradient(4096, step), {"unet": RATE})
        return flat.weights.clone(), {name: tensor.clone() for name, tensor in optimizer.state.items()}

    whole, whole_state = run(0, 6, golden_start(4096), {})
    cut, cut_state = run(3, 6, *run(0, 3, golden_start(4096), {}))
    assert torch.equal(whole, cut)
    assert all(torch.equal(whole_state[name], cut_state[name]) for name in whole_state)
