"""Worker processes and ranks that die with their parent.

Cores are used by more processes, never by more threads (DESIGN section 5, D1). A killed stage must
not leave workers behind, so each asks the kernel for its own death when its parent dies.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from repro.errors import USER_ERROR_EXIT, StageError

Item = TypeVar("Item")
Result = TypeVar("Result")
PR_SET_PDEATHSIG = 1
# What rank 0 has to notice the loss of a rank by itself, in seconds; it then tells more of the cause.
GRACE = 10.0


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


def run_here_or_there(function: Callable[[Item], Result], items: list[Item], processes: int) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the items' order: in this process if one is enough, else by `run_workers`."""
    processes = min(processes, len(items))
    yield from map(function, items) if processes <= 1 else run_workers(function, items, processes)


def _run_rank(parent: int, function: Callable[..., None], rank: int, arguments: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    function(rank, *arguments)


def _end_with_a_lost_rank(ranks: list[BaseProcess], over: threading.Event) -> None:
    """End this process, rank 0, when another rank has failed and `over` is not set within the grace.

    A rank that dies while the ranks are still meeting is not noticed by gloo, which waits half an hour for it.
    """
    alive = {process.sentinel: (rank, process) for rank, process in enumerate(ranks, start=1)}
    while alive and not over.is_set():
        for sentinel in wait(list(alive), timeout=0.1):
            rank, process = alive.pop(sentinel)
            process.join()
            if process.exitcode and not over.wait(GRACE):
                text = f"rank {rank} of {len(ranks) + 1} was lost; the same command goes on from the last saved state"
                print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr, flush=True)
                os._exit(USER_ERROR_EXIT)


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
    over = threading.Event()
    watcher = threading.Thread(target=_end_with_a_lost_rank, args=(ranks, over), daemon=True)
    watcher.start()
    try:
        yield
        over.set()
        # Two threads must not wait for the same process: one of them would never learn its exit code.
        watcher.join()
        for process in ranks:
            process.join()
        failed = [rank for rank, process in enumerate(ranks, start=1) if process.exitcode]
        if failed:
            raise StageError(f"rank {failed[0]} of {world_size} failed; the same command goes on from the last saved state")
    finally:
        over.set()
        watcher.join()
        for process in ranks:
            process.kill()
            process.join()
