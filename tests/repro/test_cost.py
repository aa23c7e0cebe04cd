"""The log of costs: its last line of a run counts however the run ended, and nothing about it can stop one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from repro import cost
from repro.cost import append_line, cost_log, cpu_model, cpu_seconds, measured

import pytest

BURN = """
import time
while time.process_time() < 0.4:
    pass
print("burnt", flush=True)
time.sleep(60)
"""
NOTE_AND_WAIT = """
import sys, time
from repro.cost import measured
with measured("train", "small", "0", "updates", 1) as cost:
    for done in (3, 7):
        cost.note(done)
    print("noted", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "of costs" / "cost.jsonl"
    monkeypatch.setenv("COST_LOG", str(path))
    return path


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_line_at_each_note_and_at_the_end(log: Path) -> None:
    with measured("generate", "kohaku", "0badcafe", "pictures", processes=2) as run:
        assert not log.exists()
        run.note(10)
        time.sleep(0.03)
        run.note(20)
    first, second, end = lines(log)
    assert [first["done"], second["done"], end["done"]] == [10, 20, 20]
    assert first["wall_s"] + 0.02 <= second["wall_s"] <= end["wall_s"]
    known = {"stage": "generate", "recipe": "kohaku", "job": "0badcafe", "unit": "pictures", "processes": 2}
    assert all(known.items() <= line.items() for line in (first, second, end))
    assert first["run"] == second["run"] == end["run"]


def test_two_runs_of_one_process_are_two(log: Path) -> None:
    for _ in range(2):
        with measured("train", "small", "0", "updates", 1):
            pass
    assert len({line["run"] for line in lines(log)}) == 2


def test_a_run_that_fails_is_in_the_log_and_still_fails(log: Path) -> None:
    with pytest.raises(SystemExit), measured("train", "small", "0", "updates", 1) as run:
        run.note(4)
        sys.exit(3)
    assert [line["done"] for line in lines(log)] == [4, 4]


def test_of_a_killed_run_the_last_note_stays(log: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path("stages").resolve())}
    process = subprocess.Popen([sys.executable, "-c", NOTE_AND_WAIT], env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [line["done"] for line in lines(log)] == [3, 7]


def test_a_line_that_was_cut_spoils_no_other(log: Path) -> None:
    append_line(log, {"n": 1})
    with open(log, "ab") as file:
        file.write(b'{"n": 2, "wa')
    append_line(log, {"n": 3})
    append_line(log, {"n": 4})
    assert log.read_bytes().splitlines() == [b'{"n": 1}', b'{"n": 2, "wa', b'{"n": 3}', b'{"n": 4}']


def test_a_log_that_cannot_be_made_is_told_once(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("COST_LOG", str(tmp_path / "file" / "cost.jsonl"))
    with measured("train", "small", "0", "updates", 1) as run:
        run.note(1)
        run.note(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path}/file/cost.jsonl: cannot write what this run costs (File exists); the run goes on"


def test_a_full_disk_is_told_once_and_space_brings_the_log_back(
    tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tiny_disk / "cost.jsonl"
    monkeypatch.setenv("COST_LOG", str(log))
    with measured("train", "small", "0", "updates", 1) as run:
        (tiny_disk / "filler").write_bytes(bytes(64 << 10))
        run.note(1)
        run.note(2)
        (tiny_disk / "filler").unlink()
        run.note(3)
    assert "No space left on device" in capsys.readouterr().err
    assert [line["done"] for line in lines(log)] == [3, 3]


def test_the_processor_time_of_children_counts_while_they_live_and_after() -> None:
    before = cpu_seconds()
    child = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
    assert child.stdout.readline()
    living = cpu_seconds() - before
    child.kill()
    child.communicate()
    ended = cpu_seconds() - before
    assert 0.35 < living <= ended + 0.05
    assert ended < living + 0.3


def test_grandchildren_count(tmp_path: Path) -> None:
    """Workers of a rank."""
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE, process_group=0) as child:
        assert child.stdout.readline()
        found = cpu_seconds() - before
        os.killpg(child.pid, signal.SIGKILL)
    assert found > 0.35


def test_a_run_counts_its_own_processor_time_only(log: Path) -> None:
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    with measured("train", "small", "0", "updates", 1):
        pass
    assert lines(log)[-1]["cpu_s"] < 0.15


def test_ranks_that_were_launched_from_outside_are_not_measured(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with measured("train", "small", "0", "updates", 4):
        pass
    assert lines(log)[-1]["cpu_s"] is None


@pytest.mark.parametrize(
    ("processes", "gpu", "device"),
    [
        (2, "NVIDIA GeForce RTX 3090", "2 x NVIDIA GeForce RTX 3090"),
        (1, None, f"1 process on {cpu_model()}"),
        (4, None, f"4 processes on {cpu_model()}"),
    ],
)
def test_the_device_is_told_with_its_number(log: Path, processes: int, gpu: str | None, device: str) -> None:
    with measured("train", "small", "0", "updates", processes, gpu):
        pass
    assert lines(log)[-1]["device"] == device


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="this system has no /proc/cpuinfo")
def test_the_cpu_has_its_maker_s_name() -> None:
    text = Path("/proc/cpuinfo").read_text()
    assert cpu_model() and ("model name" not in text or f": {cpu_model()}\n" in text)


def test_the_log_is_below_the_working_directory_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COST_LOG", "elsewhere.jsonl")
    assert cost_log() == Path("elsewhere.jsonl")
    for unset in ("", None):
        monkeypatch.delenv("COST_LOG") if unset is None else monkeypatch.setenv("COST_LOG", unset)
        assert cost_log() == cost.DEFAULT_LOG == Path("logs/cost.jsonl")
