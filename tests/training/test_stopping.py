"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from training.stopping import held_for_new_processes, stop_request

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(("number", "again"), [(signal.SIGINT, "; Ctrl-C again stops at once"), (signal.SIGTERM, "")])
def test_a_signal_is_a_request_and_is_answered(number: int, again: str, capsys: pytest.CaptureFixture[str]) -> None:
    with stop_request() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert capsys.readouterr().err == f"train: stopping, the update under way is left out{again}\n"


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_ends_at_once(first: int) -> None:
    with pytest.raises(KeyboardInterrupt), stop_request():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_is_the_same_request(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_request() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGINT, "the first one tells how the process ends"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_rank_of_another_process_stops_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """It gets the terminal's Ctrl-C itself and rank 0's SIGTERM after it."""
    with stop_request(speaks=False) as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGINT
    assert capsys.readouterr().err == ""


def test_ranks_that_a_process_has_started_are_told() -> None:
    rank = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
    rank.start()
    with stop_request():
        os.kill(os.getpid(), signal.SIGTERM)
    rank.join(60)
    assert rank.exitcode == -signal.SIGTERM


def test_a_signal_of_the_moment_of_starting_is_not_lost() -> None:
    with stop_request() as stop:
        with held_for_new_processes():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


def test_a_process_started_meanwhile_does_not_die_of_them() -> None:
    """They wait until it takes them."""
    program = "import repro; from training.stopping import stop_request; print('up', flush=True); input()\n"
    program += "with stop_request(speaks=False) as stop: print(int(stop.signal))"
    with held_for_new_processes():
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": "stages"}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    process.terminate()
    output, _ = process.communicate("\n", timeout=60)
    assert (output, process.returncode) == (f"{int(signal.SIGTERM)}\n", 0)
