"""fetch_ccip.py as a process, against a hub on this machine that holds the golden encoder."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_booru import folder_bytes
from tiny_hub import COMMIT, TinyHub, serving

REPO = "deepghs/ccip_onnx"
FILES = ("model_feat.onnx", "model_metrics.onnx", "metrics.json")

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def encoders(golden: Path) -> dict[str, bytes]:
    """{path in the repository: bytes}."""
    return folder_bytes(golden / "evaluate" / "ccip" / "hub" / REPO)


@pytest.fixture
def hub(encoders: dict[str, bytes]) -> Iterator[TinyHub]:
    with serving(TinyHub({REPO: encoders}, large={path for path in encoders if path.endswith("model_feat.onnx")})) as hub:
        yield hub


@pytest.fixture(scope="module")
def path(encoders: dict[str, bytes]) -> str:
    """The path of the one encoder that is whole."""
    return next(file.rpartition("/")[0] for file in encoders if file.endswith("model_feat.onnx"))


@pytest.fixture(scope="module")
def sha256(encoders: dict[str, bytes], path: str) -> dict[str, str]:
    return {name: hashlib.sha256(encoders[f"{path}/{name}"]).hexdigest() for name in FILES}


class Fetch:
    """Runs the script for a folder, with a cache of its own."""

    def __init__(self, hub: TinyHub, folder: Path, path: str, home: Path):
        self.folder = folder
        self._source = {"repo": REPO, "revision": COMMIT, "path": path}
        # The tests' own process has the hub off, since it imports `repro`.
        self._environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}

    def __call__(self, sha256: dict[str, str], **source: str) -> subprocess.CompletedProcess:
        return self.local(f"evaluate.ccip.hub={json.dumps(self._source | source)}", f"evaluate.ccip.sha256={json.dumps(sha256)}")

    def local(self, *settings: str) -> subprocess.CompletedProcess:
        overrides = [word for setting in (f"evaluate.ccip.folder={self.folder}", *settings) for word in ("--set", setting)]
        command = [sys.executable, "stages/fetch_ccip.py", "--params", "recipes/sample.yaml", *overrides]
        return subprocess.run(command, capture_output=True, text=True, env=self._environment)


@pytest.fixture
def fetch(hub: TinyHub, path: str, tmp_path: Path) -> Fetch:
    return Fetch(hub, tmp_path / "ccip", path, tmp_path / "home")


def complaint(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result.stderr[result.stderr.index("fetch_ccip.py: ") :].removeprefix("fetch_ccip.py: ").strip()


def test_the_encoder_comes_whole_and_is_not_asked_for_again(
    fetch: Fetch, hub: TinyHub, encoders: dict[str, bytes], path: str, sha256: dict[str, str]
) -> None:
    result = fetch(sha256)
    assert result.returncode == 0, result.stderr
    assert folder_bytes(fetch.folder) == {name: encoders[f"{path}/{name}"] for name in FILES}
    assert not any(file.is_symlink() for file in fetch.folder.iterdir())
    hub.requests.clear()
    again = fetch(sha256)
    assert (again.returncode, again.stdout) == (0, f"{fetch.folder}: already there, with the sha256 of evaluate.ccip.sha256\n")
    assert hub.requests == []
    assert fetch.local().returncode == 0


def test_a_further_file_comes_where_the_parameters_name_it(fetch: Fetch, hub: TinyHub, path: str, sha256: dict[str, str]) -> None:
    hub.files = {REPO: hub.files[REPO] | {f"{path}/cluster.json": b"{}"}}
    assert fetch(sha256 | {"cluster.json": hashlib.sha256(b"{}").hexdigest()}).returncode == 0
    assert (fetch.folder / "cluster.json").read_bytes() == b"{}"


def test_a_sha256_that_is_not_in_the_parameters_is_told_and_nothing_written(fetch: Fetch, sha256: dict[str, str]) -> None:
    text = complaint(fetch({name: digest for name, digest in sha256.items() if name != "metrics.json"}))
    assert text.startswith("evaluate.ccip.sha256 lacks metrics.json, so nothing was written.")
    assert REPO in text
    assert COMMIT in text
    assert not fetch.folder.exists()


@pytest.mark.parametrize("name", FILES)
def test_another_sha256_is_refused_and_nothing_written(fetch: Fetch, sha256: dict[str, str], path: str, name: str) -> None:
    text = complaint(fetch(sha256 | {name: "0" * 64}))
    assert text.startswith(f"{REPO} at {COMMIT}: {path}/{name}: sha256 {sha256[name]}, but evaluate.ccip.sha256 expects 000")
    assert not fetch.folder.exists()


def test_an_encoder_that_lacks_a_file_is_refused_and_nothing_written(
    fetch: Fetch, hub: TinyHub, path: str, sha256: dict[str, str]
) -> None:
    hub.files = {REPO: {file: content for file, content in hub.files[REPO].items() if file != f"{path}/metrics.json"}}
    assert f"{path}/metrics.json: {hub.endpoint} has no such file at this revision" in complaint(fetch(sha256))
    assert not fetch.folder.exists()


def test_a_folder_that_is_not_right_is_told_and_not_replaced(fetch: Fetch, sha256: dict[str, str]) -> None:
    fetch.folder.mkdir()
    (fetch.folder / "model_feat.onnx").write_bytes(b"my own")
    text = complaint(fetch(sha256))
    assert text.startswith(f"{fetch.folder}/model_feat.onnx: {hashlib.sha256(b'my own').hexdigest()}, but")
    assert "name another as evaluate.ccip.folder, or remove this one" in text
    assert folder_bytes(fetch.folder) == {"model_feat.onnx": b"my own"}


def test_a_name_that_leads_out_of_the_folder_is_refused(fetch: Fetch, hub: TinyHub, sha256: dict[str, str]) -> None:
    assert "'../metrics.json' is no file's name" in complaint(fetch(sha256 | {"../metrics.json": sha256["metrics.json"]}))
    assert hub.requests == []


def test_a_local_folder_is_looked_at_without_the_network(fetch: Fetch, hub: TinyHub) -> None:
    fetch.folder = Path("models/sample-ccip")
    result = fetch.local()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("models/sample-ccip: a local folder, since evaluate.ccip.hub is null; ")
    fetch.folder = fetch.folder / "missing"
    assert complaint(fetch.local()).startswith("models/sample-ccip/missing/m")
    assert hub.requests == []
