"""State for continuation: outside the outputs, named by everything that determines it, under a lock
that dies with its holder (DESIGN section 5)."""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from repro.errors import StageError
from repro.hashing import hash_tree, sha256_json
from repro.outputs import json_text, write_json

STATE_ROOT = Path(os.environ.get("STATE_ROOT", "state"))
LOCK_WAIT_SECONDS = 30
INPUTS = "inputs.json"


def fingerprint(**parts: Any) -> str:
    """Digest of everything that determines a stage's state: parameters, inputs' digests, code."""
    return sha256_json(parts)


def code_digest(*paths: Path) -> str:
    """Digest of the source files below `paths`, so that state of other code is never continued."""
    return sha256_json({str(p.name): {n: d for n, d in hash_tree(p).items() if n.endswith(".py")} for p in paths})


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: leaf for name, inner in value.items() for key, leaf in _leaves(inner, f"{path}.{name}" if path else name).items()
    }


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """In what two runs differ, by name: values of parameters in full, of digests only that they differ."""
    old, new = _leaves(there), _leaves(here)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    shown = [
        f"{name.removeprefix('params.')}: {old.get(name)} there, {new.get(name)} here" if name.startswith("params.") else name
        for name in names
    ]
    return "; ".join(shown[:4]) + (f"; and {len(shown) - 4} more" if len(shown) > 4 else "")


def _tell_of_others(folder: Path, parts: dict[str, Any]) -> None:
    """A run that begins anew beside the state of others, by another recipe, data or code, says why it does not continue them."""
    if (folder / INPUTS).exists():
        return
    for inputs in sorted(folder.parent.glob(f"*/{INPUTS}")):
        difference = _differences(json.loads(inputs.read_text(encoding="utf-8")), parts)
        print(f"{inputs.parent}: the state of another run, which differs in {difference}; beginning anew", file=sys.stderr)


def _refuse_other_run(folder: Path, parts: dict[str, Any]) -> None:
    """Raises:
    StageError: the folder holds the state of another run."""
    inputs = folder / INPUTS
    if inputs.exists() and (there := json.loads(inputs.read_text(encoding="utf-8"))) != json.loads(json_text(parts)):
        raise StageError(
            f"{folder}: holds the state of another run, which differs in {_differences(there, parts)}; continue that one as it"
            " was, or name another folder"
        )


@contextmanager
def stage_state(stage: str, parts: dict[str, Any], folder: Path | None = None) -> Iterator[Path]:
    """Hold a stage's state folder for this process; yields it. `folder`, or `state/<stage>/<fingerprint>/`.

    An older state of the same stage is left alone (it belongs to another recipe) and named, except that it
    is removed by `make clean`. The lock is an flock: the kernel releases it when its holder is gone,
    however it died; workers and ranks die with the holder (`repro.processes`).

    Raises:
        StageError: another process still holds the lock after half a minute, or `folder` holds another run's state.
    """
    own = STATE_ROOT / stage / fingerprint(**parts) if folder is None else Path(folder)
    own.mkdir(parents=True, exist_ok=True)
    with open((STATE_ROOT / stage if folder is None else own) / "lock", "w") as lock:
        _take(lock, own.parent if folder is None else own, stage)
        if folder is None:
            _tell_of_others(own, parts)
        _refuse_other_run(own, parts)
        if not (own / INPUTS).exists():
            write_json(own / INPUTS, parts)
        yield own


def _take(lock: IO[str], folder: Path, stage: str) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StageError(f"{folder}: another {stage} process is running here; wait for it or stop it") from None
            time.sleep(0.2)


def forget_state(folder: Path) -> None:
    """Remove a finished stage's state, once its outputs stand."""
    shutil.rmtree(folder, ignore_errors=True)
