"""Gradient sums that do not depend on the number of processes (DESIGN section 5, D3).

A recipe has V virtual ranks, a power of two. Inside a virtual rank micro-batches accumulate by ordinary backward
passes; the V sums are added in the fixed binary tree ((0+1)+(2+3))+... . A process holds a contiguous block of virtual
ranks, so the lower levels of the tree are local. For the upper levels every process owns one slice of the buffer: it
receives that slice of all processes' sums and adds them in the tree's order. Any process count that divides V adds the
same numbers in the same order, with the traffic of an all-reduce. The idea of virtual ranks: EasyScale (Li et al.,
SC'23); of owned slices: ZeRO (Rajbhandari et al., SC'20).
"""

from collections.abc import Callable

from repro.errors import StageError

import torch


def virtual_ranks_of(rank: int, world_size: int, virtual_ranks: int) -> range:
    """The contiguous block of virtual ranks that a process computes.

    Raises:
        StageError: the process count does not divide the number of virtual ranks.
    """
    if virtual_ranks % world_size or world_size & (world_size - 1):
        allowed = ", ".join(str(1 << k) for k in range(virtual_ranks.bit_length()))
        raise StageError(f"runtime.processes ({world_size}) must divide train.virtual_ranks ({virtual_ranks}): use {allowed}")
    share = virtual_ranks // world_size
    return range(rank * share, (rank + 1) * share)


def tree_sum(count: int, gradient_of: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Sum `gradient_of(0)` .. `gradient_of(count - 1)` (flat tensors, each a buffer of its own) in a
    binary tree; `count` is a power of two and at most log2(count) + 1 buffers live at once."""
    waiting: list[tuple[int, torch.Tensor]] = []  # (level, partial sum), levels falling
    for i in range(count):
        level, total = 0, gradient_of(i)
        while waiting and waiting[-1][0] == level:
            _, left = waiting.pop()
            total = left.add_(total)
            level += 1
        waiting.append((level, total))
    ((_, total),) = waiting
    return total
