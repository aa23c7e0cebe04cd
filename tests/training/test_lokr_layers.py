"""LoKr layers: both forms against the explicit weight and against lycoris-lora's own module."""

from repro.numerics import fix_torch

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from training.lokr_layers import LokrConv2d, LokrLayer, LokrLinear, factorization, is_folded, lokr_shapes, starting_w1

fix_torch()
# Layers this small are folded in float32; a lower precision always takes the Kronecker form, also on float32 inputs.
FORMS = {"folded": "fp32", "kronecker": "bf16"}
BASES = {
    "linear": lambda: torch.nn.Linear(12, 20),
    "linear without bias": lambda: torch.nn.Linear(20, 12, bias=False),
    "1x1": lambda: torch.nn.Conv2d(12, 8, 1),
    "3x3": lambda: torch.nn.Conv2d(8, 12, 3, padding=1),
    "stride 2": lambda: torch.nn.Conv2d(8, 8, 3, stride=2, padding=1),
    "no padding": lambda: torch.nn.Conv2d(8, 8, 3, stride=2, bias=False),
}


@torch.no_grad()
def randomise(seed: int, *parameters: torch.nn.Parameter | None) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        if parameter is not None:
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) / 3)


def lokr_layer(base: torch.nn.Linear | torch.nn.Conv2d, form: str, factor: int = 4) -> LokrLayer:
    """A layer with random numbers, folded where it is to be."""
    kind = LokrLinear if isinstance(base, torch.nn.Linear) else LokrConv2d
    randomise(1, base.weight, base.bias)
    layer = kind(base.requires_grad_(False), factor, FORMS[form], w1_seed=3)
    assert (layer.folded is not None) == (form == "folded")
    randomise(2, layer.w1, layer.w2)
    if layer.folded is not None:
        layer.fold()
    return layer


def inputs(layer: LokrLayer) -> torch.Tensor:
    """Two pictures or two rows of tokens; the same for every layer of a shape."""
    columns = layer.weight.shape[1]
    shape = (2, columns, 6, 7) if layer.weight.ndim == 4 else (2, 5, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(layer.weight.dtype)


def explicit_output(layer: LokrLayer, x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    change = torch.kron(w1.view(*w1.shape, *[1] * (w2.ndim - 2)), w2)
    if isinstance(layer, LokrConv2d):
        return F.conv2d(x, layer.weight + change, layer.bias, layer.stride, layer.padding)
    return F.linear(x, layer.weight + change, layer.bias)


def gradients(layer: LokrLayer, x: torch.Tensor, times: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the output's weighted sum: the input's, w1's and w2's, these two as the trainer collects them."""
    layer.w1.grad, layer.w2.grad = torch.zeros_like(layer.w1), torch.zeros_like(layer.w2)
    x = x.clone().requires_grad_()
    for _ in range(times):
        output_weighted(layer(x)).backward()
    if layer.folded is not None:
        layer.unfold_gradient()
    return x.grad, layer.w1.grad, layer.w2.grad


def output_weighted(output: torch.Tensor) -> torch.Tensor:
    return (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum()


def test_factorization_is_lycoris_own() -> None:
    from lycoris.functional import factorization as of_lycoris

    dimensions = [*range(1, 300), 320, 640, 768, 960, 1280, 1920, 2048, 2560, 2816, 3072, 5120, 10240]
    for factor in (*range(1, 20), 32, 100, 1000):
        assert [factorization(n, factor) for n in dimensions] == [of_lycoris(n, factor) for n in dimensions]


def test_shapes_of_a_convolution() -> None:
    assert lokr_shapes((640, 320, 3, 3), 8) == ((8, 8), (80, 40, 3, 3))
    assert lokr_shapes((72, 2816), 16) == ((9 - 1, 16), (9, 176))


def test_only_float32_is_folded_and_there_what_the_kronecker_form_makes_dearer() -> None:
    def folded(rows: int, columns: int, factor: int, precision: str) -> bool:
        return is_folded(*lokr_shapes((rows, columns), factor), precision)

    assert not any(folded(n, n, factor, p) for n in (64, 1280) for factor in (1, 2, 8) for p in ("bf16", "fp16"))
    assert folded(1280, 1280, 2, "fp32") and not folded(1280, 1280, 8, "fp32")
    assert folded(64, 64, 8, "fp32")
    assert is_folded((4, 4), (160, 160, 3, 3), "fp32") != is_folded((8, 8), (80, 80, 3, 3), "fp32")


def test_w1_starts_as_lycoris_draws_it_and_w2_at_zero() -> None:
    bound = 1 / 6**0.5  # sqrt(6 / ((1 + 5) * 6))
    w1 = starting_w1((500, 6), seed=1)
    assert w1.dtype == torch.float32 and bound * 0.99 < w1.abs().max() < bound
    assert torch.equal(w1, starting_w1((500, 6), seed=1)) and not torch.equal(w1, starting_w1((500, 6), seed=2))
    layer = LokrLinear(torch.nn.Linear(12, 20), 4, "bf16", w1_seed=1)
    assert torch.equal(layer.w1.detach(), starting_w1((4, 3), 1)) and layer.w2.shape == (5, 4) and not layer.w2.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
def test_both_forms_are_the_explicit_weight_in_float64(base: str, form: str) -> None:
    layer = lokr_layer(BASES[base]().double(), form).double()
    if layer.folded is not None:
        layer.fold()
    x = inputs(layer)
    w1, w2 = (part.detach().clone().requires_grad_() for part in (layer.w1, layer.w2))
    explicit_x = x.clone().requires_grad_()
    expected = explicit_output(layer, explicit_x, w1, w2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    output_weighted(expected).backward()
    for found, other in zip(gradients(layer, x), (explicit_x, w1, w2), strict=True):
        torch.testing.assert_close(found, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
def test_both_forms_are_lycoris_module(base: str, form: str) -> None:
    """Its forward on the rebuilt weight and its bypass, values and gradients, in float32."""
    from lycoris.modules.lokr import LokrModule

    layer = lokr_layer(BASES[base](), form)
    x = inputs(layer)
    ours = layer(x), *gradients(layer, x)
    for bypass in (False, True):
        its_base = BASES[base]()
        randomise(1, its_base.weight, its_base.bias)
        module = LokrModule("m", its_base, factor=4, full_matrix=True, bypass_mode=bypass)
        module.lokr_w1.data.copy_(layer.w1.detach())
        module.lokr_w2.data.copy_(layer.w2.detach())
        module.apply_to()
        its_x = x.clone().requires_grad_()
        output = module(its_x)
        output_weighted(output).backward()
        for found, expected in zip(ours, (output, its_x.grad, module.lokr_w1.grad, module.lokr_w2.grad), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
def test_the_inputs_layout_in_memory_does_not_matter(base: str, form: str) -> None:
    """Slices of wider tensors, and pictures with their channels last."""
    layer = lokr_layer(BASES[base](), form)
    x = inputs(layer)
    wide = torch.cat([x, x], dim=-1)[..., : x.shape[-1]]
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    expected = layer(x), *gradients(layer, x)
    for other in (wide, last):
        for found, one in zip((layer(other), *gradients(layer, other)), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_micro_batches_add_up(form: str) -> None:
    layer = lokr_layer(BASES["3x3"](), form)
    x = inputs(layer)
    once, thrice = gradients(layer, x), gradients(layer, x, times=3)
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(three, 3 * one, rtol=1e-5, atol=1e-4)


def test_a_folded_layer_keeps_its_gradients_when_nothing_was_gathered() -> None:
    """A text encoder's last layer is in no output: its folded weight gets no gradient at all."""
    layer = lokr_layer(BASES["linear"](), "folded")
    first = [gradient.clone() for gradient in gradients(layer, inputs(layer))[1:]]
    layer.unfold_gradient()
    assert torch.equal(layer.w1.grad, first[0]) and torch.equal(layer.w2.grad, first[1])
    assert layer.folded.grad is None
    output_weighted(layer(inputs(layer))).backward()
    layer.unfold_gradient()
    for parameter, gradient in zip((layer.w1, layer.w2), first, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-6, atol=1e-6)


def test_folding_follows_the_trained_numbers_and_starts_at_the_base() -> None:
    base = torch.nn.Linear(12, 20).requires_grad_(False)
    randomise(1, base.weight)
    layer = LokrLinear(base, 4, "fp32", w1_seed=1)
    layer.fold()
    assert torch.equal(layer.folded, base.weight)
    layer.w2.data.fill_(0.5)
    layer.fold()
    assert torch.equal(layer.folded, base.weight + torch.kron(layer.w1, layer.w2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("base", ["linear", "3x3"])
def test_autocast_computes_in_its_type_and_collects_float32(base: str, dtype: torch.dtype) -> None:
    layer = lokr_layer(BASES[base](), "kronecker")
    x = inputs(layer)
    expected = layer(x), *gradients(layer, x)
    layer.weight.data = layer.weight.data.to(dtype)
    layer.bias.data = layer.bias.data.to(dtype)
    with torch.autocast("cpu", dtype):
        output = layer(x)
        found = output.float(), *gradients(layer, x)
    assert output.dtype == dtype
    for part, whole in zip(found, expected, strict=True):
        assert part.dtype == torch.float32
        assert (part - whole).norm() < 8 * torch.finfo(dtype).eps * whole.norm()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", ["linear", "stride 2"])
def test_checkpointing_gives_the_same_bits(base: str, form: str) -> None:
    layer = lokr_layer(BASES[base](), form)
    x = inputs(layer)
    plain = gradients(layer, x)
    plain = [gradient.clone() for gradient in plain]
    layer.w1.grad.zero_(), layer.w2.grad.zero_()
    x = x.clone().requires_grad_()
    output_weighted(checkpoint(layer, x, use_reentrant=False)).backward()
    if layer.folded is not None:
        layer.unfold_gradient()
    assert all(map(torch.equal, plain, (x.grad, layer.w1.grad, layer.w2.grad)))


@pytest.mark.parametrize("form", FORMS)
def test_the_frozen_layer_gets_no_gradient(form: str) -> None:
    layer = lokr_layer(BASES["3x3"](), form)
    gradients(layer, inputs(layer))
    assert layer.weight.grad is None and layer.bias.grad is None
