"""The small Stable Cascade's parts: size, stage A's exact code, and the untrained models that predict their input."""

from collections.abc import Callable, Iterator

from repro.numerics import fix_torch

import pytest
import torch
from diffusers import StableCascadeUNet

from sample.architecture import POOLED_WIDTH
from sample.cascade_architecture import (
    CODE,
    EFFNET,
    IMAGE_EMBEDDING,
    STAGE_A,
    make_effnet,
    make_stage_a,
    make_stage_b,
    make_stage_c,
)


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    fix_torch()


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled(request.node.originalname == "test_everything_can_learn"):
        yield


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_committed_size() -> None:
    models = (make_effnet(7), make_stage_a(), make_stage_b(7), make_stage_c(7))
    assert sum(parameter.numel() for model in models for parameter in model.parameters()) < 4_500_000


def test_stage_a_is_exact_for_what_its_code_holds() -> None:
    stage_a = make_stage_a()
    latents = noise(2, len(CODE), 24, 40)
    pixels = stage_a.decode(latents, return_dict=False)[0]
    assert pixels.shape == (2, 3, 48, 80)
    assert torch.allclose(stage_a.encode(pixels, return_dict=False)[0], latents, atol=1e-5)


def test_stage_a_keeps_grey_pictures_and_plain_colours() -> None:
    stage_a = make_stage_a()
    grey = torch.rand((1, 1, 16, 16), generator=torch.Generator().manual_seed(3)).expand(1, 3, 16, 16)
    plain = torch.tensor([0.9, 0.2, 0.6]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    for picture in (grey, plain):
        restored = stage_a.decode(stage_a.encode(picture, return_dict=False)[0], return_dict=False)[0]
        assert torch.allclose(restored, picture, atol=1e-5)


def test_stage_a_adds_no_length() -> None:
    """An orthonormal code: an error in latents is as large in the pixels."""
    stage_a = make_stage_a()
    one, other = noise(1, len(CODE), 8, 8), noise(1, len(CODE), 8, 8, seed=2)
    pixels = [stage_a.decode(latents, return_dict=False)[0] for latents in (one, other)]
    assert float((pixels[0] - pixels[1]).norm()) == pytest.approx(float((one - other).norm()), rel=1e-4)


def predicted(model: StableCascadeUNet, x: torch.Tensor, hint: torch.Tensor | None) -> torch.Tensor:
    n = len(x)
    text = {"clip_text": noise(n, 77, POOLED_WIDTH), "clip_img": torch.zeros(n, 1, IMAGE_EMBEDDING)} if hint is None else {}
    return model(x, torch.linspace(0, 1, n), noise(n, 1, POOLED_WIDTH), effnet=hint, return_dict=False, **text)[0]


@pytest.mark.parametrize("stage", ["b", "c"])
def test_untrained_models_predict_their_input(stage: str) -> None:
    if stage == "b":
        model, x, hint = make_stage_b(7), noise(4, STAGE_A["latent_channels"], 32, 32), noise(4, EFFNET.latent_channels, 8, 8)
    else:
        model, x, hint = make_stage_c(7), noise(4, EFFNET.latent_channels, 8, 8), None
    assert float((predicted(model, x, hint) - x).square().mean()) < 1e-3
    # Also what is larger than noise of deviation 1, about, in spite of the norms on the way.
    assert float((predicted(model, 1.5 * x, hint) - 1.5 * x).square().mean()) < 0.03


@pytest.mark.parametrize("make", [make_stage_b, make_stage_c])
def test_everything_can_learn(make: Callable[[int], torch.nn.Module]) -> None:
    """No gradient is infinite, and all of the layers that start at nothing get one."""
    model, is_b = make(7), make is make_stage_b
    x = noise(2, model.config.in_channels, 16, 16)
    text = {} if is_b else {"clip_text": noise(2, 77, POOLED_WIDTH), "clip_img": torch.zeros(2, 1, IMAGE_EMBEDDING)}
    hint = noise(2, EFFNET.latent_channels, 4, 4) if is_b else None
    output = model(x, torch.tensor([0.3, 0.8]), noise(2, 1, POOLED_WIDTH), effnet=hint, return_dict=False, **text)[0]
    (output - noise(*x.shape, seed=9)).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    for name in ("clf.1.weight", "up_upscalers.0.1", "up_blocks.1.0.channelwise.4.weight"):
        found = [float(gradient.abs().max()) for key, gradient in gradients.items() if key.startswith(name)]
        assert found and max(found) > 0


@pytest.mark.parametrize("make", [make_effnet, make_stage_b, make_stage_c])
def test_weights_follow_the_seed(make: Callable[[int], torch.nn.Module]) -> None:
    one, again, other = (make(seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
