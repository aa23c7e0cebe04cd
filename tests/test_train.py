"""The train stage as processes: outputs, errors, kills at any moment, one trainer at a time."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from repro.randomness import Stream

import polars as pl
import pytest
from safetensors import safe_open
from tiny_training import Training, write_captions, write_latents, write_params

PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def whole_run(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run of one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run = Training(training_inputs, folder / "run")
    result = run.run(write_params(folder / "params.yaml"))
    assert result.returncode == 0, result.stderr
    return run


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds or the process ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved_updates(run: Training) -> int:
    saved = sorted((run.folder / "state" / "train").glob("*/update-*.safetensors"))
    return int(saved[-1].stem.removeprefix("update-")) if saved else 0


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the trainer's other ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_outputs_are_a_lokr_a_history_and_metrics(whole_run: Training) -> None:
    lokr, history, metrics = whole_run.outputs
    with safe_open(lokr, framework="pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"ss_network_module": "lycoris.kohya"}
        moved = [name for name in names if name.endswith("lokr_w2") and file.get_tensor(name).abs().max() > 0]
    modules = {name.rsplit(".", 1)[0] for name in names}
    assert names == {f"{module}.{part}" for module in modules for part in ("lokr_w1", "lokr_w2", "alpha")}
    assert {module.split("_")[1] for module in modules} == {"unet", "te1", "te2"}
    assert len(moved) > 0.9 * len(modules), "training moved nearly every module"
    rows = pl.read_csv(history)
    assert rows.columns == ["update", "loss", "lr", "te_lr", "grad_norm"]
    assert rows["update"].to_list() == [0, 1, 2, 3, 4]
    assert rows["lr"].to_list() == [0.0, 0.0005, 0.001, 0.001, 0.001]
    assert rows["te_lr"].to_list() == [0.0, 0.00025, 0.0005, 0.0005, 0.0005]
    assert json.loads(metrics.read_text())["updates"] == 5


def test_a_finished_run_leaves_no_state(whole_run: Training) -> None:
    assert list((whole_run.folder / "state" / "train").iterdir()) == [whole_run.folder / "state" / "train" / "lock"]


def test_killed_on_two_processes_and_continued_on_one_gives_the_same_bytes(whole_run: Training, tmp_path: Path) -> None:
    run = Training(whole_run.inputs, tmp_path / "run")
    process = run.start(write_params(tmp_path / "two.yaml", processes=2))
    wait_for(lambda: saved_updates(run) >= 2, process)
    process.kill()
    process.communicate()
    assert not any(path.exists() for path in run.outputs)
    result = run.run(write_params(tmp_path / "one.yaml", processes=1))
    assert result.returncode == 0, result.stderr
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_writes_the_same_bytes(whole_run: Training, tmp_path: Path, processes: int) -> None:
    run = Training(whole_run.inputs, tmp_path / "run")
    result = run.run(write_params(tmp_path / "params.yaml", processes=processes))
    assert result.returncode == 0, result.stderr
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
def test_accelerate_launch_writes_the_same_bytes(whole_run: Training, tmp_path: Path) -> None:
    run = Training(whole_run.inputs, tmp_path / "run")
    run.folder.mkdir()
    _, *script = run.command(write_params(tmp_path / "params.yaml"))
    launch = [
        "accelerate",
        "launch",
        "--cpu",
        "--num_machines",
        "1",
        "--num_processes",
        "2",
        "--num_cpu_threads_per_process",
        "1",
    ]
    environment = run.environment(PATH=f"{Path(run.command(tmp_path)[0]).parent}:{os.environ['PATH']}", GLOO_SOCKET_IFNAME="lo")
    result = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0, result.stderr
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("taskset"), reason="taskset (util-linux) is not installed")
def test_one_core_writes_the_same_bytes(whole_run: Training, tmp_path: Path) -> None:
    run = Training(whole_run.inputs, tmp_path / "run")
    run.folder.mkdir()
    command = ["taskset", "-c", "0", *run.command(write_params(tmp_path / "params.yaml", processes=2))]
    subprocess.run(command, env=run.environment(), check=True, capture_output=True, timeout=2 * PATIENCE_SECONDS)
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("soak", range(3))
def test_kills_at_random_moments_do_not_change_a_byte(whole_run: Training, tmp_path: Path, soak: int) -> None:
    """Each time the trainer or one of its ranks is killed some moment after some update was saved."""
    draws = Stream(soak, "kill soak")
    run = Training(whole_run.inputs, tmp_path / "run")
    for kill in range(4):
        processes = draws.choice([1, 2, 4])
        process = run.start(write_params(tmp_path / f"{kill}.yaml", processes=processes))
        more = draws.below(3)
        before = saved_updates(run)
        wait_for(lambda until=before + more: saved_updates(run) >= until, process)
        time.sleep(draws.uniform() * 3)
        victims = [process.pid, *ranks_of(process)] if process.poll() is None else []
        for victim in victims[draws.below(len(victims)) :][:1] if victims else []:
            os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode in (0, 2, -signal.SIGKILL), errors
    result = run.run(write_params(tmp_path / "last.yaml"))
    assert result.returncode == 0, result.stderr
    assert run.bytes() == whole_run.bytes()


def test_a_loss_that_is_not_finite_stops_with_the_posts_id(training_inputs: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    write_latents(inputs / "latents", nan_post=1007)
    write_captions(inputs / "captions", inputs / "latents")
    (inputs / "base").symlink_to(training_inputs / "base")
    run = Training(inputs, tmp_path / "run")
    result = run.run(write_params(tmp_path / "params.yaml", processes=2))
    assert result.returncode == 2
    assert "the loss of post 1007 and 0 more is not finite" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not any(path.exists() for path in run.outputs)


def test_changed_latents_are_refused(training_inputs: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    shutil.copytree(training_inputs, inputs)
    shard = inputs / "latents" / "latents-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    result = Training(inputs, tmp_path / "run").run(write_params(tmp_path / "params.yaml"))
    assert result.returncode == 2
    assert "latents-00000.safetensors: missing, unexpected or changed" in result.stderr.splitlines()[-1]


def test_a_width_that_fits_no_tree_is_one_line(training_inputs: Path, tmp_path: Path) -> None:
    result = Training(training_inputs, tmp_path / "run").run(write_params(tmp_path / "params.yaml", processes=3))
    assert result.returncode == 2
    assert "must divide train.virtual_ranks (4): use 1, 2, 4" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_state_of_another_recipe_is_not_continued(whole_run: Training, tmp_path: Path) -> None:
    """The trap of a state folder that only knows the stage: a changed rate would go on from the old weights."""
    run = Training(whole_run.inputs, tmp_path / "run")
    process = run.start(write_params(tmp_path / "other.yaml", te_lr=0.0001))
    wait_for(lambda: saved_updates(run) >= 2, process)
    process.kill()
    process.communicate()
    result = run.run(write_params(tmp_path / "params.yaml"))
    assert result.returncode == 0, result.stderr
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
def test_a_second_trainer_is_refused_while_the_first_lives(training_inputs: Path, tmp_path: Path) -> None:
    run = Training(training_inputs, tmp_path / "run")
    params = write_params(tmp_path / "params.yaml")
    first = run.start(params)
    wait_for(lambda: saved_updates(run) >= 1, first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = run.run(params)
        assert second.returncode == 2
        assert "another train process is running here" in second.stderr.splitlines()[-1]
    finally:
        first.kill()
        first.communicate()
