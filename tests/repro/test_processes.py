"""Workers and ranks: errors reach the stage, and no process outlives a killed parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_processes import is_running, wait_until_gone

WORKERS = """
import os, signal, sys, time
from repro.errors import StageError, run_stage
from repro.processes import run_workers

def work(item):
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "fail":
        raise StageError("post 7: broken image")
    if item == "sleep":
        print(os.getpid(), flush=True)
        time.sleep(600)
    return item * 2

def main(arguments):
    for result in run_workers(work, arguments, 2):
        print(result, flush=True)

if __name__ == "__main__":
    run_stage(main)
"""
RANKS = """
import os, signal, sys, time
from repro.errors import StageError, run_stage
from repro.processes import extra_ranks

def other(rank, what):
    print(os.getpid(), flush=True)
    if what.startswith("rank dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what != "well":
        time.sleep(600)

def main(arguments):
    with extra_ranks(other, 3, (arguments[0],)):
        if arguments[0] == "rank 0 fails":
            raise StageError("loss is not finite")
        if arguments[0] in ("wait", "rank dies, 0 waits"):
            time.sleep(600)

if __name__ == "__main__":
    run_stage(main)
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start one of the programs above as a script."""

    def start_program(program: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / "stage.py"
        script.write_text(program)
        environment = os.environ | {"PYTHONPATH": str(Path("stages").resolve())}
        return subprocess.Popen(
            [sys.executable, str(script), *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start_program


def test_results_come_in_the_order_of_the_items(start) -> None:
    output, _ = start(WORKERS, *"abcdefgh").communicate(timeout=60)
    assert output.split() == [2 * letter for letter in "abcdefgh"]


HERE_OR_THERE = """
import os, sys
from repro.errors import StageError, run_stage
from repro.processes import run_here_or_there

def work(item):
    if item == "fail":
        raise StageError("post 7: broken image")
    return item, os.getpid()

def main(arguments):
    processes, *items = arguments
    for item, pid in run_here_or_there(work, items, int(processes)):
        print(item, "here" if pid == os.getpid() else "there", flush=True)

if __name__ == "__main__":
    run_stage(main)
"""


@pytest.mark.parametrize(
    ("processes", "items", "place"),
    [
        ("0", "abc", "here"),
        ("1", "abc", "here"),
        ("2", "a", "here"),
        ("2", "", "here"),
        ("2", "abcde", "there"),
        ("9", "ab", "there"),
    ],
)
def test_one_process_is_this_one_and_more_are_others(start, processes: str, items: str, place: str) -> None:
    process = start(HERE_OR_THERE, processes, *items)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.split() == [word for item in items for word in (item, place)]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_error_is_the_stages_own_wherever_it_was(start, processes: str) -> None:
    process = start(HERE_OR_THERE, processes, "a", "fail", "b")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines()[-1] == "stage.py: post 7: broken image"
    assert output.split()[0] == "a"


@pytest.mark.parametrize(("item", "message"), [("die", "a worker process was killed"), ("fail", "post 7: broken image")])
def test_a_workers_death_or_error_is_the_stages_error(start, item: str, message: str) -> None:
    process = start(WORKERS, "a", item, "b")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors.splitlines()[-1]


@pytest.mark.parametrize(("program", "arguments", "count"), [(WORKERS, ("sleep", "sleep"), 2), (RANKS, ("wait",), 2)])
def test_no_worker_or_rank_outlives_a_killed_stage(start, program: str, arguments: tuple[str, ...], count: int) -> None:
    process = start(program, *arguments)
    children = [int(process.stdout.readline()) for _ in range(count)]
    assert all(map(is_running, children))
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    wait_until_gone(children)


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("well", 0, ""),
        ("rank dies", 2, "rank 1 of 3 failed"),
        ("rank dies, 0 waits", 2, " was lost; the same command goes on from the last saved state"),
        ("rank 0 fails", 2, "loss is not finite"),
    ],
)
def test_ranks_end_together(start, what: str, code: int, message: str) -> None:
    process = start(RANKS, what)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert message in errors
    wait_until_gone([int(line) for line in output.split()])
