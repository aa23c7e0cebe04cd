"""The flat buffer: parameters become views, large ones whole blocks, slices whole chunks, gradients land in place."""

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from training.flat import BLOCK, CHUNK, SMALLEST_QUANTISED, FlatWeights, Segment, chunk_squares, norm_of


def parameters(*shapes: tuple[int, ...]) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"p{i}", torch.nn.Parameter(torch.full(shape, float(i + 1)))) for i, shape in enumerate(shapes)]


def test_large_weights_come_first_in_whole_blocks() -> None:
    flat = FlatWeights({"text": parameters((10,), (65, 64), (3, 3))})
    assert flat.segments == [Segment("text", True, 0, 17 * BLOCK), Segment("text", False, 17 * BLOCK, 18 * BLOCK)]
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


SIZES = st.lists(st.integers(1, 3 * SMALLEST_QUANTISED), min_size=1, max_size=6)


@given(text=SIZES, unet=SIZES, depth=st.integers(0, 4))
def test_the_buffer_is_cut_into_equal_slices_of_whole_chunks(text: list[int], unet: list[int], depth: int) -> None:
    virtual_ranks = 1 << depth
    groups = {
        "text": parameters(*((n,) for n in text)),
        "unet": [(f"u{name}", p) for name, p in parameters(*((n,) for n in unet))],
    }
    flat = FlatWeights(groups, virtual_ranks)
    assert len(flat.weights) % (virtual_ranks * CHUNK) == 0
    ends = [0, *(segment.stop for segment in flat.segments)]
    assert [segment.start for segment in flat.segments] == ends[:-1], "segments follow one another"
    assert all(end % BLOCK == 0 for end in ends)
    places = sorted((start, start + shape.numel(), name) for name, (start, shape) in flat.places.items())
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(places)), "no two overlap"
    for start, end, name in places:
        (segment,) = [s for s in flat.segments if s.start <= start and end <= s.stop]
        assert segment.group == ("unet" if name.startswith("u") else "text")
        assert segment.quantised == (end - start >= SMALLEST_QUANTISED)
        assert start % BLOCK == 0 or not segment.quantised
    used = torch.zeros(len(flat.weights), dtype=torch.bool)
    for start, end, _ in places:
        used[start:end] = True
    assert not flat.weights[~used].any(), "padding is zero"


@given(depth=st.integers(0, 3))
def test_the_norm_is_the_same_bits_however_the_gradient_is_sliced(depth: int) -> None:
    gradient = torch.randn(8 * CHUNK, generator=torch.Generator().manual_seed(1))
    squares = torch.cat([chunk_squares(part) for part in gradient.chunk(1 << depth)])
    assert norm_of(squares) == norm_of(chunk_squares(gradient))
    assert abs(norm_of(squares) - float(gradient.double().square().sum()) ** 0.5) < 1e-9


def test_the_norm_is_float64() -> None:
    assert math.isclose(norm_of(chunk_squares(torch.full((10,), 1e30))), 10**0.5 * 1e30, rel_tol=1e-6)
    assert math.isnan(norm_of(chunk_squares(torch.tensor([1.0, math.nan]))))
    assert norm_of(chunk_squares(torch.tensor([1.0, -math.inf]))) == math.inf
