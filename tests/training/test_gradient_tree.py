"""The fixed binary tree of gradient sums."""

from repro.errors import StageError

import pytest
import torch

from training.gradient_tree import tree_sum, virtual_ranks_of


def gradients(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(count)
    return [torch.randn(1000, generator=draw) * 10.0 ** (i % 5) for i in range(count)]


def by_halves(parts: list[torch.Tensor]) -> torch.Tensor:
    half = len(parts) // 2
    return parts[0] if not half else by_halves(parts[:half]) + by_halves(parts[half:])


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_the_sum_is_that_of_the_halves(count: int) -> None:
    parts = gradients(count)
    assert torch.equal(tree_sum(count, lambda i: parts[i].clone()), by_halves(parts))


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_blocks_of_any_width_make_the_same_tree(world_size: int) -> None:
    parts = gradients(8)
    blocks = [virtual_ranks_of(rank, world_size, 8) for rank in range(world_size)]
    assert [v for block in blocks for v in block] == list(range(8))
    sums = [tree_sum(len(block), lambda i, block=block: parts[block[i]].clone()) for block in blocks]
    assert torch.equal(by_halves(sums), by_halves(parts))


def test_gradients_are_asked_for_in_order_and_few_are_held() -> None:
    asked: list[int] = []
    live: set[int] = set()
    most = 0

    class Buffer:
        def __init__(self, numbers: set[int]):
            self.numbers = numbers

        def add_(self, other: "Buffer") -> "Buffer":
            live.difference_update(other.numbers)
            return Buffer(self.numbers | other.numbers)

    def gradient_of(i: int) -> Buffer:
        nonlocal most
        asked.append(i)
        live.add(i)
        most = max(most, len(live))
        return Buffer({i})

    tree_sum(16, gradient_of)
    assert asked == list(range(16))
    assert most <= 5


@pytest.mark.parametrize(("world_size", "virtual_ranks"), [(3, 4), (8, 4), (2, 1)])
def test_a_width_that_fits_no_tree_is_refused(world_size: int, virtual_ranks: int) -> None:
    with pytest.raises(StageError, match=r"must divide train\.virtual_ranks"):
        virtual_ranks_of(0, world_size, virtual_ranks)
