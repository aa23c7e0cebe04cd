"""Every command that README and docs/ name can be typed: its target, script, options and files of the repository are there.

And each is run: those that need nothing but the repository by `test_commands_run_here`, those that need what others made by
tests/test_documented_runs.py, some by the tests that RUN_ELSEWHERE names. READERS_OWN has the few that nobody runs, and why.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from doc_commands import PAGES, Command, all_commands, blocks
from small_repository import ENVIRONMENT, copy_working_tree
from test_documented_runs import OWN_DATA, OWN_PICTURES, RUN

COMMANDS = all_commands()
# Beginnings of commands, each with the file that runs what they begin.
RUN_ELSEWHERE = {
    "make test": ".ci/run", "make fingerprint": ".ci/run", "make verify": ".ci/run", "make verify-recipe": ".ci/run",
    "make verify-cpu": "tests/test_verify_cpu.py", "make sample": "tests/test_make_sample.py",
    "make recipe-lock": "tests/test_verify_clone.py", "make fetch": "tests/test_fetch_inputs.py",
    "make inputs": "tests/test_fetch_inputs.py", "make remote": "tests/test_remotes.py", "dvc push": "tests/test_remotes.py",
    "dvc pull": "tests/test_remotes.py", "dvc repro --pull": "tests/test_remotes.py", "dvc repro --dry": "tests/test_remotes.py",
    "accelerate launch": "tests/test_train_on_two_hosts.py",
}  # fmt: skip
# Beginnings of commands that no test runs.
READERS_OWN = {
    ". .venv/bin/activate": "changes the reader's own shell; tests have these programs in their PATH",
    "make test-all": "runs this file",
    "make sample-models": "takes two hours",
    "rsync": "needs a second machine",
}
# Commands of README and docs/ that need nothing but a fresh clone, run one after the other in one.
HERE = (
    "python stages/caption_posts.py --database data/sample/metadata.db --profile kohaku-xl-epsilon --out captions --format jsonl",
    "python stages/merge.py --formula m --model m=models/sample-base --out sample-base.safetensors",
    "python stages/evaluate_ccip.py score --ccip models/sample-ccip --references tests/golden/evaluate/ccip/set/images/ref"
    " --generated mine=tests/golden/evaluate/ccip/set/images/gen --out scores/mine",
    "python stages/evaluate_ccip.py compare --before reports/ccip.json --before-model base --after reports/ccip.json"
    " --out scores/comparison",
)


def ids(commands: list[Command]) -> list[str]:
    return [f"{number} {command.page.name}: {command.text[:60]}" for number, command in enumerate(commands)]


@cache
def help_of(*words: str) -> str:
    result = subprocess.run([*words, "--help"], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 0, f"{' '.join(words)} --help: {result.stderr}"
    return result.stdout


def require_options(words: list[str], told: str) -> None:
    """Every option among the words stands in the program's help."""
    for option in (word.partition("=")[0] for word in words if re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", word)):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told), f"no option {option}"


def script_and_subcommand(words: list[str]) -> tuple[str, ...]:
    script = words[1]
    assert Path(script).is_file(), script
    if Path(script).name == "evaluate_ccip.py":
        return sys.executable, script, words[2]
    return sys.executable, script


def test_pages_have_commands() -> None:
    """A reader of blocks that found none would find no fault either."""
    assert len(COMMANDS) > 60
    assert {command.page for command in COMMANDS} >= {Path("README.md"), Path("docs/training.md"), Path("docs/ci.md")}


@pytest.mark.parametrize("command", COMMANDS, ids=ids(COMMANDS))
def test_a_command_names_what_is_there(command: Command) -> None:
    program, *rest = words = command.words
    if program == "make":
        result = subprocess.run(["make", "--dry-run", "--old-file", ".venv/.ready", *rest], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        for name in (word.partition("=")[2] for word in rest if word.startswith("NAME=")):
            assert Path("recipes", f"{name}.yaml").is_file(), name
    elif program == "python" and rest[0] != "-c":
        require_options(rest, help_of(*script_and_subcommand(words)))
    elif program == "dvc":
        depth = 2 if rest[0] in ("exp", "params", "metrics", "plots", "remote") else 1
        require_options(rest, help_of("dvc", *rest[:depth]))
    elif program == "accelerate":
        script = next(at for at, word in enumerate(words) if word.endswith(".py"))
        require_options(words[:script], help_of("accelerate", "launch"))
        assert Path(words[script]).is_file()


def begins(text: str, words: str) -> bool:
    """Whether these are the command's first words; `make test` is not how `make test-all` begins."""
    return f"{text} ".startswith(f"{words} ")


def runners(text: str) -> list[str]:
    """Where a command is run, or why it is not."""
    places = [place for words, place in (RUN_ELSEWHERE | READERS_OWN).items() if begins(text, words)]
    places += ["this file"] * (text in HERE)
    places += ["tests/test_documented_runs.py"] * any(step.text == text for step in RUN + OWN_PICTURES)
    return places


@pytest.mark.parametrize("text", sorted({command.text for command in COMMANDS}))
def test_a_command_is_run_in_one_place_or_has_a_reason_not_to_be(text: str) -> None:
    assert len(runners(text)) == 1, f"add it to HERE, RUN_ELSEWHERE, READERS_OWN or tests/test_documented_runs.py: {text}"


def test_lists_of_commands_name_what_the_pages_have() -> None:
    texts = {command.text for command in COMMANDS}
    assert [text for text in (*HERE, *(step.text for step in RUN + OWN_PICTURES)) if text not in texts] == []
    assert [words for words in RUN_ELSEWHERE | READERS_OWN if not any(begins(text, words) for text in texts)] == []
    assert [place for place in RUN_ELSEWHERE.values() if not Path(place).is_file()] == []
    assert [page for page in PAGES if blocks(page, "sh")] == [OWN_DATA]  # whose programs test_documented_runs.py types


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files as a clone has them."""
    return copy_working_tree(tmp_path_factory.mktemp("fresh") / "a clone")


def test_commands_run_here(fresh: Path) -> None:
    for text in HERE:
        result = subprocess.run(text, cwd=fresh, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
        assert result.returncode == 0, f"{text}\n{result.stderr}"
    assert (fresh / "sample-base.safetensors").is_file()
    assert len((fresh / "scores/mine/ccip.json").read_text()) > 100


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_workflows_call_what_is_there() -> None:
    """Make targets and scripts that the CI files name."""
    for file in (Path(".gitlab-ci.yml"), *Path(".github/workflows").glob("*.yml")):
        text = file.read_text(encoding="utf-8")
        assert yaml.safe_load(text)
        targets = set(re.findall(r"\bmake ([a-z][\w-]*)", re.sub(r"#.*", "", text)))
        assert targets or ".ci/run" in text
        for target in targets:
            dry = ["make", "--dry-run", "--old-file", ".venv/.ready", target, "URL=x"]
            assert subprocess.run(dry, capture_output=True).returncode == 0, target
