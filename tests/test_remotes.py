"""What the stages made, on S3 and SSH servers and in a folder: put there by one clone, fetched by another that runs nothing.

`make remote` is the repository's own; the pipeline is a small one. The servers are moto's and asyncssh's, processes of their own
on this machine.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import small_repository

pytest.importorskip("moto", reason="make setup-remotes installs what DVC's remotes need")
boto3 = pytest.importorskip("boto3")

REPOSITORY = Path.cwd()
BUCKET = "runs"
PIPELINE = """stages:
  caption:
    cmd: python make.py caption words.txt data/captions.txt
    deps:
      - make.py
      - words.txt
    outs:
      - data/captions.txt
  train:
    cmd: python make.py train${lr} data/captions.txt models/lokr.txt
    deps:
      - data/captions.txt
      - make.py
    params:
      - lr
    outs:
      - models/lokr.txt
"""
MAKE = """import sys
from pathlib import Path
what, source, target = sys.argv[1:]
Path(target).parent.mkdir(exist_ok=True)
Path(target).write_text(what + " of " + Path(source).read_text())
print("ran", what.rstrip("0123456789."))
"""
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def own_environment(folder: Path) -> dict[str, str]:
    return ENVIRONMENT | {"DVC_SITE_CACHE_DIR": str(folder.parent / f"{folder.name} site cache")}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return small_repository.run(folder, *command, environment=own_environment(folder))


def made(folder: Path, *command: str) -> str:
    return small_repository.made(folder, *command, environment=own_environment(folder))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server with the bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | ENVIRONMENT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urlopen(f"{address}/moto-api/data.json"):
                break
            assert process.poll() is None
            time.sleep(0.1)
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def ssh_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of an SSH server that lets in who has this fixture's home."""
    home = tmp_path_factory.mktemp("ssh") / "home"
    command = [sys.executable, str(REPOSITORY / "tests/ssh_server.py"), str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setitem(ENVIRONMENT, "HOME", str(home))
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="module", params=["s3", "ssh", "folder"])
def pushed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `second`, the clone of a repository whose run has been pushed to the remote: it has no output."""
    if not (REPOSITORY / ".venv").is_dir():
        pytest.skip("`make remote` installs into .venv, which is not here")
    place = tmp_path_factory.mktemp(request.param)
    remote = [f"URL={place / 'store'}"]
    if request.param == "ssh":
        remote = [f"URL=ssh://{request.getfixturevalue('ssh_address')}{place / 'store'}"]
    if request.param == "s3":
        remote = [f"URL=s3://{BUCKET}/{place.name}", f"ENDPOINT={request.getfixturevalue('server')}"]
    first = place / "first"
    first.mkdir()
    for name, text in (("dvc.yaml", PIPELINE), ("make.py", MAKE), ("params.yaml", "lr: 1\n"), ("words.txt", "one two\n")):
        (first / name).write_text(text)
    shutil.copyfile("requirements-remotes.lock", first / "requirements-remotes.lock")
    (first / ".gitignore").write_text("/.venv\n")
    made(first, "git", "init", "--quiet")
    made(first, "dvc", "init", "--quiet")
    set_remote(first, remote)
    made(first, "dvc", "repro")
    made(first, "git", "add", "--all")
    made(first, "git", "commit", "--quiet", "--message", "run")
    assert "2 files pushed" in made(first, "dvc", "push")
    made(place, "git", "clone", "--quiet", str(first), str(place / "second"))
    set_remote(place / "second", remote)
    return place


def set_remote(folder: Path, remote: list[str]) -> None:
    """`make remote`, with the packages of this environment."""
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    made(folder, "make", "--file", str(REPOSITORY / "Makefile"), "--old-file", ".venv/.ready", "remote", *remote)


@pytest.fixture
def clone(pushed: Path, tmp_path: Path) -> Path:
    """A copy of that clone."""
    return Path(shutil.copytree(pushed / "second", tmp_path / "clone", symlinks=True))


def test_one_output_is_pulled_and_nothing_runs(clone: Path) -> None:
    assert "ran" not in made(clone, "dvc", "pull", "models/lokr.txt")
    assert (clone / "models/lokr.txt").read_text() == "train1 of caption of one two\n"
    assert not (clone / "data/captions.txt").exists()


def test_a_run_that_is_there_is_found_up_to_date_without_its_data(clone: Path) -> None:
    dry = made(clone, "dvc", "repro", "--dry", "--allow-missing")
    assert "Running stage" not in dry
    assert "ran" not in made(clone, "dvc", "repro", "--pull", "--allow-missing")


def test_a_change_runs_what_it_concerns_on_pulled_data(clone: Path) -> None:
    (clone / "params.yaml").write_text("lr: 2\n")
    stale = run(clone, "dvc", "repro", "--dry", "--allow-missing")  # fails where the stage's input is not here
    assert "'train'" in stale.stdout + stale.stderr
    assert stale.returncode or "Running stage 'train'" in stale.stdout
    ran = [line for line in made(clone, "dvc", "repro", "--pull", "--allow-missing").splitlines() if line.startswith("ran")]
    assert ran == ["ran train"]
    assert (clone / "models/lokr.txt").read_text() == "train2 of caption of one two\n"


def test_where_the_data_is_kept_is_not_committed(clone: Path) -> None:
    assert made(clone, "git", "status", "--porcelain") == ""
    assert "storage" in made(clone, "dvc", "remote", "list")


def test_a_broken_object_is_refused(pushed: Path, clone: Path, tmp_path: Path) -> None:
    """DVC's cache does not notice, so the remote verifies."""
    if not (pushed / "store").is_dir():
        pytest.skip("one remote is enough to break")
    shutil.copytree(pushed / "store", tmp_path / "broken")
    for file in (tmp_path / "broken").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_text("x" * file.stat().st_size)
    made(clone, "dvc", "remote", "modify", "--local", "storage", "url", str(tmp_path / "broken"))
    assert run(clone, "dvc", "pull", "models/lokr.txt").returncode != 0
    assert not (clone / "models/lokr.txt").exists()
