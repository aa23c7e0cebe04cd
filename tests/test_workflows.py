"""The steps of .github/workflows/experiment.yml and .gitlab-ci.yml, one after the other in the shells that the services use.

The recipe is a small one, the remote a folder; in the services' places are a `gh` that keeps the comment and an HTTP server that
takes the note.
"""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import yaml
from small_repository import made
from test_documented_runs import SMALL, set_up

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path(".venv/bin/activate").is_file(), reason="the steps use .venv")]

REPOSITORY = Path.cwd()
GITHUB = yaml.safe_load(Path(".github/workflows/experiment.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load(Path(".gitlab-ci.yml").read_text(encoding="utf-8"))
EXPRESSIONS = {"github.base_ref": "main", "github.event.pull_request.number": "7", "github.token": "token"}
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
GH = """#!/bin/sh
echo "$@" > "$COMMENTS/arguments"
for word; do file=$word; done
cp "$file" "$COMMENTS/comment.md"
"""
FROM_TRAIN_ON = ["train", "merge", "generate-merged", "evaluate-CCIP", "report"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `origin`, whose run is in `store`, and `work`, a clone of it with another rate committed on a branch."""
    place = tmp_path_factory.mktemp("services")
    origin, work = set_up(place / "origin", SMALL), place / "work"
    use_this_environment(origin)
    made(origin, "make", "remote", f"URL={place / 'store'}")
    made(origin, "dvc", "repro")
    made(origin, "git", "add", "--all")
    made(origin, "git", "commit", "--quiet", "--message", "run")
    made(origin, "dvc", "push")
    made(place, "git", "clone", "--quiet", str(origin), str(work))
    use_this_environment(work)
    made(work, "git", "checkout", "--quiet", "-b", "change")
    text = (work / "params.yaml").read_text(encoding="utf-8")
    (work / "params.yaml").write_text(re.sub(r"(?m)^lr: .*$", "lr: 2e-05", text), encoding="utf-8")
    made(work, "git", "commit", "--quiet", "--all", "--message", "another rate")
    return place


def use_this_environment(folder: Path) -> None:
    """`.venv` is this one's, and `make` takes it to be newer than what it was made of."""
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    (folder / ".venv").symlink_to(REPOSITORY / ".venv")
    os.utime(folder / "requirements.lock", (0, 0))


def surroundings(place: Path, **variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AWS_"))}
    return inherited | {"DVC_REMOTE": str(place / "store"), "DVC_SITE_CACHE_DIR": str(place / "site")} | variables


def filled_in(script: str) -> str:
    return re.sub(r"\$\{\{ ([a-z_.]+) \}\}", lambda match: EXPRESSIONS[match[1]], script)


def run_github(place: Path) -> list[subprocess.CompletedProcess]:
    """What each step did, up to the first one that failed."""
    assert GITHUB["defaults"]["run"]["shell"] == "bash"
    programs, comments = place / "programs", place / "comments"
    for folder in (programs, comments):
        folder.mkdir(exist_ok=True)
    (programs / "gh").write_text(GH)
    (programs / "gh").chmod(0o755)
    environment = surroundings(
        place, ENDPOINT="", COMMENTS=str(comments), GITHUB_STEP_SUMMARY=str(place / "summary.md"),
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    done = []
    for step in GITHUB["jobs"]["run"]["steps"]:
        if "run" in step:
            command = (*SHELL, filled_in(step["run"]))
            done.append(subprocess.run(command, cwd=place / "work", env=environment, capture_output=True, text=True))
            if done[-1].returncode:
                break
    return done


def stages_run(told: str) -> list[str]:
    return re.findall(r"^Running stage '(.+)':$", told, re.MULTILINE)


def test_github_runs_what_a_change_concerns_tells_it_and_refuses_a_stale_lock_file(place: Path) -> None:
    done = run_github(place)
    assert [step.returncode for step in done] == [0, 0, 0, 0, 1], done[-1].stderr
    assert stages_run(done[1].stdout) == FROM_TRAIN_ON
    comment = (place / "comments/comment.md").read_text(encoding="utf-8")
    assert re.search(r"\| lr +\| 0\.001 +\| 2e-05 ", comment) and "| merge | `models/sample.safetensors` | changed |" in comment
    assert (place / "summary.md").read_text(encoding="utf-8") == comment
    assert (place / "comments/arguments").read_text().startswith("pr comment 7 ")
    assert "dvc.lock" in done[-1].stdout


def test_github_passes_with_the_runs_own_lock_file(place: Path) -> None:
    made(place / "work", "git", "commit", "--quiet", "--all", "--message", "its run")
    done = run_github(place)
    assert [step.returncode for step in done] == [0] * 5, done[-1].stderr
    assert stages_run(done[1].stdout) == []


@pytest.fixture
def notes() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """An HTTP server's address, and (path, token, body) of each note that it was given."""
    given = []

    class Notes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            given.append((self.path, self.headers["PRIVATE-TOKEN"], form["body"][0]))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Notes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", given
        server.shutdown()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_gitlab_runs_and_tells_it_in_a_note(place: Path, notes: tuple[str, list]) -> None:
    address, given = notes
    environment = surroundings(
        place, DVC_ENDPOINT="", CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main", NOTES_TOKEN="secret", CI_API_V4_URL=address,
        CI_PROJECT_ID="3", CI_MERGE_REQUEST_IID="5", NO_PROXY="127.0.0.1", no_proxy="127.0.0.1",
    )  # fmt: skip
    script = "\n".join(GITLAB["experiment"]["script"])
    done = subprocess.run((*SHELL, script), cwd=place / "work", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((path, token, body),) = given
    assert (path, token) == ("/projects/3/merge_requests/5/notes", "secret")
    assert "2e-05" in body
