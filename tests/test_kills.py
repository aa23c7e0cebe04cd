"""Kill -9 of dvc or of a stage anywhere in the pipeline, then again as `make` does it: the same lock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.params import read_yaml
from repro.randomness import Stream

import pytest
import yaml
from live_processes import wait_until_gone

from proof.clone import clone, foreign_environment, split_stages

REPOSITORY = Path(__file__).parent.parent
# The sample recipe at a size that shows every stage at work for a few seconds.
SMALL = {
    "train": {"updates": 6, "warmup_updates": 2, "save_every": 1, "checkpoints": {"every": 1, "keep_last": 1, "keep_every": 2}},
}
SMALL_EVALUATION = {"references": {"pictures": 2}, "generation": {"pictures": 1, "steps": 2}}
SMALL_PICTURES = {"every": 3, "steps": 2}
TRIES = 8

pytestmark = pytest.mark.slow


def small_clone(folder: Path) -> Path:
    """A clone of HEAD with a small recipe and no outputs."""
    clone(REPOSITORY, folder)
    params = folder / "params.yaml"
    values = read_yaml(params.read_text(encoding="utf-8"), "params.yaml")
    for section, small in SMALL.items():
        values[section] |= small
    values["train"]["pictures"] |= SMALL_PICTURES
    for section, small in SMALL_EVALUATION.items():
        values["evaluate"][section] |= small
    params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    (folder / "dvc.lock").unlink()
    return folder


def start(folder: Path, scratch: Path) -> subprocess.Popen[bytes]:
    """`dvc repro` of all stages, after what `make` does before it."""
    stages, _ = split_stages(folder / "dvc.yaml")
    log = open(scratch / "log", "ab")  # noqa: SIM115 - belongs to the process
    subprocess.run([sys.executable, "stages/mend_dvc.py"], cwd=folder, stdout=log, stderr=log, check=True)
    return subprocess.Popen(["dvc", "repro", *stages], cwd=folder, env=foreign_environment(scratch), stdout=log, stderr=log)


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, nearest first."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [below for child in children for below in descendants(child)]


def finish(folder: Path, scratch: Path) -> None:
    """`dvc repro` as often as it takes: a stage whose dvc was killed may hold its lock for a moment longer."""
    for _ in range(TRIES):
        if start(folder, scratch).wait(timeout=1800) == 0:
            return
    pytest.fail(f"dvc repro never finished: {(scratch / 'log').read_text()[-3000:]}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """dvc.lock of a run of the small recipe that nobody disturbed."""
    scratch = tmp_path_factory.mktemp("undisturbed")
    folder = small_clone(scratch / "a clone")
    finish(folder, scratch)
    return (folder / "dvc.lock").read_bytes()


@pytest.mark.parametrize("soak", range(3))
def test_kills_anywhere_end_in_the_same_lock(undisturbed: bytes, tmp_path: Path, soak: int) -> None:
    draws = Stream(soak, "pipeline kills")
    folder = small_clone(tmp_path / "a clone")
    for _ in range(TRIES):
        process = start(folder, tmp_path)
        deadline = time.monotonic() + draws.uniform() * 30
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        below = descendants(process.pid)
        victim = process.pid if draws.below(2) or not below else draws.choice(below)
        if process.poll() is None:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=1800)
    finish(folder, tmp_path)
    assert (folder / "dvc.lock").read_bytes() == undisturbed


def test_a_trainer_dies_with_its_dvc(undisturbed: bytes, tmp_path: Path) -> None:
    """Even a stopped one; the next dvc finds neither it nor its lock."""
    folder = small_clone(tmp_path / "a clone")
    process = start(folder, tmp_path)
    while not list((folder / "state" / "train").glob("*/update-*")) and process.poll() is None:
        time.sleep(0.05)
    below = descendants(process.pid)
    (trainer, *_) = [pid for pid in below if b"stages/train.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    os.kill(trainer, signal.SIGSTOP)
    process.kill()
    process.wait()
    wait_until_gone(below)
    assert start(folder, tmp_path).wait(timeout=1800) == 0
    assert (folder / "dvc.lock").read_bytes() == undisturbed
