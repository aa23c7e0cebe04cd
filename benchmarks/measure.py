"""Run a command and measure all of it: wall seconds, CPU seconds and peak memory of its whole process tree.

    python benchmarks/measure.py COMMAND [ARGUMENT ...]    # prints one JSON object

Whole processes are measured, start-up included. Linux only (/proc).
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05
SAMPLING_SHARE = 0.2  # at most this part of the sampling thread's time: /proc/*/smaps_rollup holds up the process it tells of
PR_SET_CHILD_SUBREAPER = 36
TAIL = 2000


@dataclass(frozen=True)
class Measurement:
    """What a command took.

    wall, cpu: seconds; cpu is user + system of the process and of all its descendants.
    peak_pss: bytes; the highest sum over the tree of proportional set sizes (shared pages count once) that was
        seen in samples 50 ms apart. Pages of mapped files count.
    peak_anonymous: bytes; the same without the pages of mapped files, which the kernel can drop at any time.
    max_rss: bytes; the highest resident size of any one process of the tree.
    """

    wall: float
    cpu: float
    peak_pss: int
    peak_anonymous: int
    max_rss: int


def run(command: Sequence[str | os.PathLike], cwd: Path | None = None, env: dict[str, str] | None = None) -> Measurement:
    """Run a command to its end, with its output kept away, and measure it.

    Raises:
        RuntimeError: it ends with another code than 0; holds the end of its output.
    """
    _adopt_orphans()
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        # A session of its own marks the descendants, also those whose parent has ended.
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=output, start_new_session=True)
        memory = _MemorySampler(process.pid)
        cpu, code = _wait_for_all(process)
        wall = time.monotonic() - start
        memory.stop()
        if code:
            output.seek(max(0, output.tell() - TAIL))
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {code}\n{output.read().decode(errors='replace')}")
    return Measurement(wall, cpu, memory.peak_pss, memory.peak_anonymous, memory.max_rss)


def best_of(
    runs: int, command: Sequence[str | os.PathLike], before: Callable[[], object] = lambda: None, **options
) -> Measurement:
    """Run a command several times, `before()` ahead of each; see `best`."""
    measured = []
    for _ in range(runs):
        before()
        measured.append(run(command, **options))
    return best(measured)


def best(measured: Sequence[Measurement]) -> Measurement:
    """The least wall, the least CPU, the most memory of several runs."""
    return Measurement(
        wall=min(m.wall for m in measured),
        cpu=min(m.cpu for m in measured),
        peak_pss=max(m.peak_pss for m in measured),
        peak_anonymous=max(m.peak_anonymous for m in measured),
        max_rss=max(m.max_rss for m in measured),
    )


def _adopt_orphans() -> None:
    """Make descendants whose parent ends children of this process, so that their CPU time is told to it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_for_all(process: subprocess.Popen) -> tuple[float, int]:
    """(CPU seconds, exit code) once the process and the adopted rest of its process group have ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    while True:
        try:
            _, _, usage = os.wait4(-process.pid, 0)
        except ChildProcessError:
            return cpu, process.returncode
        cpu += usage.ru_utime + usage.ru_stime


class _MemorySampler:
    """Samples the memory of a process tree in a thread, from its making until stop()."""

    def __init__(self, root: int):
        self.peak_pss = self.peak_anonymous = self.max_rss = 0
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_ended, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _sample_until_ended(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            start = time.monotonic()
            self._sample()
            pause = max(SAMPLE_SECONDS, (time.monotonic() - start) / SAMPLING_SHARE)

    def _sample(self) -> None:
        pss = anonymous = 0
        for pid in _tree(self._root):
            rollup = _read(f"/proc/{pid}/smaps_rollup")
            pss += _bytes_at(rollup, "Pss:")
            anonymous += _bytes_at(rollup, "Pss_Anon:")
            self.max_rss = max(self.max_rss, _bytes_at(_read(f"/proc/{pid}/status"), "VmHWM:"))
        self.peak_pss = max(self.peak_pss, pss)
        self.peak_anonymous = max(self.peak_anonymous, anonymous)


def _tree(root: int) -> set[int]:
    """The process, its descendants, and the rest of its session."""
    parents, tree = {}, {root}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (stat := _read(f"/proc/{name}/stat")):
            # The command's name, in brackets, may hold spaces and brackets.
            _, parent, _, session = stat.rpartition(")")[2].split()[:4]
            parents[int(name)] = int(parent)
            if int(session) == root:
                tree.add(int(name))
    while found := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= found
    return tree


def _bytes_at(text: str, label: str) -> int:
    """The number of KiB on a line of a file of /proc, in bytes; 0 where the process has ended."""
    lines = [line for line in text.splitlines() if line.startswith(label)]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # it has ended
        return ""


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(json.dumps(asdict(run(sys.argv[1:]))))
