"""Two repository folders, output by output in graph order, and where they part."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proof.differences import first_difference
from proof.lock import Stage, read_lock

EQUAL, DIFFERENT, MISSING = "equal", "DIFFERENT", "MISSING"


@dataclass(frozen=True)
class Row:
    """One output of one stage: equal, DIFFERENT or MISSING (in one of the two)."""

    stage: str
    path: str
    verdict: str


@dataclass(frozen=True)
class Comparison:
    rows: list[Row]
    finding: list[str]

    @property
    def equal(self) -> bool:
        return all(row.verdict == EQUAL for row in self.rows)


def _locked_verdict(digest: str | None, other: str | None) -> str:
    if digest is None or other is None:
        return MISSING
    return EQUAL if digest == other else DIFFERENT


def _changed_keys(first: dict, second: dict) -> list[str]:
    return [key for key in [*first, *(k for k in second if k not in first)] if first.get(key) != second.get(key)]


def causes(stage: Stage, other: Stage, made: set[str]) -> list[str]:
    """What the stage was made from that differs and is no output of another stage: then its output may differ."""
    reasons = [
        f"params {key}: {stage.params.get(key)} | {other.params.get(key)}" for key in _changed_keys(stage.params, other.params)
    ]
    inputs = [key for key in _changed_keys(stage.inputs, other.inputs) if key not in made]
    command = ["its command differs"] if stage.command != other.command else []
    return reasons + [f"input {key} differs" for key in inputs] + command


def _inside(a: Path, b: Path, row: Row) -> str:
    if (a / row.path).exists() and (b / row.path).exists():
        found = first_difference(a / row.path, b / row.path)
        return found or "the files are equal: dvc.lock names other bytes than these"
    if row.verdict == MISSING:
        return "only one of the two has it"
    return "the digests in the lock files differ; the files themselves are not in both folders"


def _explain(a: Path, b: Path, row: Row, stages: dict[str, Stage], others: dict[str, Stage]) -> list[str]:
    lines = [f"first difference: stage {row.stage}, {row.path}", f"  {_inside(a, b, row)}"]
    if row.stage in stages and row.stage in others:
        made = {path for stage in [*stages.values(), *others.values()] for path in stage.outputs}
        reasons = causes(stages[row.stage], others[row.stage], made)
        lines += [f"  {reason}" for reason in reasons] or ["  made from the same command, parameters and inputs"]
    return lines


def _rows(stages: dict[str, Stage], others: dict[str, Stage], verdict: Callable[[str, str | None, str | None], str]) -> list[Row]:
    """A row for each output that either side names, in graph order; `verdict(path, digest, other digest)` judges."""
    rows = []
    for name in [*stages, *(name for name in others if name not in stages)]:
        outputs, other_outputs = (side[name].outputs if name in side else {} for side in (stages, others))
        for path in [*outputs, *(path for path in other_outputs if path not in outputs)]:
            rows.append(Row(name, path, verdict(path, outputs.get(path), other_outputs.get(path))))
    return rows


def _by_name(lock: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in read_lock(lock)}


def _comparison(a: Path, b: Path, stages: dict[str, Stage], others: dict[str, Stage], rows: list[Row]) -> Comparison:
    parting = next((row for row in rows if row.verdict != EQUAL), None)
    return Comparison(rows, _explain(a, b, parting, stages, others) if parting else [])


def compare_locks(a: Path, b: Path, lock: Path) -> Comparison:
    """The outputs of a `lock` and of folder b's dvc.lock, by the digests in them; files of the folders a (whose
    lock it is) and b show what a difference is.

    Raises:
        StageError: a lock file is missing or not readable.
    """
    first, second = _by_name(lock), _by_name(b / "dvc.lock")
    rows = _rows(first, second, lambda _, digest, other: _locked_verdict(digest, other))
    return _comparison(a, b, first, second, rows)


def compare_folders(a: Path, b: Path) -> Comparison:
    """The outputs that two folders' dvc.lock name: by their files where both are there, else by the digests in the locks.

    Raises:
        StageError: a folder has no readable dvc.lock.
    """
    first, second = _by_name(a / "dvc.lock"), _by_name(b / "dvc.lock")

    def verdict(path: str, digest: str | None, other: str | None) -> str:
        if (a / path).exists() and (b / path).exists():
            return EQUAL if first_difference(a / path, b / path) is None else DIFFERENT
        return _locked_verdict(digest, other)

    return _comparison(a, b, first, second, _rows(first, second, verdict))


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("stage", "path")]
    return "\n".join(f"{row.stage:<{widths[0]}}  {row.path:<{widths[1]}}  {row.verdict}" for row in rows)
