"""What made a model, in one JSON: recipe, code, packages, inputs, every stage's outputs; and how another run stands to it.

An attestation has
    format    1
    model     the published file: path, bytes, sha256, data_sha256 (all bytes behind its header: the tensors), autov2
    recipe    all parameters that some stage reads: not `runtime`, `inputs` and `card`
    code      git's tree hash of stages/, sha256 of dvc.yaml
    packages  sha256 of requirements.lock, and the versions in it
    inputs    {path: md5 as DVC has it} of what no stage made and is not code
    stages    in graph order: name, command, and of each output its md5 as DVC has it and the sha256 of each of its files
    machine   the class of machine whose bits these are: the CPU's, which are the same on all, or the GPU's model and libraries
It holds no time, host or path outside of the repository: the same run on another machine of the class gives the same bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.devices import gpu_libraries, gpu_models
from repro.errors import StageError
from repro.hashing import CHUNK, hash_tree, sha256_file
from repro.params import Params

from checkpoints.metadata import autov2
from proof.clone import git
from proof.lock import Stage, read_lock

FORMAT = 1
CODE = ("stages", "dvc.yaml", "requirements.lock")
CPU_CLASS = "x86-64 CPU with AVX2 and FMA"
HEADER_LENGTH_BYTES = 8


@dataclass(frozen=True)
class FileHashes:
    """A safetensors file: all of it, and all behind its header."""

    sha256: str
    data_sha256: str
    bytes: int


def file_hashes(path: Path) -> FileHashes:
    """Raises:
    StageError: there is no such file, or it is not a safetensors file."""
    if not path.is_file():
        raise StageError(f"{path}: no such file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(HEADER_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if not 0 < length <= size - HEADER_LENGTH_BYTES or not (header := file.read(length)).startswith(b"{"):
            raise StageError(f"{path}: not a safetensors file; a model's single file is meant")
        whole, data = hashlib.sha256(prefix + header), hashlib.sha256()
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            data.update(chunk)
    return FileHashes(whole.hexdigest(), data.hexdigest(), size)


def attest(folder: Path, params: Params) -> dict[str, Any]:
    """The attestation of the run in a repository's folder, whose stages are up to date (the caller has asked DVC).

    Raises:
        StageError: code is not committed, or an output is not there.
    """
    changed = git("status", "--porcelain", "--", *CODE, folder=folder).splitlines()
    if changed:
        raise StageError(f"{changed[0][3:]}: not committed; an attestation names code by git's hash, so commit it first")
    model = Path("models", f"{params.merge.name}.safetensors")
    hashes = file_hashes(folder / model)
    stages = read_lock(folder / "dvc.lock")
    return {
        "format": FORMAT,
        "model": {
            "path": str(model),
            "bytes": hashes.bytes,
            "sha256": hashes.sha256,
            "data_sha256": hashes.data_sha256,
            "autov2": autov2(hashes.sha256),
        },
        "recipe": recipe_of(params),
        "code": code_hashes(folder),
        "packages": package_hashes(folder),
        "inputs": outside_inputs(stages),
        "stages": [_attested_stage(folder, stage) for stage in stages],
        "machine": machine_class(params),
    }


def recipe_of(params: Params) -> dict[str, Any]:
    return params.model_dump(exclude={"runtime", "inputs", "card"})


def code_hashes(folder: Path) -> dict[str, str]:
    return {
        "stages_tree": git("rev-parse", "HEAD:stages", folder=folder).strip(),
        "dvc_yaml_sha256": sha256_file(folder / "dvc.yaml"),
    }


def package_hashes(folder: Path) -> dict[str, Any]:
    lock = folder / "requirements.lock"
    pins = [line.split("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {"requirements_lock_sha256": sha256_file(lock), "versions": {name: version.strip() for name, version in pins}}


def outside_inputs(stages: list[Stage]) -> dict[str, str]:
    """{path: md5} of what the stages read that none of them made and that is no code."""
    made = {path for stage in stages for path in stage.outputs}
    return {
        path: md5
        for stage in stages
        for path, md5 in sorted(stage.inputs.items())
        if not path.startswith("stages/") and not any(path == one or path.startswith(f"{one}/") for one in made)
    }


def machine_class(params: Params) -> dict[str, Any]:
    if params.device == "cpu":
        return {"class": CPU_CLASS}
    return {"class": gpu_models()[0], "libraries": gpu_libraries(params.device)}


def _attested_stage(folder: Path, stage: Stage) -> dict[str, Any]:
    outputs = {path: _output(folder, path, md5) for path, md5 in stage.outputs.items()}
    return {"name": stage.name, "command": stage.command, "outputs": outputs}


def _output(folder: Path, path: str, md5: str) -> dict[str, Any]:
    if not (folder / path).exists():
        raise StageError(f"{path}: not there, though dvc.lock names it; `dvc checkout` or `make` brings it back")
    return {"md5": md5, "files": hash_tree(folder / path)}


def read_attestation(path: Path) -> dict[str, Any]:
    """Raises:
    StageError: no such file, or not an attestation of this format."""
    if not path.is_file():
        raise StageError(f"{path}: no such attestation; `make attest` writes one")
    try:
        value = json.loads(path.read_bytes())
        complete = value["format"] == FORMAT and all(
            key in value for key in ("model", "recipe", "code", "packages", "inputs", "stages", "machine")
        )
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise StageError(f"{path}: not an attestation of format {FORMAT}; `make attest` writes one")
    return value
