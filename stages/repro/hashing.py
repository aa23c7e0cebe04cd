"""sha256 of files and folders, and the manifest that stands beside each folder of data."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.outputs import json_text, write_text

MANIFEST_NAME = "MANIFEST.json"
CACHE_NAME = "kohaku-repro"
CHUNK = 1 << 20
# A file changed within its file system's clock tick keeps its change time: younger ones are not remembered.
SETTLED_NS = 2_000_000_000
REMEMBERED_BYTES = 64 << 20


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """sha256 of a big file from outside, computed once: remembered under the user's cache folder by the file's inode,
    size, and times of last change. The change time is the kernel's, so a changed file is read again.
    """
    before = os.stat(path)
    key = f"{before.st_dev} {before.st_ino} {before.st_size} {before.st_mtime_ns} {before.st_ctime_ns}"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    entry = Path(cache, CACHE_NAME, "sha256", hashlib.sha256(key.encode()).hexdigest())
    with contextlib.suppress(OSError, ValueError):
        known, digest = entry.read_text(encoding="ascii").split("\n")
        if known == key and len(digest) == hashlib.sha256().digest_size * 2:
            return digest
    digest = sha256_file(path)
    if time.time_ns() - before.st_ctime_ns > SETTLED_NS:
        with contextlib.suppress(OSError):  # a machine without a writable home merely hashes again
            write_text(entry, f"{key}\n{digest}")
    return digest


def sha256_json(value: Any) -> str:
    """Digest of a value's canonical JSON: for fingerprints of parameters and inputs."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()


def _digest(path: Path) -> str:
    """sha256 of a file: remembered where hashing takes longer than looking up."""
    return remembered_sha256(path) if path.stat().st_size >= REMEMBERED_BYTES else sha256_file(path)


def hash_tree(path: Path) -> dict[str, str]:
    """{relative name: sha256} of a file or of every file below a folder, sorted by name."""
    if path.is_file():
        return {path.name: _digest(path)}
    return {str(f.relative_to(path)): _digest(f) for f in sorted(path.rglob("*")) if f.is_file()}


def write_manifest(folder: Path, content_digest: str, revision: str | None = None) -> None:
    """Write MANIFEST.json into a folder that is still being made: sha256 of each file, the content digest
    (over the rows or tensors, independent of the container format), and of posts their metadata's revision."""
    files = {name: digest for name, digest in hash_tree(folder).items() if name != MANIFEST_NAME}
    manifest = {"content": content_digest, "files": files} | ({"revision": revision} if revision else {})
    (folder / MANIFEST_NAME).write_bytes(json_text(manifest).encode())


def check_manifest(folder: Path) -> dict[str, Any]:
    """Read MANIFEST.json of a stage's output folder and check that its files are all there and whole.

    Raises:
        StageError: no manifest, or a file is missing, unexpected or has other bytes.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.exists():
        raise StageError(f"{folder}: no {MANIFEST_NAME}; make this folder again with the stage that writes it")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    found = {name: digest for name, digest in hash_tree(Path(folder)).items() if name != MANIFEST_NAME}
    for name in sorted(found.keys() | manifest["files"].keys()):
        if found.get(name) != manifest["files"].get(name):
            raise StageError(f"{Path(folder) / name}: missing, unexpected or changed since it was written; make it again")
    return manifest


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse to replace a folder that no stage wrote: a slip in `--output` must not delete somebody's files.

    Raises:
        StageError: the folder is there, is not empty and has no manifest; or a file or a link is there.
    """
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StageError(
            f"{folder}: a {'link' if folder.is_symlink() else 'file'}, but a stage writes a folder there; choose another name"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).exists():
        raise StageError(
            f"{folder}: it is there, and no {MANIFEST_NAME} in it says that a stage wrote it; it would be replaced:"
            " choose another folder, or empty this one"
        )


def manifest_revision(folder: Path) -> str | None:
    """The metadata's revision that a folder of posts or captions names; its manifest is not checked here."""
    return json.loads((Path(folder) / MANIFEST_NAME).read_text(encoding="utf-8")).get("revision")
