"""A file, and a run in this folder, held against an attestation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.hashing import hash_tree
from repro.params import Params

from proof.attestation import code_hashes, file_hashes, outside_inputs, package_hashes, recipe_of
from proof.lock import read_lock
from proof.values import dotted_values


def judge_file(file: Path, attested: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a file is the attested model, and what it is in words.

    Raises:
        StageError: it is not there, or not a safetensors file.
    """
    hashes, model = file_hashes(file), attested["model"]
    named = f"{attested['recipe']['merge']['title']} ({model['path']}, AutoV2 {model['autov2']})"
    if hashes.sha256 == model["sha256"]:
        return True, f"{file}: is {named}, to the last byte"
    if hashes.data_sha256 == model["data_sha256"]:
        return False, f"{file}: has the tensors of {named}, every one, and another header: its metadata were changed"
    if others := _outputs_with(hashes.sha256, attested):
        return False, f"{file}: is not {named}; it is {' and '.join(others)} of the same run"
    return False, f"{file}: is not {named}: sha256 {hashes.sha256}, attested {model['sha256']}"


def _outputs_with(sha256: str, attested: Mapping[str, Any]) -> list[str]:
    """The attested run's files of this digest, by their paths."""
    return [
        path if Path(path).name == name else f"{path}/{name}"
        for stage in attested["stages"]
        for path, output in stage["outputs"].items()
        for name, digest in output["files"].items()
        if digest == sha256
    ]


def judge_run(folder: Path, params: Params, attested: Mapping[str, Any]) -> list[str]:
    """Where the run in a repository's folder parts from the attested one: what it was made from, and the first output.

    Raises:
        StageError: there is no run: no dvc.lock.
    """
    stages = {stage.name: stage for stage in read_lock(folder / "dvc.lock")}
    causes = list(_causes(folder, params, attested, outside_inputs([*stages.values()])))
    for stage in attested["stages"]:
        name = stage["name"]
        for path, output in stage["outputs"].items():
            mine = stages[name].outputs.get(path) if name in stages else None
            if mine != output["md5"]:
                where = _file_that_differs(folder / path, output["files"]) if mine else "not made here"
                return [f"first difference: stage {name}, {path} ({where})", *causes]
    return ["every output of the run in this folder is the attested one", *causes]


def _causes(folder: Path, params: Params, attested: Mapping[str, Any], inputs: Mapping[str, str]) -> Iterator[str]:
    mine, theirs = (dict(dotted_values(values)) for values in (recipe_of(params), attested["recipe"]))
    for key in [*theirs, *(key for key in mine if key not in theirs)]:
        if mine.get(key) != theirs.get(key):
            yield f"  parameter {key}: here {mine.get(key)!r}, attested {theirs.get(key)!r}"
    code = code_hashes(folder)
    for key, value in attested["code"].items():
        if code[key] != value:
            yield f"  code: {key} here {code[key]}, attested {value}"
    versions = package_hashes(folder)["versions"]
    for name, version in attested["packages"]["versions"].items():
        if versions.get(name) != version:
            yield f"  package {name}: here {versions.get(name, 'none')}, attested {version}"
    for path, md5 in attested["inputs"].items():
        if inputs.get(path) != md5:
            yield f"  input {path}: {'other bytes' if path in inputs else 'none here'}"


def _file_that_differs(output: Path, attested: Mapping[str, str]) -> str:
    if not output.exists():
        return "the lock file names other bytes; the files are not here"
    found = hash_tree(output)
    names = sorted(name for name in found.keys() | attested.keys() if found.get(name) != attested.get(name))
    more = f" and {len(names) - 1} more files" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "the files here are the attested ones; dvc.lock names others"
