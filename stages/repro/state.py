"""State for continuation: outside the outputs, named by everything that determines it, under a lock
that dies with its holder (DESIGN section 5)."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import hash_tree, sha256_json
from repro.outputs import write_json

STATE_ROOT = Path(os.environ.get("STATE_ROOT", "state"))
LOCK_WAIT_SECONDS = 30


def fingerprint(**parts: Any) -> str:
    """Digest of everything that determines a stage's state: parameters, inputs' digests, code."""
    return sha256_json(parts)


def code_digest(*paths: Path) -> str:
    """Digest of the source files below `paths`, so that state of other code is never continued."""
    return sha256_json({str(p.name): {n: d for n, d in hash_tree(p).items() if n.endswith(".py")} for p in paths})


@contextmanager
def stage_state(stage: str, parts: dict[str, Any], shared: bool = False) -> Iterator[Path]:
    """Hold `state/<stage>/<fingerprint>/` for this process; yields the folder.

    A rank that another process started (`shared`) uses the folder under rank 0's lock.

    An older state of the same stage is left alone (it belongs to another recipe), except that it
    is removed by `make clean`. The lock is an flock: the kernel releases it when its holder is gone,
    however it died; workers and ranks die with the holder (`repro.processes`).

    Raises:
        StageError: another process still holds the lock after half a minute.
    """
    folder = STATE_ROOT / stage / fingerprint(**parts)
    folder.mkdir(parents=True, exist_ok=True)
    if shared:
        yield folder
        return
    with open(STATE_ROOT / stage / "lock", "w") as lock:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StageError(
                        f"{STATE_ROOT / stage}: another {stage} process is running here; wait for it or stop it"
                    ) from None
                time.sleep(0.2)
        if not (folder / "inputs.json").exists():
            write_json(folder / "inputs.json", parts)
        yield folder


def forget_state(folder: Path) -> None:
    """Remove a finished stage's state, once its outputs stand."""
    shutil.rmtree(folder, ignore_errors=True)
