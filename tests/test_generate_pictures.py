"""The generate stage as a user runs it: two small models, two characters."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.hashing import hash_tree
from repro.params import load_params
from repro.state import fingerprint

import pytest
import torch
import yaml
from live_processes import wait_until_gone
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_disks import tiny_file_system
from tiny_training import sample_values

from generate_pictures import determining_parts, forget_models, job_name, main
from generation.drawing import Model
from generation.picture_folder import PictureFolder
from generation.requests import PictureRequest

CHARACTERS = ("aoi", "mika_(lorelei)")
ENTRY = {"series": "lorelei", "gender_tag": "1girl", "artists": ["zoish"], "core_tags": ["long_hair"], "posts": [1]}
SMALL = {"pictures": 2, "steps": 2, "width": 32, "height": 48}
# Of each model: two modes with two pictures of each character, and one with a held-out artist.
PICTURES = 2 * (2 * 2 * len(CHARACTERS) + 1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with everything that the stage reads."""
    folder = tmp_path_factory.mktemp("generate")
    write_small_sdxl(folder / "base", 1)
    write_small_sdxl(folder / "merged", 2)
    references = {"characters": dict.fromkeys(CHARACTERS, ENTRY), "held_out": [["aoi", "johan_melin"]]}
    (folder / "references.json").write_text(json.dumps(references))
    values = sample_values()
    values["evaluate"]["generation"] |= SMALL
    values["runtime"]["processes"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


def arguments(inputs: Path, output: Path, *more: str, models: tuple[str, ...] = ("base", "merged")) -> list[str]:
    given = [word for name in models for word in ("--model", f"{name}={inputs / name}")]
    named = {"params": inputs / "params.yaml", "references": inputs / "references.json", "output": output}
    given += [word for name, value in named.items() for word in (f"--{name}", str(value))]
    return [*given, *more]


def command(inputs: Path, output: Path, *more: str, **models: tuple[str, ...]) -> list[str]:
    return [sys.executable, "stages/generate_pictures.py", *arguments(inputs, output, *more, **models)]


def state_of(output: Path) -> Path:
    return output.parent / f"state-{output.name}"


def generate(inputs: Path, output: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"STATE_ROOT": str(state_of(output))} | options.pop("environment", {})
    return subprocess.run(command(inputs, output, *more, **options), env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "pictures"
    run = generate(inputs, output)
    assert run.returncode == 0, run.stderr
    assert f"{PICTURES} pictures of 2 characters by base and merged" in run.stdout
    assert f"generate: {PICTURES}/{PICTURES} pictures" in run.stderr
    assert not list(state_of(output).rglob("*.png")), "state of a finished run is removed"
    return output


def test_every_model_has_drawn_every_request(finished: Path) -> None:
    folder = PictureFolder(finished)
    assert folder.models == ("base", "merged")
    own = {model: [p.request for p in folder.pictures if p.model == model] for model in folder.models}
    assert own["base"] == own["merged"] and len(own["base"]) == PICTURES // 2
    asked = [(r.character, r.mode, r.template, r.number) for r in own["base"] if r.character == "aoi"]
    assert asked == [
        ("aoi", "name", "plain", 0), ("aoi", "name", "smile", 1), ("aoi", "core_tags", "plain", 0),
        ("aoi", "core_tags", "smile", 1), ("aoi", "new_artist", "plain", 2),
    ]  # fmt: skip
    assert {folder.open(picture).size for picture in folder.pictures} == {(32, 48)}
    assert len({picture.sha256 for picture in folder.pictures}) == PICTURES


def test_a_run_killed_and_continued_by_another_number_of_processes_gives_the_same_bytes(
    inputs: Path, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "pictures"
    state = state_of(output)
    process = subprocess.Popen(command(inputs, output), env=os.environ | {"STATE_ROOT": str(state)}, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(state.rglob("[0-9a-f]*.png"))) < 3:
        time.sleep(0.01)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(workers)
    assert 3 <= len(list(state.rglob("[0-9a-f]*.png"))) < PICTURES and not output.exists()
    settings = {"PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    run = generate(inputs, output, "--set", "runtime.processes=1", environment=settings)
    assert run.returncode == 0, run.stderr
    assert hash_tree(output) == hash_tree(finished)


def test_machines_with_a_share_each_give_the_same_bytes(inputs: Path, finished: Path, tmp_path: Path) -> None:
    output, drawn = tmp_path / "pictures", []
    for share in ("1/2", "2/2"):
        place = tmp_path / f"machine {share[0]}"
        run = generate(inputs, place / "pictures", "--share", share, environment={"STATE_ROOT": str(place / "state")})
        assert run.returncode == 0, run.stderr
        assert f"generate: share {share[0]} of 2 is done, {PICTURES // 2} pieces" in run.stdout
        assert not (place / "pictures").exists()
        state = place / "state"
        drawn.append({path.relative_to(state) for path in state.rglob("[0-9a-f]*.png")})
        shutil.copytree(place / "state", state_of(output), dirs_exist_ok=True)
    assert not drawn[0] & drawn[1] and len(drawn[0] | drawn[1]) == PICTURES
    run = generate(inputs, output)
    assert run.returncode == 0, run.stderr
    assert hash_tree(output) == hash_tree(finished)


def cost_of(run: subprocess.CompletedProcess[str], log: Path) -> dict[str, Any]:
    """The last line of a run that went well."""
    assert run.returncode == 0, run.stderr
    return json.loads(log.read_text().splitlines()[-1])


def test_an_unfinished_run_goes_on_with_other_characters_and_another_second_model(
    inputs: Path, finished: Path, tmp_path: Path
) -> None:
    output, log, alone = tmp_path / "pictures", tmp_path / "cost.jsonl", ["--set", "runtime.processes=1"]
    shutil.copytree(inputs / "merged", tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(weights).items()}, weights)
    run = generate(inputs, output, *alone, "--model", f"broken={tmp_path / 'broken'}", models=("base",))
    assert run.returncode == 2 and "not finite" in run.stderr
    assert len(list(state_of(output).rglob("[0-9a-f]*.png"))) == PICTURES // 2
    (tmp_path / "others.json").write_text(json.dumps({"characters": dict.fromkeys((CHARACTERS[1], "rin"), ENTRY)}))
    more = [*alone, "--references", str(tmp_path / "others.json")]
    cost = cost_of(generate(inputs, output, *more, environment={"COST_LOG": str(log)}), log)
    assert cost["done"] == 12, "of 16 the base's pictures of one character were there"
    pictures = {(picture.model, picture.request): picture.sha256 for picture in PictureFolder(output).pictures}
    before = {(picture.model, picture.request): picture.sha256 for picture in PictureFolder(finished).pictures}
    assert len(pictures) == 16 and {request.character for _, request in pictures} == {CHARACTERS[1], "rin"}
    both = before.keys() & pictures.keys()
    assert len(both) == 8 and all(pictures[key] == before[key] for key in both)
    assert not list(state_of(output).rglob("*.png"))


def test_the_state_of_another_model_outlives_a_run(tmp_path: Path) -> None:
    models = [Model(name, "sdxl", Path(name), digest) for name, digest in (("base", "1"), ("merged", "2"))]
    for model in models:
        (tmp_path / "state" / model.digest).mkdir(parents=True)
    forget_models(tmp_path / "state", models[1:])
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["1"]
    forget_models(tmp_path / "state", models)
    assert not (tmp_path / "state").exists()


def test_the_processes_that_draw_are_told(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"characters": {"rin": ENTRY}}))
    fewer = [f"evaluate.generation.{setting}" for setting in ("modes=[name]", "pictures=1", "steps=1")]
    overrides = [word for setting in (*fewer, "runtime.processes=3") for word in ("--set", setting)]
    more, log = ["--references", str(tmp_path / "one.json"), *overrides], tmp_path / "cost.jsonl"
    run = generate(inputs, tmp_path / "pictures", *more, models=("base",), environment={"COST_LOG": str(log)})
    assert (cost := cost_of(run, log))["processes"] == 1 and cost["device"].startswith("1 process on ")


def test_one_model_alone_draws_what_it_drew_beside_another(inputs: Path, finished: Path, tmp_path: Path) -> None:
    fewer = ["--set", "evaluate.generation.modes=[core_tags]", "--set", "runtime.processes=1"]
    run = generate(inputs, tmp_path / "pictures", *fewer, models=("merged",))
    assert run.returncode == 0, run.stderr
    alone = {picture.request: picture.sha256 for picture in PictureFolder(tmp_path / "pictures").pictures}
    beside = {picture.request: picture.sha256 for picture in PictureFolder(finished).pictures if picture.model == "merged"}
    assert alone == {request: digest for request, digest in beside.items() if request.mode != "name"}


def refused_for_space(run: subprocess.CompletedProcess[str]) -> bool:
    """Whether it stopped with that one line."""
    lines = [line for line in run.stderr.splitlines() if not line.startswith("generate: ")]
    return run.returncode == 2 and len(lines) == 1 and "no space left on the device; free some and run again" in lines[0]


def test_a_full_disk_is_told_and_continued_from(inputs: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    with tiny_file_system(state_of(output), kilobytes=40):
        run = generate(inputs, output)
        assert refused_for_space(run), run.stderr
        assert not output.exists() and list(state_of(output).rglob("[0-9a-f]*.png"))
        assert not list(state_of(output).rglob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=4m", state_of(output)], check=True)
        assert generate(inputs, output, "--set", "runtime.processes=1").returncode == 0
        assert hash_tree(output) == hash_tree(finished)


def test_no_room_for_the_output_is_told(inputs: Path, tmp_path: Path) -> None:
    fewer = ["--set", "evaluate.generation.modes=[name]", "--set", "runtime.processes=1"]
    with tiny_file_system(tmp_path / "small", kilobytes=16) as small:
        environment = {"STATE_ROOT": str(tmp_path / "state")}
        run = generate(inputs, small / "pictures", *fewer, models=("base",), environment=environment)
        assert refused_for_space(run), run.stderr
        assert list(small.iterdir()) == []
        assert list((tmp_path / "state").rglob("[0-9a-f]*.png")), "the pictures are still there"


REFUSALS = {
    "--model third=nowhere": "the third model: nowhere: no model_index.json; expected a diffusers folder",
    "--model base": "--model base: write it as NAME=FOLDER",
    "--model ../x=models": "--model ../x=models: write it as NAME=FOLDER",
    "--model base=models": "--model base=models: the name base stands twice",
    "--set caption.profile=none": "there is no profile 'none'",
    "--set evaluate.generation.sampler=heun": "evaluate.generation.sampler",
    "--references nowhere.json": "nowhere.json: no such file",
    "--set filter.blocked_tags=[loli,shota,toddlercon,lorelei]": "the prompt of aoi (name) asks for 'lorelei'",
}


@pytest.mark.parametrize("words", REFUSALS)
def test_mistakes_are_named_before_any_work(inputs: Path, tmp_path: Path, words: str) -> None:
    with pytest.raises(StageError) as error:
        main(arguments(inputs, tmp_path / "pictures", *words.split()))
    assert REFUSALS[words] in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_more_processes_than_gpus_are_refused_before_any_work(inputs: Path, tmp_path: Path) -> None:
    more = torch.cuda.device_count() + 1
    with pytest.raises(StageError, match=f"device: cuda with runtime.processes {more}, but torch") as error:
        main(arguments(inputs, tmp_path / "pictures", "--set", "device=cuda", "--set", f"runtime.processes={more}"))
    assert len(str(error.value).splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_somebody_elses_folder_is_not_replaced(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StageError, match="choose another folder"):
        main(arguments(inputs, tmp_path))
    assert (tmp_path / "file").read_text() == "mine"


def test_what_determines_a_picture_names_the_state(inputs: Path) -> None:
    def state_name(*overrides: str) -> str:
        return fingerprint(**determining_parts(load_params(inputs / "params.yaml", list(overrides))))

    same = state_name()
    asked = ["modes=[name]", "templates={plain: solo}", "pictures=9", "artists=false", "rating=sensitive"]
    others = ["runtime.processes=7", "evaluate.bootstrap_samples=3", "lr=1"]
    assert {state_name(override) for override in [*others, *(f"evaluate.generation.{change}" for change in asked)]} == {same}
    changes = ["sampler=ddim", "steps=3", "precision=fp16", "guidance=5.5", "negative_prompt=bad", "original_width=4"]
    assert len({same, *(state_name(f"evaluate.generation.{change}") for change in changes)}) == 1 + len(changes)


def test_models_and_requests_name_the_job() -> None:
    request = PictureRequest("mika", "name", "plain", "", 0, "1girl, mika", 7)
    base = Model("base", "sdxl", Path("models/base"), "1")
    jobs = [
        ([base], [request]), ([replace(base, digest="2")], [request]), ([replace(base, name="merged")], [request]),
        ([base], [request, replace(request, number=1)]),
    ]  # fmt: skip
    assert len({job_name({"device": "cpu"}, models, requests) for models, requests in jobs}) == len(jobs)
    assert job_name({}, [replace(base, folder=Path("elsewhere"))], [request]) == job_name({}, [base], [request])
