"""What a run leaves on its way: checkpoints by a rule of what is kept, and pictures from fixed prompts and seeds.

They are made in the state folder, before the state of the same update is saved, so that a killed run finds all it had
passed, and are published with the other outputs when the run is over.
"""

import contextlib
import os
import shutil
from pathlib import Path

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, hash_tree, sha256_json
from repro.outputs import json_text, whole_folder
from repro.params import Checkpoints, Pictures

CHECKPOINTS, PICTURES = "checkpoints", "pictures"


def checkpoint_name(update: int) -> str:
    return f"update-{update:08d}.safetensors"


def kept_checkpoints(updates: int, rule: Checkpoints | None) -> list[int]:
    """The numbers of updates whose checkpoints are there when so many updates are done, rising."""
    if rule is None:
        return []
    made = range(rule.every, updates + 1, rule.every)
    newest = made[-rule.keep_last :] if rule.keep_last else []
    return [update for update in made if update in newest or (rule.keep_every and update % rule.keep_every == 0)]


def drop_checkpoints(state: Path, updates: int, rule: Checkpoints) -> None:
    """Remove those that the rule does not keep any more."""
    kept = {checkpoint_name(update) for update in kept_checkpoints(updates, rule)}
    for file in sorted((state / CHECKPOINTS).glob("update-*.safetensors")):
        if file.name not in kept:
            file.unlink()


def picture_updates(updates: int, settings: Pictures | None) -> list[int]:
    """The numbers of updates after which pictures are drawn, 0 being the untrained model."""
    return [] if settings is None else list(range(0, updates + 1, settings.every))


def picture_name(update: int, prompt: int) -> str:
    return f"update-{update:08d}-{prompt:02d}.png"


def _share(file: Path, target: Path) -> None:
    """Give a file, which nobody writes to any more, a second name, or a copy of that name on another file system."""
    with contextlib.suppress(OSError):
        os.link(file, target)
        return
    shutil.copyfile(file, target)


def publish(folder: Path, made: Path, names: list[str]) -> None:
    """Write an output folder of these files of `made`, and a manifest, whose content digest is that of the files' digests.

    `made` keeps its files: a run that dies before all its outputs stand publishes them once more. So a file is linked, not
    moved, and copied only where the two folders cannot share it.

    Raises:
        StageError: one is missing: somebody removed it from the state while the run went on.
    """
    with whole_folder(folder) as new:
        for name in names:
            if not (made / name).exists():
                raise StageError(
                    f"{made / name}: missing; it was made by this run and removed since. Remove {made.parent} to begin anew"
                )
            _share(made / name, new / name)
        digests = hash_tree(new)
        (new / MANIFEST_NAME).write_bytes(json_text({"content": sha256_json(digests), "files": digests}).encode())
