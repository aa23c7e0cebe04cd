"""dvc.yaml is complete: a stage depends on all the code and data that it reads, and on no run-time setting."""

import ast
import re
import shlex
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath

from repro.params import Params, load_params, read_yaml

import pytest
from dvc.repo import Repo

STAGES = Path("stages")
GRAPH = read_yaml(Path("dvc.yaml").read_text(encoding="utf-8"), "dvc.yaml")["stages"]
RUNNING = [name for name, stage in GRAPH.items() if not stage.get("frozen")]
FROZEN = [name for name in GRAPH if name not in RUNNING]
UNTRACKED = {"runtime", "inputs", "card"}


def resolve(text: str) -> str:
    """Fill in `${key.sub}` from params.yaml as DVC does."""
    params = load_params(Path("params.yaml")).model_dump()

    def value(match: re.Match[str]) -> str:
        node = params
        for key in match.group(1).split("."):
            node = node[key]
        return str(node)

    return re.sub(r"\$\{([a-z_.]+)\}", value, text)


def paths(stage: dict, *kinds: str) -> set[PurePosixPath]:
    """Paths listed under deps, outs, metrics or plots, with or without options."""
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return {PurePosixPath(resolve(entry if isinstance(entry, str) else next(iter(entry)))) for entry in entries}


def covered(path: PurePosixPath, listed: set[PurePosixPath]) -> bool:
    return path in listed or any(parent in listed for parent in path.parents)


def script(stage: dict) -> Path:
    return next(Path(word) for word in shlex.split(stage["cmd"]) if word.endswith(".py"))


def local_imports(source: Path) -> set[Path]:
    """Files of stages/ that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    candidates = [STAGES / Path(*name.split(".")) for name in names]
    return {file for path in candidates for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()}


def all_imports(source: Path) -> set[Path]:
    found, waiting = set(), [source]
    while waiting:
        new = local_imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("name", RUNNING)
def test_a_stage_reads_cached_outputs_whole(name: str) -> None:
    """`dvc repro --pull` fetches one file of a folder alone, and takes the folder for whole afterwards."""
    entries = [entry for stage in GRAPH.values() for kind in ("outs", "metrics") for entry in stage.get(kind, [])]
    cached = {PurePosixPath(resolve(entry)) for entry in entries if isinstance(entry, str)}
    assert [path for path in paths(GRAPH[name], "deps") if cached & set(path.parents)] == []


@pytest.mark.parametrize("name", RUNNING)
def test_users_paths_stand_in_quotes(name: str) -> None:
    """They may hold spaces; a model's name may not."""
    command = GRAPH[name]["cmd"].replace("${merge.name}", "")
    assert len(re.findall(r'"\$\{[a-z_.]+\}"', command)) == command.count("${")


@pytest.mark.parametrize("name", RUNNING)
def test_a_stage_depends_on_all_code_that_it_imports(name: str) -> None:
    listed = paths(GRAPH[name], "deps")
    needed = {script(GRAPH[name]), *all_imports(script(GRAPH[name]))}
    assert [str(file) for file in sorted(needed) if not covered(PurePosixPath(file), listed)] == []


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_depends_on_no_code_that_it_does_not_import(name: str) -> None:
    needed = {PurePosixPath(file) for file in {script(GRAPH[name]), *all_imports(script(GRAPH[name]))}}
    code = {path for path in paths(GRAPH[name], "deps") if path.parts[0] == "stages"}
    assert [str(path) for path in sorted(code) if not any(path == file or path in file.parents for file in needed)] == []


@pytest.mark.parametrize("name", RUNNING)
def test_every_path_of_a_command_is_a_dependency_or_an_output(name: str) -> None:
    """Parameter files and the image root (each image is checked against its index) are the exceptions."""
    stage = GRAPH[name]
    listed = paths(stage, "deps", "outs", "metrics", "plots")
    words = [word.rpartition("=")[2] for word in shlex.split(resolve(stage["cmd"]))[1:] if "/" in word]  # NAME=PATH
    assert [word for word in words if not covered(PurePosixPath(word), listed)] == []


def test_no_stage_lists_a_section_that_must_not_change_a_byte() -> None:
    for name, stage in GRAPH.items():
        assert not [key for key in stage.get("params", []) if str(key).split(".")[0] in UNTRACKED], name


def test_listed_parameters_exist() -> None:
    for name in RUNNING:
        for key in GRAPH[name].get("params", []):
            assert str(key).split(".")[0] in Params.model_fields, f"{name}: {key}"


def test_every_parameter_is_listed_by_some_stage() -> None:
    listed = {str(key).split(".")[0] for stage in GRAPH.values() for key in stage.get("params", [])}
    assert set(Params.model_fields) - listed == UNTRACKED


def test_no_path_is_absolute_or_outside_of_the_repository() -> None:
    for name, stage in GRAPH.items():
        for path in paths(stage, "deps", "outs", "metrics", "plots") if name in RUNNING else set():
            assert not path.is_absolute()
            assert ".." not in path.parts


def test_names_of_stages_are_the_designs() -> None:
    order = [
        "ingest", "select", "filter", "annotate", "caption", "base", "cache-latents", "train", "merge", "references",
        "generate-base", "generate-merged", "evaluate-CCIP", "report",
    ]  # fmt: skip
    assert order == RUNNING


@pytest.mark.parametrize("name", FROZEN)
def test_the_lock_of_a_frozen_stage_names_its_inputs_as_they_are(name: str) -> None:
    """DVC looks at no input of a frozen stage, so after a change `make sample` or `make sample-models` and `dvc commit` must."""
    with Repo() as repo:
        (stage,) = repo.stage.collect(name)
        assert stage.deps
        assert {dep.def_path: state for dep in stage.deps for state in dep.workspace_status().values()} == {}
        assert not stage.changed_stage()


def test_packages_import_no_script_and_not_each_other_in_a_circle() -> None:
    packages = {folder.name for folder in STAGES.iterdir() if (folder / "__init__.py").exists()}
    imported: dict[str, set[str]] = {}
    for package in packages:
        files = {file for source in (STAGES / package).rglob("*.py") for file in local_imports(source)}
        tops = {file.relative_to(STAGES).parts[0] for file in files}
        assert not [top for top in tops if top.endswith(".py")], package
        imported[package] = tops - {package}
    assert imported["repro"] == set()
    order = list(TopologicalSorter(imported).static_order())  # CycleError names a circle
    assert set(order) == packages


def test_lock_files_of_recipes_have_the_same_frozen_stages() -> None:
    """What is committed does not hang on the recipe; `dvc repro` alone leaves such an entry as it was."""
    locks = {
        path: read_yaml(path.read_text(), str(path))["stages"] for path in (Path("dvc.lock"), *Path("recipes").glob("*.lock"))
    }
    assert len(locks) > 1
    for path, stages in locks.items():
        for name in FROZEN:
            assert stages[name] == locks[Path("dvc.lock")][name], f"{path}: {name}"
