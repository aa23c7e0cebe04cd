"""fetch_inputs.py as a process, against a hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_hub import COMMIT, TinyHub, serving

MODEL, DATASET = "someone/model", "datasets/someone/posts"
FILES = {
    MODEL: {"model.safetensors": b"weights" * 1000, "tokenizer/vocab.json": b"{}", "unet/config.json": b"[]"},
    DATASET: {"db/posts.db": b"rows" * 1000},
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[TinyHub]:
    with serving(TinyHub(FILES, large={"model.safetensors", "db/posts.db"})) as hub:
        yield hub


class Fetch:
    """Runs the script in a folder of its own, with the sample's parameters and these inputs."""

    def __init__(self, folder: Path, hub: TinyHub):
        self.folder = folder
        self.environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}

    def __call__(self, inputs: dict[str, Any]) -> subprocess.CompletedProcess:
        values = yaml.safe_load(Path("recipes/sample.yaml").read_text()) | {"inputs": inputs}
        (self.folder / "params.json").write_text(json.dumps(values))  # JSON is YAML
        command = [sys.executable, str(Path("stages/fetch_inputs.py").resolve()), "--params", "params.json"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=self.environment)

    def complaint(self, inputs: dict[str, Any]) -> str:
        result = self(inputs)
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
        return result.stderr


@pytest.fixture
def fetch(tmp_path: Path, hub: TinyHub) -> Fetch:
    return Fetch(tmp_path, hub)


def model(**changes: Any) -> dict[str, Any]:
    hub = {"repo": MODEL, "revision": COMMIT, "path": ""}
    files = {name: sha256(content) for name, content in FILES[MODEL].items()}
    return {"hub": hub, "files": files, "license": "mit", "about": None} | changes


def dataset(**changes: Any) -> dict[str, Any]:
    hub = {"kind": "dataset", "repo": "someone/posts", "revision": COMMIT, "path": "db"}
    return {"hub": hub, "files": {"posts.db": sha256(FILES[DATASET]["db/posts.db"])}, "license": "mit", "about": None} | changes


def test_models_and_data_sets_come_with_their_sub_folders_and_are_not_asked_for_again(fetch: Fetch, hub: TinyHub) -> None:
    inputs = {"models/published/one": model(), "data/posts": dataset()}
    first = fetch(inputs)
    assert first.returncode == 0, first.stderr
    for name, content in FILES[MODEL].items():
        assert (fetch.folder / "models/published/one" / name).read_bytes() == content
    assert (fetch.folder / "data/posts/posts.db").read_bytes() == FILES[DATASET]["db/posts.db"]
    asked = len(hub.requests)
    again = fetch(inputs)
    assert (again.returncode, len(hub.requests)) == (0, asked)
    assert again.stdout.count("already there") == 2


def test_a_revision_that_nobody_wrote_down_is_told_and_nothing_fetched(fetch: Fetch) -> None:
    told = fetch.complaint({"models/one": model(hub={"repo": MODEL, "revision": None, "path": ""})})
    assert f"inputs.models/one.hub.revision is not written down, so nothing was fetched. {MODEL} is at {COMMIT} now" in told
    assert not (fetch.folder / "models").exists()


def test_an_unknown_repository_without_a_revision_is_told(fetch: Fetch) -> None:
    told = fetch.complaint({"models/one": model(hub={"repo": "someone/else", "revision": None, "path": ""})})
    assert "inputs.models/one.hub.revision is not written down, nor can the newest be told" in told
    assert "no such repository, or keeps it private" in told


def test_a_sha256_that_nobody_wrote_down_is_told_and_the_other_inputs_come(fetch: Fetch) -> None:
    told = fetch.complaint({"models/one": model(files={"model.safetensors": None}), "data/posts": dataset()})
    assert f"  model.safetensors: {sha256(FILES[MODEL]['model.safetensors'])}" in told
    assert "inputs.models/one.files lacks model.safetensors, so nothing was written" in told
    assert not (fetch.folder / "models").exists()
    assert (fetch.folder / "data/posts/posts.db").is_file()


def test_a_file_that_is_not_the_named_one_is_refused(fetch: Fetch) -> None:
    told = fetch.complaint({"models/one": model(files={"model.safetensors": "0" * 64})})
    assert f"inputs.models/one.files expects {'0' * 64}" in told
    assert not (fetch.folder / "models").exists()


def test_files_of_ones_own_are_checked_without_the_network(fetch: Fetch, hub: TinyHub) -> None:
    (fetch.folder / "mine").mkdir()
    (fetch.folder / "mine/a.bin").write_bytes(b"a")
    (fetch.folder / "mine/b.bin").write_bytes(b"b")
    own = {"hub": None, "license": "mine", "about": "of my own"}
    result = fetch({"mine": own | {"files": {"a.bin": sha256(b"a"), "b.bin": None}}})
    assert result.returncode == 0, result.stderr
    assert "mine/a.bin: there, with the sha256" in result.stdout
    assert f"mine/b.bin: there; inputs.mine.files has no sha256 for it, and it is {sha256(b'b')}" in result.stdout
    assert "sha256 " + sha256(b"a") in fetch.complaint({"mine": own | {"files": {"a.bin": sha256(b"b")}}})
    assert "mine/c.bin: not there, and yours to bring (of my own)" in fetch.complaint({"mine": own | {"files": {"c.bin": None}}})
    assert "other: not there, and yours to bring" in fetch.complaint({"other": own | {"files": {}}})
    assert hub.requests == []


def test_a_name_that_leads_elsewhere_is_refused(fetch: Fetch) -> None:
    for inputs in ({"../mine": model()}, {"/mine": model()}, {"mine": model(files={"../a": None})}):
        assert "should match pattern" in fetch.complaint(inputs)


def test_a_recipe_without_inputs_says_so(fetch: Fetch) -> None:
    assert "nothing to fetch, inputs is empty" in fetch({}).stdout
