"""What ranks exchange, checked from within each of them."""

from pathlib import Path

import repro  # noqa: F401 - fixes the numeric environment
from repro.errors import StageError

import torch
import torch.distributed as dist

from training.ranks import join_ranks

NUMBERS = 1 << 12


def gradient_of(rank: int) -> torch.Tensor:
    """float32 [NUMBERS], of several magnitudes, so that an order of adding shows."""
    draw = torch.Generator().manual_seed(rank)
    return torch.randn(NUMBERS, generator=draw) * 10.0 ** (rank % 3)


def sum_of_halves(parts: list[torch.Tensor]) -> torch.Tensor:
    half = len(parts) // 2
    return parts[0] if not half else sum_of_halves(parts[:half]) + sum_of_halves(parts[half:])


def check_exchanges(rank: int, world_size: int, meeting_point: Path) -> None:
    """Every exchange of `Ranks` against what it must give, in a rank; fails with an assertion."""
    ranks = join_ranks(rank, world_size, meeting_point)
    mine = ranks.slice_of(NUMBERS)
    expected = sum_of_halves([gradient_of(other) for other in range(world_size)])
    assert torch.equal(ranks.sum_slice(gradient_of(rank)), expected[mine.start : mine.stop])
    buffer = torch.full((NUMBERS,), -1.0)
    buffer[mine.start : mine.stop] = expected[mine.start : mine.stop]
    ranks.share_slices(buffer)
    assert torch.equal(buffer, expected)
    places = torch.zeros(world_size, dtype=torch.float64)
    places[rank] = 0.1 * (rank + 1)
    assert ranks.combine(places).tolist() == [0.1 * (other + 1) for other in range(world_size)]
    assert ranks.gather(torch.tensor([rank, -rank])).tolist() == [sign * r for r in range(world_size) for sign in (1, -1)]
    for text in ("", "früh", '{"a": [1, 2]}'):
        assert ranks.text_from_first(text if rank == 0 else "other") == text
    assert ranks.from_first(torch.arange(3) + 10 * rank).tolist() == [0, 1, 2]
    # Stretches of unequal lengths, and for one rank none.
    lengths = [3 * other if other != 1 else 0 for other in range(world_size)]
    first, length = sum(lengths[:rank]), lengths[rank]
    whole = ranks.assemble(torch.arange(first, first + length, dtype=torch.uint8), first, sum(lengths))
    assert whole.tolist() == (list(range(sum(lengths))) if rank == 0 else [])
    leave()  # a process that ends while gloo's threads still run is aborted now and then


def lose_a_rank(rank: int, world_size: int, meeting_point: Path) -> None:
    """The last rank leaves; what the others then hear is a StageError, which rank 0's caller gets."""
    ranks = join_ranks(rank, world_size, meeting_point)
    if rank == world_size - 1:
        raise SystemExit(0)
    try:
        ranks.combine(torch.ones(1))
    except StageError:
        if rank == 0:
            raise


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
