"""The train stage: outputs, errors, interruptions and kills at any moment, one trainer at a time, other widths."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repro.errors import USER_ERROR_EXIT, StageError, run_stage
from repro.hashing import check_manifest
from repro.params import load_params
from repro.randomness import Stream
from repro.state import INPUTS

import polars as pl
import pytest
from PIL import Image
from safetensors import safe_open
from tiny_disks import tiny_file_system
from tiny_training import SMALL_TRAIN, Training, write_captions, write_latents, write_params

import train
from training.ranks import Ranks

PATIENCE_SECONDS = 300
KILLS = 20


def run_here(run: Training, params: Path, *more: str) -> Training:
    """The whole stage in this process."""
    run.folder.mkdir(parents=True, exist_ok=True)
    train.main(run.arguments(params, *more))
    return run


def own_state(run: Training) -> Path:
    """A state folder that is named on the command line, beside those that are not."""
    return run.folder / "state" / "train" / "own"


@pytest.fixture(scope="module", autouse=True)
def cost_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of what these runs cost."""
    with pytest.MonkeyPatch.context() as patch:
        log = tmp_path_factory.mktemp("cost") / "cost.jsonl"
        patch.setenv("COST_LOG", str(log))
        yield log


def costs(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def undisturbed(inputs: Path, folder: Path) -> Training:
    run = Training(inputs, folder / "run")
    return run_here(run, run.params(folder / "params.yaml"), "--state", str(own_state(run)))


@pytest.fixture(scope="module")
def whole_run(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run of one process that nobody disturbed."""
    return undisturbed(training_inputs, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def cascade_run(cascade_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """As `whole_run`, of Stable Cascade."""
    return undisturbed(cascade_inputs, tmp_path_factory.mktemp("whole-cascade"))


@pytest.fixture(params=["sdxl", "cascade"])
def any_run(request: pytest.FixtureRequest) -> Training:
    """The undisturbed run of each family in turn."""
    return request.getfixturevalue({"sdxl": "whole_run", "cascade": "cascade_run"}[request.param])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], pause: float = 0.01) -> None:
    """Wait until the condition holds or the process ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(pause)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the trainer's other ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def events(folder: Path) -> dict[str, list[int]]:
    """{name: [update, ...]} of TensorBoard's files in the only folder below `folder`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.iterdir()
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {name: [event.step for event in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]}


def test_the_lokr_has_lycoris_names_and_was_trained(whole_run: Training) -> None:
    with safe_open(whole_run.lokr, framework="pt") as file:
        names = set(file.keys())
        assert file.metadata()["ss_network_module"] == "lycoris.kohya"
        moved = [name for name in names if name.endswith("lokr_w2") and file.get_tensor(name).abs().max() > 0]
    modules = {name.rsplit(".", 1)[0] for name in names}
    assert names == {f"{module}.{part}" for module in modules for part in ("lokr_w1", "lokr_w2", "alpha")}
    assert {module.split("_")[1] for module in modules} == {"unet", "te1", "te2"}
    assert len(moved) > 0.9 * len(modules), "training moved nearly every module"


def test_a_lokr_of_stable_cascade_has_comfyuis_names_and_was_trained(cascade_run: Training) -> None:
    with safe_open(cascade_run.lokr, framework="pt") as file:
        names = set(file.keys())
        moved = [name for name in names if name.endswith("lokr_w2") and file.get_tensor(name).abs().max() > 0]
    modules = {name.rsplit(".", 1)[0] for name in names}
    assert names == {f"{module}.{part}" for module in modules for part in ("lokr_w1", "lokr_w2", "alpha")}
    assert {"_".join(module.split("_")[:3]) for module in modules} == {"lora_prior_unet", "lora_prior_te"}
    assert len(moved) > 0.9 * len(modules)
    assert (cascade_run.checkpoints / "update-00000005.safetensors").read_bytes() == cascade_run.lokr.read_bytes()
    with Image.open(cascade_run.pictures / "sheet.png") as sheet:
        assert sheet.size == (2 * 64 + 4, 2 * 64 + 4)


def test_history_and_metrics_tell_of_every_update(whole_run: Training) -> None:
    rows = pl.read_csv(whole_run.history)
    assert rows.columns == ["update", "loss", "lr", "te_lr", "grad_norm"]
    assert rows["update"].to_list() == [0, 1, 2, 3, 4]
    assert rows["lr"].to_list() == [0.0, 0.0005, 0.001, 0.001, 0.001]
    assert rows["te_lr"].to_list() == [0.0, 0.00025, 0.0005, 0.0005, 0.0005]
    metrics = json.loads(whole_run.metrics.read_text())
    assert (metrics["updates"], metrics["skipped_updates"]) == (5, 0)
    assert metrics["loss_first_tenth"] == pytest.approx(rows["loss"][0], abs=1e-6)
    assert metrics["loss_last_tenth"] == pytest.approx(rows["loss"][4], abs=1e-6)
    with safe_open(whole_run.lokr, framework="pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys() if "lokr" in name)  # noqa: SIM118 - safe_open
    assert metrics["trained_numbers"] == numbers


def test_checkpoints_are_those_of_the_rule_and_the_last_is_the_lokr(whole_run: Training) -> None:
    files = [f"update-{update:08d}.safetensors" for update in (2, 4, 5)]
    assert list(check_manifest(whole_run.checkpoints)["files"]) == files
    contents = [(whole_run.checkpoints / file).read_bytes() for file in files]
    assert contents[2] == whole_run.lokr.read_bytes()
    assert len(set(contents)) == 3


def test_pictures_change_as_training_goes_on(whole_run: Training) -> None:
    names = [f"update-{update:08d}-{prompt:02d}.png" for update in (0, 3) for prompt in (0, 1)]
    assert list(check_manifest(whole_run.pictures)["files"]) == ["sheet.png", *names]
    pixels = set()
    for name in names:
        with Image.open(whole_run.pictures / name) as picture:
            assert picture.size == (32, 48)
            pixels.add(picture.tobytes())
    assert len(pixels) == 4
    with Image.open(whole_run.pictures / "sheet.png") as sheet:
        assert sheet.size == (2 * 32 + 4, 2 * 48 + 4)


def test_the_cost_of_a_run_is_logged_and_in_no_output(whole_run: Training, cost_log: Path) -> None:
    lines = costs(cost_log)
    first = [line for line in lines if line["run"] == lines[0]["run"]]
    assert [line["done"] for line in first] == [1, 2, 3, 4, 5, 5]
    end = first[-1]
    assert (end["stage"], end["recipe"], end["unit"], end["processes"]) == ("train", "sample", "updates", 1)
    assert end["cpu_s"] > 0 and end["wall_s"] > 0
    assert not any(word in data for data in whole_run.bytes().values() for word in (end["run"].encode(), end["device"].encode()))


def test_a_log_that_cannot_be_written_is_told_once_and_changes_no_byte(
    whole_run: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("COST_LOG", str(tmp_path / "file" / "cost.jsonl"))
    run = Training(whole_run.inputs, tmp_path / "run")
    run_here(run, write_params(tmp_path / "params.yaml"), "--state", str(own_state(run)))
    assert run.bytes() == whole_run.bytes()
    assert sum("cannot write what this run costs" in line for line in capfd.readouterr().err.splitlines()) == 1


def test_a_finished_run_leaves_no_state(whole_run: Training) -> None:
    assert list((whole_run.folder / "state" / "train").iterdir()) == []


def test_killed_on_two_processes_and_continued_on_one_gives_the_same_bytes(any_run: Training, tmp_path: Path) -> None:
    """Also the curves for TensorBoard, which are no output, have every update once; and the cost of the killed run is known."""
    run, curves = Training(any_run.inputs, tmp_path / "run"), {"tensorboard": str(tmp_path / "curves")}
    log = tmp_path / "cost.jsonl"
    process = run.start(run.params(tmp_path / "two.yaml", processes=2, runtime=curves), COST_LOG=str(log))
    wait_for(lambda: run.saved_updates() >= 2, process)
    process.kill()
    process.communicate()
    assert not any(path.exists() for path in run.outputs)
    run.finish(run.params(tmp_path / "one.yaml", processes=1, runtime=curves), COST_LOG=str(log))
    assert run.bytes() == any_run.bytes()
    killed, continued = {line["run"]: line for line in costs(log)}.values()
    # A state is saved before its line is written.
    assert (killed["processes"], continued["processes"]) == (2, 1) and killed["job"] == continued["job"]
    assert 4 <= killed["done"] + continued["done"] <= 5 and killed["done"] >= 1
    steps = events(tmp_path / "curves")
    assert sorted(steps) == ["gradient norm", "loss", "rate/text", "rate/unet"]
    assert all(updates == [0, 1, 2, 3, 4] for updates in steps.values())
    assert [path.name for path in (run.folder / "state" / "train").iterdir()] == ["lock"]


def stop(run: Training, params: Path, number: signal.Signals, updates: int) -> tuple[int, list[str]]:
    """Start the run and, once so many updates are saved, send its process group a signal, as a terminal does; returns its
    exit code and what it said."""
    process = run.start(params, "--state", str(own_state(run)))
    wait_for(lambda: run.saved_updates() >= updates, process)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, errors.splitlines()


def stopped_and_continued(run: Training, folder: Path, number: signal.Signals, processes: int) -> tuple[int, list[str]]:
    params = run.params(folder / f"{processes}.yaml", processes)
    code, said = stop(run, params, number, updates=2)
    saved = run.saved_updates()
    assert 2 <= saved < 5
    assert not any(path.exists() for path in run.outputs)
    assert [line for line in said if "state saved" in line] == [f"train: state saved after {saved} updates"]
    assert not [line for line in said if "Traceback" in line]
    run_here(run, params if processes == 1 else run.params(folder / "one.yaml"), "--state", str(own_state(run)))
    return code, said


def test_ctrl_c_on_two_processes_saves_and_the_same_bytes_follow(whole_run: Training, tmp_path: Path) -> None:
    run = Training(whole_run.inputs, tmp_path / "run")
    code, said = stopped_and_continued(run, tmp_path, signal.SIGINT, processes=2)
    assert code == 130
    assert "train: stopping, the update under way is left out; Ctrl-C again stops at once" in said
    assert said[-1] == "train.py: interrupted; the same command goes on from here"
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
def test_ctrl_c_on_one_process_saves_and_the_same_bytes_follow(any_run: Training, tmp_path: Path) -> None:
    run = Training(any_run.inputs, tmp_path / "run")
    code, _ = stopped_and_continued(run, tmp_path, signal.SIGINT, processes=1)
    assert code == 130
    assert run.bytes() == any_run.bytes()


def test_sigterm_in_the_middle_of_an_update_saves_what_was_before_it(any_run: Training, tmp_path: Path) -> None:
    """In this process, so that the signal comes at whatever instruction it is at."""
    run = Training(any_run.inputs, tmp_path / "run")
    params = run.params(tmp_path / "params.yaml")

    def terminate() -> None:
        while run.saved_updates() < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=terminate, daemon=True)
    sender.start()
    with pytest.raises(SystemExit) as ended:
        run_here(run, params, "--state", str(own_state(run)))
    assert ended.value.code == 128 + signal.SIGTERM
    assert 2 <= run.saved_updates() < 5
    assert not any(path.exists() for path in run.outputs)
    run_here(run, params, "--state", str(own_state(run)))
    assert run.bytes() == any_run.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_the_same_bytes_follow(whole_run: Training, tmp_path: Path, processes: int) -> None:
    run = Training(whole_run.inputs, tmp_path / "run")
    code, said = stopped_and_continued(run, tmp_path, signal.SIGTERM, processes)
    assert code == 128 + signal.SIGTERM
    assert said[-1] == "train: stopped; the same command goes on from here"
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_ctrl_c_ends_it_too_and_the_same_bytes_follow(whole_run: Training, tmp_path: Path, processes: int) -> None:
    """At whatever moment it comes: in an update, or while the state is saved."""
    run = Training(whole_run.inputs, tmp_path / "run")
    process = run.start(write_params(tmp_path / "params.yaml", processes), "--state", str(own_state(run)))
    wait_for(lambda: run.saved_updates() >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    said = []
    while not any("Ctrl-C again stops at once" in line for line in said):
        said.append(process.stderr.readline())
        assert said[-1], said
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "train.py: interrupted; the same command goes on from here"
    run_here(run, write_params(tmp_path / "one.yaml"), "--state", str(own_state(run)))
    assert run.bytes() == whole_run.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_ranks_are_starting_is_a_stop_too(training_inputs: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = Training(training_inputs, tmp_path / "run")
    process = run.start(write_params(tmp_path / "params.yaml", processes=2))
    wait_for(lambda: bool(ranks_of(process)), process)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_writes_the_same_bytes(any_run: Training, tmp_path: Path, processes: int) -> None:
    run = Training(any_run.inputs, tmp_path / "run")
    run.finish(run.params(tmp_path / "params.yaml", processes=processes))
    assert run.bytes() == any_run.bytes()


@pytest.mark.slow
def test_accelerate_launch_writes_the_same_bytes(any_run: Training, tmp_path: Path) -> None:
    run = Training(any_run.inputs, tmp_path / "run")
    run.folder.mkdir()
    _, *script = run.command(run.params(tmp_path / "params.yaml"))
    launch = [
        "accelerate", "launch", "--cpu", "--num_machines", "1", "--num_processes", "2", "--num_cpu_threads_per_process", "1"
    ]  # fmt: skip
    environment = run.environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", GLOO_SOCKET_IFNAME="lo")
    result = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0, result.stderr
    assert run.bytes() == any_run.bytes()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def machines(runs: list[tuple[Training, list[str]]], params: Path) -> list[subprocess.Popen[str]]:
    """One process on each of several machines, as torchrun starts them."""
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(runs)), "LOCAL_RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo", "LOCAL_WORLD_SIZE": "1",
    }  # fmt: skip
    return [run.start(params, *more, **common, RANK=str(rank)) for rank, (run, more) in enumerate(runs)]


@pytest.mark.slow
def test_two_machines_write_the_same_bytes_on_the_first(any_run: Training, tmp_path: Path) -> None:
    """They share no folder: the second one's inputs are copies, and it writes nothing."""
    shutil.copytree(any_run.inputs, tmp_path / "copies", symlinks=False)
    runs = [Training(any_run.inputs, tmp_path / "first"), Training(tmp_path / "copies", tmp_path / "second")]
    processes = machines([(run, []) for run in runs], runs[0].params(tmp_path / "params.yaml"))
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert runs[0].bytes() == any_run.bytes()
    assert list(runs[1].folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("differs", ["parameter", "captions"])
def test_machines_that_were_given_other_things_are_refused(training_inputs: Path, tmp_path: Path, differs: str) -> None:
    inputs = tmp_path / "inputs"
    shutil.copytree(training_inputs, inputs)
    more: list[str] = ["--set", "te_lr=0.0001"] if differs == "parameter" else []
    if differs == "captions":
        shutil.rmtree(inputs / "captions")
        write_captions(inputs / "captions", inputs / "latents", repeats={1007: 2})
    runs = [(Training(training_inputs, tmp_path / "first"), []), (Training(inputs, tmp_path / "second"), more)]
    for process in machines(runs, write_params(tmp_path / "params.yaml")):
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == USER_ERROR_EXIT
        assert "rank 1 has other inputs, parameters, packages or code than rank 0; make them the same" in errors
        assert "Traceback" not in errors
    assert not any(path.exists() for path in runs[0][0].outputs)


def test_one_rank_agrees_with_itself() -> None:
    train.refuse_differing_machines("some fingerprint", Ranks(0, 1))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("taskset"), reason="taskset (util-linux) is not installed")
def test_one_core_writes_the_same_bytes(any_run: Training, tmp_path: Path) -> None:
    run = Training(any_run.inputs, tmp_path / "run")
    run.folder.mkdir()
    command = ["taskset", "-c", "0", *run.command(run.params(tmp_path / "params.yaml", processes=2))]
    subprocess.run(command, env=run.environment(), check=True, capture_output=True, timeout=2 * PATIENCE_SECONDS)
    assert run.bytes() == any_run.bytes()


LONG = SMALL_TRAIN | {
    "updates": 30,
    "checkpoints": {"every": 4, "keep_last": 2, "keep_every": 12},
    "pictures": SMALL_TRAIN["pictures"] | {"every": 10},
}


@pytest.fixture(scope="module")
def long_run(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    folder = tmp_path_factory.mktemp("long")
    run = Training(training_inputs, folder / "run")
    return run_here(run, write_params(folder / "params.yaml", **LONG), "--state", str(own_state(run)))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_do_not_change_a_byte(long_run: Training, tmp_path: Path) -> None:
    """Each time the trainer or one of its ranks is killed some moment after some update was saved, and goes on in another
    number of processes. A run that is through before the last kill is compared, and another one begun."""
    draws, kills, runs = Stream(1, "kill soak"), 0, 0
    run = Training(long_run.inputs, tmp_path / "run-0")
    while kills < KILLS:
        process = run.start(write_params(tmp_path / "params.yaml", processes=draws.choice([1, 2, 4]), **LONG))
        until = run.saved_updates() + draws.below(3)
        wait_for(lambda run=run, until=until: run.saved_updates() >= until, process)
        time.sleep(draws.uniform() * 4)
        victims = [process.pid, *ranks_of(process)] if process.poll() is None else []
        if victims:
            os.kill(draws.choice(victims), signal.SIGKILL)
            kills += 1
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode in (0, USER_ERROR_EXIT, -signal.SIGKILL), errors
        if process.returncode == 0:
            assert run.bytes() == long_run.bytes()
            runs += 1
            run = Training(long_run.inputs, tmp_path / f"run-{runs}")
    run.finish(write_params(tmp_path / "last.yaml", processes=2, **LONG))
    assert run.bytes() == long_run.bytes()


@pytest.mark.slow
def test_a_kill_while_the_state_is_written_does_not_change_a_byte(whole_run: Training, tmp_path: Path) -> None:
    """The trainer is stopped as soon as an unfinished state is seen and killed if it still is one."""
    params = write_params(tmp_path / "params.yaml")
    for attempt in range(10):
        run = Training(whole_run.inputs, tmp_path / f"run-{attempt}")
        process = run.start(params, "--state", str(own_state(run)))
        caught: list[Path] = []

        def is_writing(run: Training = run, process: subprocess.Popen[str] = process, caught: list[Path] = caught) -> bool:
            if run.saved_updates() and list(own_state(run).glob(".update-*.partial")):
                process.send_signal(signal.SIGSTOP)
                caught[:] = own_state(run).glob(".update-*.partial")
                if not caught:
                    process.send_signal(signal.SIGCONT)
            return bool(caught)

        wait_for(is_writing, process, pause=0)
        process.kill()
        process.communicate()
        if caught:
            assert run.saved_updates() > 0
            run_here(run, params, "--state", str(own_state(run)))
            assert run.bytes() == whole_run.bytes()
            return
    pytest.fail("ten runs, and no unfinished state was ever seen")


def test_a_full_disk_keeps_the_last_state_and_more_space_continues_it(
    whole_run: Training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Room for two states and a part of the third, which is written before the first one goes."""
    run, bare = Training(whole_run.inputs, tmp_path / "run"), {"checkpoints": None, "pictures": None}
    params = write_params(tmp_path / "params.yaml", **bare)
    with tiny_file_system(tmp_path / "disk", kilobytes=16_000) as disk:
        arguments = run.arguments(params, "--state", str(disk / "state"))
        run.folder.mkdir()
        with pytest.raises(SystemExit) as ended:
            run_stage(train.main, arguments)
        assert ended.value.code == USER_ERROR_EXIT
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "images/s" not in line]
        assert "no space left on the device" in line and "update-00000003.safetensors" in line
        saved = sorted(file.name for file in (disk / "state").glob("*update-*"))
        assert saved == ["update-00000001.safetensors", "update-00000002.safetensors"]
        assert not any(path.exists() for path in run.outputs)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        run_here(run, params, "--state", str(disk / "state"))
    assert run.lokr.read_bytes() == whole_run.lokr.read_bytes(), "pictures and checkpoints change no byte either"
    assert run.history.read_bytes() == whole_run.history.read_bytes()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_on_two_processes_with_the_posts_id(training_inputs: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "base").symlink_to(training_inputs / "base")
    write_latents(inputs / "latents", inputs / "base", nan_post=1007)
    write_captions(inputs / "captions", inputs / "latents")
    run = Training(inputs, tmp_path / "run")
    result = run.run(write_params(tmp_path / "params.yaml", processes=2))
    assert result.returncode == USER_ERROR_EXIT
    assert "the loss of post 1007 is not finite" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not any(path.exists() for path in run.outputs)


@pytest.mark.slow
def test_skipped_updates_are_in_the_history_without_a_norm(training_inputs: Path, tmp_path: Path) -> None:
    run = Training(training_inputs, tmp_path / "run")
    single = {"virtual_ranks": 1, "batch_size": 1, "micro_batch_size": 1}
    settings = single | {"precision": "fp16", "noise_offset": 150.0, "updates": 6, "checkpoints": None, "pictures": None}
    run_here(run, write_params(tmp_path / "params.yaml", **settings), "--state", str(own_state(run)))
    rows = list(csv.DictReader(run.history.read_text().splitlines()))
    norms = [row["grad_norm"] for row in rows]
    skipped = norms.count("")
    assert norms[0] == "" and 0 < skipped < 6
    assert json.loads(run.metrics.read_text())["skipped_updates"] == skipped


def test_changed_latents_are_refused(training_inputs: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    shutil.copytree(training_inputs, inputs)
    shard = inputs / "latents" / "latents-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    run = Training(inputs, tmp_path / "run")
    with pytest.raises(StageError, match=r"latents-00000\.safetensors: missing, unexpected or changed"):
        run_here(run, write_params(tmp_path / "params.yaml"), "--state", str(own_state(run)))


def test_a_model_of_another_family_is_refused(training_inputs: Path, tmp_path: Path) -> None:
    words = r"base/model_index\.json: a StableDiffusionXLPipeline, but family is cascade"
    params = write_params(tmp_path / "params.yaml", family="cascade")
    run = Training(training_inputs, tmp_path / "run")
    with pytest.raises(StageError, match=words):
        run_here(run, params)
    with pytest.raises(StageError, match=words):
        run_here(run, params, "--dry-run")
    assert not any(path.exists() for path in run.outputs)


def test_latents_of_another_vae_are_refused(training_inputs: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    shutil.copytree(training_inputs, inputs)
    vae = inputs / "base" / "vae" / "config.json"
    vae.write_text(vae.read_text() + "\n")
    run = Training(inputs, tmp_path / "run")
    refused = r"latents: encoded by the VAE or image encoder [0-9a-f]{12}, but .*base/vae is [0-9a-f]{12}"
    with pytest.raises(StageError, match=refused):
        run_here(run, write_params(tmp_path / "params.yaml"), "--state", str(own_state(run)))


@pytest.mark.slow
def test_a_width_that_fits_no_tree_is_one_line(training_inputs: Path, tmp_path: Path) -> None:
    result = Training(training_inputs, tmp_path / "run").run(write_params(tmp_path / "params.yaml", processes=3))
    assert result.returncode == USER_ERROR_EXIT
    assert "must divide train.virtual_ranks (4): use 1, 2, 4" in result.stderr.splitlines()[-1]


def begin(run: Training, params: Path) -> Path:
    """The state folder of a run as it is after the first moment."""
    with train.stage_state("train", parts_of(run, params), own_state(run)) as state:
        return state


def parts_of(run: Training, params: Path) -> dict:
    inputs = run.inputs
    return train.determining_parts(load_params(params), inputs / "latents", inputs / "captions", inputs / "base")


def refusal(run: Training, params: Path) -> str:
    with pytest.raises(StageError, match="holds the state of another run") as caught:
        run_here(run, params, "--state", str(own_state(run)))
    assert not any(path.exists() for path in run.outputs)
    return str(caught.value)


def test_a_named_state_of_another_recipe_is_refused_with_what_differs(training_inputs: Path, tmp_path: Path) -> None:
    run = Training(training_inputs, tmp_path / "run")
    begin(run, write_params(tmp_path / "a.yaml", te_lr=0.0001, updates=7))
    text = refusal(run, write_params(tmp_path / "b.yaml"))
    assert "which differs in te_lr: 0.0001 there, 0.0005 here; train.updates: 7 there, 5 here; continue that one" in text


def test_a_named_state_of_other_data_or_code_is_refused_with_what_differs(training_inputs: Path, tmp_path: Path) -> None:
    run = Training(training_inputs, tmp_path / "run")
    params = write_params(tmp_path / "params.yaml")
    inputs = begin(run, params) / INPUTS
    parts = json.loads(inputs.read_text())
    for name, change in {
        "captions.content": {"captions": parts["captions"] | {"content": "other"}},
        "code": {"code": "0" * 64},
        "packages.torch": {"packages": parts["packages"] | {"torch": "2.9.0"}},
        "base.unet/config.json": {"base": parts["base"] | {"unet/config.json": "0" * 64}},
    }.items():
        inputs.write_text(json.dumps(parts | change))
        assert f"which differs in {name}; continue" in refusal(run, params)


def test_what_must_not_change_a_byte_does_not_determine_a_run(training_inputs: Path, tmp_path: Path) -> None:
    run = Training(training_inputs, tmp_path / "run")
    runtime = {"gradient_checkpointing": True, "text_cache_megabytes": 1, "tensorboard": "elsewhere", "image_root": "nowhere"}
    one, other = write_params(tmp_path / "a.yaml"), write_params(tmp_path / "b.yaml", processes=4, runtime=runtime)
    assert parts_of(run, one) == parts_of(run, other)
    assert parts_of(run, one) != parts_of(run, write_params(tmp_path / "c.yaml", save_every=2))


@pytest.mark.slow
def test_the_state_of_another_recipe_is_left_alone_and_named(whole_run: Training, tmp_path: Path) -> None:
    """The trap of a state folder that only knows the stage: a changed rate would go on from the old weights."""
    run = Training(whole_run.inputs, tmp_path / "run")
    other = write_params(tmp_path / "other.yaml", te_lr=0.0001)
    process = run.start(other)
    wait_for(lambda: run.saved_updates() >= 2, process)
    process.kill()
    process.communicate()
    (left,) = [path for path in (run.folder / "state" / "train").iterdir() if path.is_dir()]
    result = run.run(write_params(tmp_path / "params.yaml"))
    assert result.returncode == 0, result.stderr
    said = f"{left}: the state of another run, which differs in te_lr: 0.0001 there, 0.0005 here; beginning anew"
    assert result.stderr.splitlines()[0] == said
    assert run.bytes() == whole_run.bytes()
    assert list(left.glob("update-*")), "it can still be continued"


@pytest.mark.slow
def test_a_second_trainer_is_refused_while_the_first_lives(training_inputs: Path, tmp_path: Path) -> None:
    run = Training(training_inputs, tmp_path / "run")
    params = write_params(tmp_path / "params.yaml")
    first = run.start(params)
    wait_for(lambda: run.saved_updates() >= 1, first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = run.run(params)
        assert second.returncode == USER_ERROR_EXIT
        assert "another train process is running here" in second.stderr.splitlines()[-1]
    finally:
        first.kill()
        first.communicate()


def test_a_dry_run_tells_what_the_run_then_reports(
    whole_run: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It asks for no outputs, and makes nothing."""
    names = ("latents", "captions", "base")
    inputs = [word for name in names for word in (f"--{name}", str(whole_run.inputs / name))]
    before = sorted(tmp_path.rglob("*"))
    params = write_params(tmp_path / "params.yaml")
    train.main(["--params", str(params), *inputs, "--dry-run"])
    text = capsys.readouterr().out
    metrics = json.loads(whole_run.metrics.read_text())
    assert f"trains      {metrics['trained_numbers']:,} numbers of a LoKr on text_encoder and text_encoder_2 and unet;" in text
    with safe_open(whole_run.lokr, framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - safe_open is no mapping
    assert f"its file has {sum(t.numel() * t.element_size() for t in tensors) / 1e6:,.1f} MB (fp32)" in text
    assert "images      19, shown 19 times in an epoch, in 2 buckets" in text
    assert "steps       3 updates an epoch, 5 in all (1.67 epochs); constant, warm-up 2 updates" in text
    assert sorted(tmp_path.rglob("*")) == sorted([*before, params])


def test_outputs_must_be_named_unless_it_is_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["--latents", "a", "--captions", "b", "--base", "c"])
    assert ended.value.code == 2
    assert "--output, --checkpoints, --pictures, --history, --metrics" in capsys.readouterr().err
