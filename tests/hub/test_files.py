"""Files from a hub on this machine: whole, checked, continued; and each failure in words."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_hub import COMMIT, TinyHub, serving

REPO = "someone/models"
SMALL = b'{"threshold": 0.178}'
# Larger than the piece of 10 MiB that the library keeps at a time.
LARGE = np.arange(3 << 20, dtype="<u8").tobytes()
# A process as the stages' are; the library's waits between its tries are left out.
PROGRAM = """
import json, sys, time
from repro.errors import run_stage
from repro.params import HubFolder
from hub.files import fetch_files
time.sleep = lambda seconds: None
def main(arguments):
    source, sha256 = map(json.loads, arguments)
    found = fetch_files(HubFolder(**source), sha256, "some.sha256")
    print(json.dumps({name: str(path) for name, path in found.items()}))
run_stage(main)
"""
RIGHT = {"repo": REPO, "revision": COMMIT, "path": "tiny"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(
    hub: TinyHub, home: Path, source: dict[str, str] = RIGHT, files: dict[str, str | None] | None = None, **environment: str
) -> subprocess.CompletedProcess:
    files = {"small.json": sha256(SMALL)} if files is None else files
    # The tests' own process has the hub off, since it imports `repro`.
    own = {"PYTHONPATH": "stages", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    command = [sys.executable, "-c", PROGRAM, json.dumps(source), json.dumps(files)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | own | environment)


def fetched(result: subprocess.CompletedProcess) -> dict[str, bytes]:
    assert result.returncode == 0, result.stderr
    return {name: Path(path).read_bytes() for name, path in json.loads(result.stdout).items()}


def complaint(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result.stderr[result.stderr.index("-c: ") :].removeprefix("-c: ").strip()


@pytest.fixture
def hub():
    files = {"tiny/small.json": SMALL, "tiny/large.bin": LARGE}
    with serving(TinyHub({REPO: files}, large={"tiny/large.bin"})) as hub:
        yield hub


def test_files_come_as_the_hub_has_them_and_are_asked_for_once(hub: TinyHub, tmp_path: Path) -> None:
    files = {"small.json": sha256(SMALL), "large.bin": sha256(LARGE)}
    assert fetched(fetch(hub, tmp_path, files=files)) == {"small.json": SMALL, "large.bin": LARGE}
    asked = len(hub.requests)
    assert {path for _, path, _, _ in hub.requests} == {
        f"/{REPO}/resolve/{COMMIT}/tiny/{name}" for name in files
    } | {f"/store/{REPO}/tiny/large.bin"}  # fmt: skip
    fetched(fetch(hub, tmp_path, files=files))
    assert len(hub.requests) == asked


def test_a_repository_may_be_meant_whole(tmp_path: Path) -> None:
    with serving(TinyHub({REPO: {"small.json": SMALL}})) as hub:
        assert fetched(fetch(hub, tmp_path, RIGHT | {"path": ""})) == {"small.json": SMALL}


def test_a_cut_download_says_so_and_goes_on_where_it_ended(hub: TinyHub, tmp_path: Path) -> None:
    files = {"large.bin": sha256(LARGE)}
    hub.cut = 15 << 20
    assert complaint(fetch(hub, tmp_path, files=files)).endswith("fetch again: it goes on where it ended")
    hub.cut = None
    hub.requests.clear()
    assert fetched(fetch(hub, tmp_path, files=files)) == {"large.bin": LARGE}
    assert [(method, part) for method, _, part, _ in hub.requests] == [("HEAD", ""), ("GET", f"bytes={10 << 20}-")]


def test_another_sha256_is_refused(hub: TinyHub, tmp_path: Path) -> None:
    text = complaint(fetch(hub, tmp_path, files={"small.json": "0" * 64}))
    assert text.startswith(f"{REPO} at {COMMIT}: tiny/small.json: sha256 {sha256(SMALL)}, but some.sha256 expects {'0' * 64}; ")


def test_a_sha256_that_nobody_wrote_down_is_told(hub: TinyHub, tmp_path: Path) -> None:
    text = complaint(fetch(hub, tmp_path, files={"small.json": None, "large.bin": None}))
    assert text.startswith("some.sha256 lacks small.json, large.bin, so nothing was written.")
    assert text.splitlines()[1:] == [f"  small.json: {sha256(SMALL)}", f"  large.bin: {sha256(LARGE)}"]


@pytest.mark.parametrize(
    ("change", "files", "reason"),
    [
        ({"repo": "someone/else"}, {"small.json": None}, "no such repository, or keeps it private; put its name right"),
        ({"revision": "f" * 40}, {"small.json": None}, "no such revision of this repository; write the 40 digits"),
        ({"path": "tiny/er"}, {"small.json": None}, "no such file at this revision"),
        ({}, {"smaller.json": None}, "no such file at this revision"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: TinyHub, tmp_path: Path, change: dict[str, str], files: dict[str, None], reason: str
) -> None:
    source = RIGHT | change
    text = complaint(fetch(hub, tmp_path, source, files))
    assert text.startswith(f"{source['repo']} at {source['revision']}: {source['path']}/{next(iter(files))}: {hub.endpoint} has ")
    assert reason in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(("token", "status"), [("", 401), ("hf_wrong", 403)])
def test_terms_that_are_not_accepted_are_told(hub: TinyHub, tmp_path: Path, token: str, status: int) -> None:
    hub.gated.add(REPO)
    text = complaint(fetch(hub, tmp_path, HF_TOKEN=token))
    assert text.endswith(f"refuses it (HTTP {status}); accept the repository's terms there, and set HF_TOKEN")
    assert fetched(fetch(hub, tmp_path, HF_TOKEN=hub.token)) == {"small.json": SMALL}


def test_no_network_is_told(hub: TinyHub, tmp_path: Path) -> None:
    """Port 9 of this machine discards, where anything answers at all."""
    text = complaint(fetch(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9"))
    assert text.startswith(f"{REPO} at {COMMIT}: tiny/small.json: no connection to http://127.0.0.1:9; ")
    assert len(text.splitlines()) == 1


def test_an_endpoint_that_is_no_address_is_told(hub: TinyHub, tmp_path: Path) -> None:
    assert "Invalid URL" in complaint(fetch(hub, tmp_path, HF_ENDPOINT="example"))


def test_a_setting_of_the_library_that_cannot_work_is_told(hub: TinyHub, tmp_path: Path) -> None:
    """hf_transfer is not installed."""
    assert "could not be fetched (Fast download using 'hf_transfer'" in complaint(
        fetch(hub, tmp_path, HF_HUB_ENABLE_HF_TRANSFER="1")
    )


def test_a_broken_hub_is_told(hub: TinyHub, tmp_path: Path) -> None:
    hub.broken = True
    assert complaint(fetch(hub, tmp_path)).endswith("answers HTTP 503; try again later")


def test_offline_the_cache_answers_or_is_said_to_lack_the_file(hub: TinyHub, tmp_path: Path) -> None:
    text = complaint(fetch(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert f"not in the cache {tmp_path}/hub, and HF_HUB_OFFLINE is set; unset it" in text
    assert hub.requests == []
    fetched(fetch(hub, tmp_path))
    hub.requests.clear()
    assert fetched(fetch(hub, tmp_path, HF_HUB_OFFLINE="1")) == {"small.json": SMALL}
    assert hub.requests == []


def test_a_full_disk_is_told_with_its_file(hub: TinyHub, tiny_disk: Path) -> None:
    text = complaint(fetch(hub, tiny_disk, files={"large.bin": sha256(LARGE)}))
    assert text.endswith("no space left on the device; free some and run again (nothing half-written is left)")
