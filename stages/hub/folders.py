"""A local folder of files of a repository on the hub: brought whole, or found right, and never replaced."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file
from repro.outputs import whole_folder
from repro.params import HubFolder

from hub.files import fetch_files


def wanted_files(files: Iterable[str], sha256: Mapping[str, str], key: str) -> dict[str, str | None]:
    """`files` and any others that the parameters name, each with the sha256 that they give it.

    Args:
        key: the section of the parameters with `sha256`.

    Raises:
        StageError: a name is none of a file in the folder.
    """
    wanted = dict.fromkeys(files)
    for name in sha256:
        if name in ("", "..") or Path(name).name != name:
            example = next(iter(wanted))
            raise StageError(f"{key}.sha256: '{name}' is no file's name; a file of the folder is meant, such as {example}")
    return wanted | sha256


def is_there(folder: Path) -> bool:
    """Whether the folder holds anything."""
    return folder.is_dir() and any(folder.iterdir())


def bring_folder(folder: Path, source: HubFolder, sha256: Mapping[str, str | None], key: str, folder_key: str) -> None:
    """Fetch the files into `folder`, or, where it holds anything, check it without a look at the network; tells which.

    Args:
        sha256: {file, by its path in the folder: what it must have, or None where the parameters do not say}.
        key: the parameter with these; folder_key: the one that names the folder; for the errors.

    Raises:
        StageError: see `hub.files.fetch_files`; or the folder is there and not right. Nothing is written then.
    """
    if is_there(folder):
        _require_right_folder(folder, sha256, key, folder_key)
        print(f"{folder}: already there, with the sha256 of {key}")
        return
    print(f"{folder}: fetching {', '.join(sha256)} of {source.repo} at {source.revision or 'no revision'}", flush=True)
    cached = fetch_files(source, sha256, key)
    with whole_folder(folder) as new:
        for name, file in cached.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, new / name)
    print(f"{folder}: fetched, with the sha256 of {key}", flush=True)


def _require_right_folder(folder: Path, sha256: Mapping[str, str | None], key: str, folder_key: str) -> None:
    for name, expected in sha256.items():
        found = sha256_file(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise StageError(
                f"{folder / name}: {found}, but {key} has {expected or 'nothing'} for it; a folder that is there is not"
                f" replaced: name another as {folder_key}, or remove this one, and fetch again; where it is your own, its hub is"
                " null"
            )
