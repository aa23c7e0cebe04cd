"""Ctrl-C and SIGTERM ask a run to stop: it leaves the update it is at, saves the state before it, and ends.

Nothing changes until an update is whole, so that a run can stop within one micro-batch however long its updates are:
launchers and schedulers kill what has not ended some 30 seconds after a SIGTERM.
"""

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """`signal` is the one that asked to stop, 0 as long as none has."""

    def __init__(self, speaks: bool = True) -> None:
        self.signal, self.speaks = 0, speaks

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal and self.speaks and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signal:
            # A terminal tells all of its processes, kill only this one.
            for rank in multiprocessing.active_children():
                rank.terminate()
            if self.speaks:
                again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
                print(f"train: stopping, the update under way is left out{again}", file=sys.stderr, flush=True)
        self.signal = self.signal or number


@contextmanager
def stop_request(speaks: bool = True) -> Iterator[StopRequest]:
    """Take signals for the body of a run.

    Args:
        speaks: False in a rank that this machine's rank 0 has started, which lets that one tell and end it.
    """
    request = StopRequest(speaks)
    before = {number: signal.signal(number, request.receive) for number in SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_for_new_processes() -> Iterator[None]:
    """Processes that are started in the body hear of both signals only once they take them by `stop_request`: while they
    are still importing, one would die of what asks it to stop, and its run with it as of a lost rank."""
    resource_tracker.ensure_running()  # started later, it would let both through
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
