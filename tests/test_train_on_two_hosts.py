"""The trainer by `accelerate launch` on two hosts of two processes each, as docs/training.md says, on a network of their own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from repro.errors import USER_ERROR_EXIT

import pytest
from tiny_training import Training
from two_hosts import INTERFACE, Host, refusal, two_hosts

import train

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 300
UPDATES = 8
PORT = "29511"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    if why := refusal():
        pytest.skip(f"no network namespaces here: {why}")
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def alone(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The run of one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    run = Training(training_inputs, folder / "run")
    run.folder.mkdir()
    train.main(run.arguments(run.params(folder / "params.yaml", updates=UPDATES), "--state", str(run.folder / "state/own")))
    return run


@pytest.fixture
def runs(alone: Training, tmp_path: Path) -> list[Training]:
    """What each host has: the second one's inputs are copies in another folder."""
    shutil.copytree(alone.inputs, tmp_path / "copies", symlinks=False)
    return [Training(alone.inputs, tmp_path / "first"), Training(tmp_path / "copies", tmp_path / "second")]


def launch(hosts: tuple[Host, Host], runs: list[Training], params: Path) -> list[subprocess.Popen[str]]:
    """`accelerate launch` on each host, as the leader of a process group of its own."""
    processes = []
    for rank, (host, run) in enumerate(zip(hosts, runs, strict=True)):
        run.folder.mkdir(parents=True, exist_ok=True)
        _, *script = run.command(params)
        options = {
            "num_machines": "2", "num_processes": "4", "machine_rank": str(rank), "main_process_ip": hosts[0].address,
            "main_process_port": PORT, "num_cpu_threads_per_process": "1",
        }  # fmt: skip
        words = ["accelerate", "launch", "--multi_gpu", *(word for key, value in options.items() for word in (f"--{key}", value))]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = run.environment(PATH=path, GLOO_SOCKET_IFNAME=INTERFACE)
        processes.append(
            subprocess.Popen(
                host.command(*words, *script), env=environment, text=True, process_group=0,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    return processes


def trainers(folder: Path) -> list[int]:
    """Process ids of the trainers whose output is in the folder, without the launch that started them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile, or not a process
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"launch" not in words and os.fsencode(folder / "lokr.safetensors") in words:
                found.append(int(entry.name))
    return sorted(found)


def test_two_hosts_write_the_bytes_of_one_process_on_the_first(
    hosts: tuple[Host, Host], alone: Training, runs: list[Training], tmp_path: Path
) -> None:
    processes = launch(hosts, runs, runs[0].params(tmp_path / "params.yaml", updates=UPDATES))
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert runs[0].bytes() == alone.bytes()
    assert list(runs[1].folder.iterdir()) == []


def test_a_process_that_dies_on_one_host_is_told_on_the_other_and_that_one_goes_on_alone(
    hosts: tuple[Host, Host], alone: Training, runs: list[Training], tmp_path: Path
) -> None:
    processes = launch(hosts, runs, runs[0].params(tmp_path / "params.yaml", updates=UPDATES))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while runs[0].saved_updates() < 2 and all(process.poll() is None for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victims = trainers(runs[1].folder)
    assert victims, "the run ended before a process of it could be killed"
    os.kill(victims[-1], signal.SIGKILL)
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert "lost another rank" in errors[0] and "the same command goes on from the last saved state" in errors[0]
    assert f"exitcode  : {USER_ERROR_EXIT}" in errors[0].replace("exitcode: ", "exitcode  : ")
    assert not any(path.exists() for path in runs[0].outputs)
    assert runs[0].saved_updates() >= 2
    runs[0].finish(runs[0].params(tmp_path / "two.yaml", processes=2, updates=UPDATES))
    assert runs[0].bytes() == alone.bytes()
