"""What runs cost, measured as they go: a log beside the outputs, since no output holds a time or a machine.

The log is logs/cost.jsonl in the working directory, or the file that the environment variable COST_LOG names. A run appends
a line whenever its work is safe and one at its end, so that also of a killed run the last line counts. A line is an object:

    run          which run of a program: when it started and its process
    stage, recipe, job
                 what it worked at; job is short for everything that determines the outputs, the same when a run is continued
    unit, done   what is counted, in the plural, and how many this run has done itself
    wall_s       seconds since the run started
    cpu_s        processor seconds of the run and all processes below it; null where they were launched from outside (WORLD_SIZE)
    processes, device
                 e.g. 2 and "2 x NVIDIA GeForce RTX 3090", or "2 processes on " and the CPU's model

`stages/show_cost.py` adds it up.
"""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DEFAULT_LOG = Path("logs", "cost.jsonl")
# Of the fields of /proc/PID/stat behind the program's name: times of the process itself and of those it has waited for.
STAT_TIMES = slice(11, 15)


def cost_log() -> Path:
    """The log's file, there or not."""
    return Path(os.environ.get("COST_LOG") or DEFAULT_LOG)


def cpu_model() -> str:
    """The CPU's name as its maker gives it, or the architecture's where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def _children(process: int) -> list[int]:
    """The living children of a process; none where the system does not tell or it is gone."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            children += map(int, (thread / "children").read_text(encoding="ascii").split())
    return children


def _descendants_seconds(process: int) -> float:
    """Processor seconds of all living processes below one, and of those that they have waited for."""
    seconds = 0.0
    for child in _children(process):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()
            seconds += sum(map(int, fields[STAT_TIMES])) / os.sysconf("SC_CLK_TCK")
        seconds += _descendants_seconds(child)
    return seconds


def cpu_seconds() -> float:
    """Processor seconds, user's and system's, of this process and all below it, living and ended."""
    return sum(os.times()[:4]) + _descendants_seconds(os.getpid())


def append_line(log: Path, entry: dict[str, Any]) -> None:
    """Append one object to the log, on a line of its own also where a killed writer left a part of one.

    Raises:
        OSError: it cannot be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a+b") as file:
        file.seek(max(0, file.tell() - 1))
        begin = b"" if file.read(1) in (b"", b"\n") else b"\n"
        # One write, always at the file's end, so that the lines of several programs do not mix.
        file.write(begin + json.dumps(entry).encode() + b"\n")


class RunCost:
    """Writes of one run to the log. That it cannot is told once and never stops the run."""

    def __init__(self, known: dict[str, Any]):
        self.known, self.done, self.told = known, 0, False
        self.start, self.cpu_start = time.monotonic(), cpu_seconds()

    def note(self, done: int) -> None:
        """Write that this run has done so many units so far."""
        self.done = done
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        figures = {
            "done": done,
            "wall_s": round(time.monotonic() - self.start, 3),
            "cpu_s": None if launched else round(cpu_seconds() - self.cpu_start, 3),
        }
        log = cost_log()
        try:
            append_line(log, self.known | figures)
        except OSError as error:
            if not self.told:
                text = f"{log}: cannot write what this run costs ({error.strerror or error}); the run goes on"
                print(text, file=sys.stderr, flush=True)
            self.told = True


@contextmanager
def measured(stage: str, recipe: str, job: str, unit: str, processes: int, gpu: str | None = None) -> Iterator[RunCost]:
    """Measure the body, which calls `note` whenever its work is safe; a last line is written however the body ends.

    Args:
        job: short digest of everything that determines the outputs, the same when a run is continued.
        unit: what is counted, in the plural: "updates".
        processes: how many compute, each on a GPU of its own where there are GPUs.
        gpu: their model; None on the CPU.
    """
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    many = "process" if processes == 1 else "processes"
    device = f"{processes} x {gpu}" if gpu else f"{processes} {many} on {cpu_model()}"
    cost = RunCost(
        {
            "run": f"{started} {os.getpid()}", "stage": stage, "recipe": recipe, "job": job, "unit": unit,
            "processes": processes, "device": device,
        }
    )  # fmt: skip
    try:
        yield cost
    finally:
        cost.note(cost.done)
