"""Put right what a dvc that was killed while writing left cut off (`make` calls it before `dvc repro`).

    python stages/mend_dvc.py

DVC 3.67 writes two of its files in place, so `kill -9` or a power cut in that moment leaves half of one, and every later
dvc stops at it: `.dvc/tmp/rwlock`, which names files in use and is empty when no dvc runs, is removed; `dvc.lock`, if it
cannot be read any more, is put back as committed. Stages finished since the commit then come from DVC's run cache.
"""

import argparse
import json
import subprocess
from pathlib import Path

from repro.errors import StageError, run_stage

from dvc.lock import LockError, make_lock
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml
from voluptuous import Invalid

TEMPORARY = Path(".dvc/tmp")
LOCK = Path("dvc.lock")


def mend_files_in_use(folder: Path) -> bool:
    """Remove `folder`/rwlock if it is cut off; whether it was. A dvc at work on it holds its guard: nothing is done then."""
    path = folder / RWLOCK_FILE
    if not path.exists():
        return False
    try:
        with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):
            json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        path.unlink()
        return True
    except (FileNotFoundError, LockError):
        pass
    return False


def is_whole(lock: str) -> bool:
    """Whether dvc can read this text as a dvc.lock."""
    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(lock, LOCK) or {"schema": "2.0"})
    except (YAMLFileCorruptedError, Invalid):
        return False
    return True


def mend_lock(path: Path) -> bool:
    """Put `path` back as committed if dvc cannot read it; whether it was so.

    Raises:
        StageError: it is cut off and git has no copy.
    """
    if not path.exists() or is_whole(path.read_text(encoding="utf-8")):
        return False
    if subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", str(path)], capture_output=True).returncode:
        raise StageError(f"{path}: cut off, and git has no committed copy; remove it, and `dvc repro` writes it again")
    return True


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.parse_args(arguments)
    if mend_files_in_use(TEMPORARY):
        print(f"{TEMPORARY / RWLOCK_FILE}: cut off by a killed dvc; removed")
    if mend_lock(LOCK):
        print(f"{LOCK}: cut off by a killed dvc; put back as committed")


if __name__ == "__main__":
    run_stage(main)
