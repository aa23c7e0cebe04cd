"""Worker processes and ranks that die with their parent.

Cores are used by more processes, never by more threads (DESIGN section 5, D1). A killed stage must
not leave workers behind, so each asks the kernel for its own death when its parent dies.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from repro.errors import StageError

Item = TypeVar("Item")
Result = TypeVar("Result")
PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when `parent` (the process that started it) is gone."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run_workers(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the items' order, computed in `processes` fresh processes.

    `function` must be importable (a module's top level) and must not depend on which process runs it.

    Raises:
        StageError: a worker raised one, or was killed (most often for memory).
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=die_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool:
            raise StageError("a worker process was killed (out of memory?); the same command goes on from here") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run_rank(parent: int, function: Callable[..., None], rank: int, arguments: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    function(rank, *arguments)


@contextmanager
def extra_ranks(function: Callable[..., None], world_size: int, arguments: tuple[Any, ...]) -> Iterator[None]:
    """Run `function(rank, *arguments)` for ranks 1..world_size-1 in fresh processes while the body, in
    this process, is rank 0. When the body fails the others are killed; they never outlive it."""
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_run_rank, args=(os.getpid(), function, rank, arguments), daemon=True)
        for rank in range(1, world_size)
    ]
    for process in ranks:
        process.start()
    try:
        yield
        for process in ranks:
            process.join()
        failed = [rank for rank, process in enumerate(ranks, start=1) if process.exitcode]
        if failed:
            raise StageError(f"rank {failed[0]} of {world_size} failed; the same command goes on from the last saved state")
    finally:
        for process in ranks:
            process.kill()
            process.join()
