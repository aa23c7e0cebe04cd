"""Add up what the stages' runs have cost, for `report.cost` and for people.

    python stages/show_cost.py [--log FILE]

The log (logs/cost.jsonl, or what the environment variable COST_LOG names) has several lines a run, of which the last
counts. Runs with the same recipe, inputs and code are parts of one job. A line that its writer did not finish is left out
and named.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from repro.cost import cost_log
from repro.errors import StageError, run_stage

# Units of time from large to small, in seconds; one is used from two of it on.
SPANS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
COLUMNS = ("stage", "recipe", "job", "runs", "done", "time", "CPU time", "device")
WORDS = ("run", "stage", "recipe", "job", "unit", "device")


@dataclass(frozen=True)
class Entry:
    """The last line of a run."""

    run: str
    stage: str
    recipe: str
    job: str
    unit: str
    done: int
    wall_s: float
    cpu_s: float | None
    device: str

    @property
    def work(self) -> tuple[str, str, str, str]:
        """What the runs of one job have in common."""
        return self.stage, self.recipe, self.job, self.unit


def entry_of(line: bytes) -> Entry | None:
    """The entry of a line, or None of one that is not whole."""
    try:
        values = json.loads(line)
        entry = Entry(**{field.name: values[field.name] for field in fields(Entry)})
    except (ValueError, KeyError, TypeError):
        return None
    words = all(isinstance(getattr(entry, name), str) for name in WORDS)
    numbers = isinstance(entry.done, int) and all(isinstance(n, int | float) for n in (entry.wall_s, entry.cpu_s or 0))
    return entry if words and numbers else None


def read_runs(log: Path) -> list[Entry]:
    """The last entry of every run, by the order of their first lines.

    Raises:
        StageError: there is no log, or no whole line in it.
    """
    if not log.exists():
        raise StageError(f"{log}: not there; stages write what they cost to it (COST_LOG names another file)")
    runs: dict[str, Entry] = {}
    for number, line in enumerate(log.read_bytes().splitlines(), start=1):
        if entry := entry_of(line):
            runs[entry.run] = entry
        else:
            print(f"{log}: line {number} is not whole and left out", file=sys.stderr)
    if not runs:
        raise StageError(f"{log}: no whole line in it; remove it")
    return list(runs.values())


def jobs_of(runs: Iterable[Entry]) -> list[list[Entry]]:
    """Runs by what they worked at, by the order of their first runs."""
    jobs: dict[tuple[str, ...], list[Entry]] = {}
    for run in runs:
        jobs.setdefault(run.work, []).append(run)
    return list(jobs.values())


def span(seconds: float) -> str:
    """A length of time to a tenth of its unit: 17.5 days."""
    for unit, length in SPANS:
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def pace(seconds: float) -> str:
    """The time of one unit of work, to three digits or whole seconds."""
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def counted(number: int, unit: str) -> str:
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"


def time_by_device(runs: list[Entry]) -> dict[str, float]:
    times: dict[str, float] = {}
    for run in runs:
        times[run.device] = times.get(run.device, 0.0) + run.wall_s
    return times


def sentence(runs: list[Entry]) -> str:
    """What a job cost, as model cards say it: 2 x RTX 3090, 17.5 days, 51.2 s an update (28,638 updates in 3 runs)."""
    done, unit = sum(run.done for run in runs), runs[0].unit
    parts = [f"{device}, {span(seconds)}" for device, seconds in time_by_device(runs).items()]
    article = "an" if unit[0] in "aeiou" else "a"
    each = f", {pace(sum(run.wall_s for run in runs) / done)} {article} {unit.removesuffix('s')}" if done else ""
    return f"{'; '.join(parts)}{each} ({counted(done, unit)} in {counted(len(runs), 'runs')})"


def row(runs: list[Entry]) -> tuple[str, ...]:
    stage, recipe, job, unit = runs[0].work
    cpu = "-" if any(run.cpu_s is None for run in runs) else span(sum(run.cpu_s or 0.0 for run in runs))
    done, wall = counted(sum(run.done for run in runs), unit), span(sum(run.wall_s for run in runs))
    return stage, recipe, job, str(len(runs)), done, wall, cpu, "; ".join(time_by_device(runs))


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)).rstrip() for r in rows)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=cost_log(), help="the log to add up (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    jobs = jobs_of(read_runs(parser.parse_args(arguments).log))
    print(table([COLUMNS, *map(row, jobs)]))
    print("\nfor report.cost:")
    for runs in jobs:
        print(f"  {runs[0].stage} {runs[0].recipe} {runs[0].job}: {sentence(runs)}")


if __name__ == "__main__":
    run_stage(main)
