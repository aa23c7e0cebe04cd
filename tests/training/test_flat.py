"""The flat buffer: parameters become views, large ones whole blocks, gradients land in place."""

import torch

from training.flat import BLOCK, FlatWeights, Segment, gradient_norm


def parameters(*shapes: tuple[int, ...]) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"p{i}", torch.nn.Parameter(torch.full(shape, float(i + 1)))) for i, shape in enumerate(shapes)]


def test_large_weights_come_first_in_whole_blocks() -> None:
    flat = FlatWeights({"text": parameters((10,), (65, 64), (3, 3))})
    assert flat.segments == [Segment("text", True, 0, 17 * BLOCK), Segment("text", False, 17 * BLOCK, 17 * BLOCK + 19)]
    views = flat.views(flat.weights)
    assert [views[name].mean().item() for name in ("p0", "p1", "p2")] == [1.0, 2.0, 3.0]
    assert torch.equal(flat.weights[65 * 64 : 17 * BLOCK], torch.zeros(17 * BLOCK - 65 * 64))


def test_parameters_are_the_buffer() -> None:
    (name, parameter), *_ = group = parameters((8,), (4,))
    flat = FlatWeights({"unet": group})
    flat.weights.mul_(5)
    assert torch.equal(parameter.detach(), torch.full((8,), 5.0))
    assert parameter.requires_grad
    assert flat.views(flat.weights)[name].data_ptr() == parameter.data_ptr()


def test_backward_adds_into_the_collected_buffer() -> None:
    group = parameters((8,), (4096,))
    flat = FlatWeights({"unet": group})
    for _ in range(2):
        buffer = flat.collect_gradients()
        for _ in range(3):
            sum((parameter * 2).sum() for _, parameter in group).backward()
        assert all(torch.equal(view, torch.full_like(view, 6.0)) for view in flat.views(buffer).values())


def test_the_norm_is_float64_over_fixed_chunks() -> None:
    gradient = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    expected = float(gradient.double().square().sum()) ** 0.5
    assert abs(gradient_norm(gradient) - expected) < 1e-9
    assert gradient_norm(torch.full((10,), 1e30)) < float("inf")
