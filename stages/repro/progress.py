"""Progress with rate and time left, one line every few seconds, readable in a log file."""

import sys
import time


class Progress:
    """Counts work done and prints to stderr at most every `every` seconds.

    Args:
        what: e.g. "latents"; unit: e.g. "images"; total: how many there are; done: how many were
            already there when this process started (a continued run); per: how much of what is counted makes one
            unit (10**6 where bytes are counted and shown as MB).
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every: float = 5.0, per: int = 1):
        self.what, self.total, self.unit, self.done, self.every, self.per = what, total, unit, done, every, per
        self._first = done
        self._start = self._shown = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if self.done < self.total and now - self._shown < self.every:
            return
        self._shown = now
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        clock = f"{int(left) // 3600:d}:{int(left) % 3600 // 60:02d}:{int(left) % 60:02d}"
        done, total = self.done // self.per, self.total // self.per
        speed = f"{rate / self.per:.2f} {self.unit}/s"
        print(
            f"{self.what}: {done}/{total} {self.unit}, {speed}, {clock} left{' ' + note if note else ''}",
            file=sys.stderr,
            flush=True,
        )
