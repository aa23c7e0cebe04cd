"""What dvc.lock says: stages in graph order, their outputs, and what each was made from."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from repro.errors import StageError
from repro.params import read_yaml


@dataclass(frozen=True)
class Stage:
    """One entry of dvc.lock; digests are DVC's md5 by path (of a folder: of its listing, ending in .dir)."""

    name: str
    command: str
    inputs: dict[str, str]
    params: dict[str, Any]
    outputs: dict[str, str]


def _digests(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in entries}


def _read_stage(name: str, entry: dict[str, Any]) -> Stage:
    params = {f"{file}:{key}": value for file, keys in entry.get("params", {}).items() for key, value in keys.items()}
    return Stage(name, entry.get("cmd", ""), _digests(entry.get("deps", [])), params, _digests(entry.get("outs", [])))


def _overlap(a: str, b: str) -> bool:
    """One path is the other or lies inside it."""
    first, second = PurePosixPath(a), PurePosixPath(b)
    return first == second or first in second.parents or second in first.parents


def _feeds(earlier: Stage, later: Stage) -> bool:
    return any(_overlap(output, path) for output in earlier.outputs for path in later.inputs)


def graph_order(stages: list[Stage]) -> list[Stage]:
    """Each stage after those that feed it, otherwise in the given order.

    Raises:
        StageError: the stages feed each other in a circle.
    """
    waiting, ordered = list(stages), []
    while waiting:
        free = [s for s in waiting if not any(_feeds(other, s) for other in waiting if other is not s)]
        if not free:
            raise StageError(f"dvc.lock: {', '.join(s.name for s in waiting)} feed each other in a circle")
        ordered.append(free[0])
        waiting.remove(free[0])
    return ordered


def parse_lock(text: str, name: str) -> list[Stage]:
    """The stages of a lock file's text, in its order; `name` stands in the error.

    Raises:
        StageError: not DVC's lock file.
    """
    document = read_yaml(text, name)
    if not isinstance(document, dict) or not isinstance(document.get("stages"), dict):
        raise StageError(f"{name}: not a lock file of DVC (no 'stages')")
    return [_read_stage(stage, entry) for stage, entry in document["stages"].items()]


def read_lock(path: Path) -> list[Stage]:
    """The stages of a dvc.lock in graph order.

    Raises:
        StageError: no such file, or not DVC's lock file.
    """
    if not path.exists():
        raise StageError(f"{path}: not found; `make` runs the pipeline and writes it")
    return graph_order(parse_lock(path.read_text(encoding="utf-8"), str(path)))
