"""A folder of pictures tagged: found, their probabilities in worker processes, and a caption file beside each."""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from repro.errors import StageError
from repro.hashing import hash_tree
from repro.onnx import package_versions
from repro.outputs import whole_file, write_text
from repro.processes import run_here_or_there
from repro.progress import Progress
from repro.state import code_digest

import numpy as np
import polars as pl
from PIL import Image

from booru.captioning.annotations import TAGS
from booru.images.decoding import UnreadableImageError, decode
from booru.images.image_rows import PICTURE_EXTENSIONS, extension_of
from tagging.model import CODE, DECODING, PACKAGES, STAGES
from tagging.model_files import TAGGER_MODEL, TAGGER_TAGS
from tagging.unusable import UnusableAnswerError
from tagging.wd_captions import TagCaptions
from tagging.wd_preprocess import Revision
from tagging.wd_tagger import RATINGS, TAG_SCHEMA, WdModel, tag_row

# Pictures of one kept file, and of one task of a worker: on the average, and at most.
CHUNK = 32
LARGEST = 4 * CHUNK
# Lower probabilities are not kept, unless a threshold asks for them: it can be changed while a run is interrupted.
FLOOR = 0.05
UNREADABLE = "unreadable"
KEPT_SCHEMA = TAG_SCHEMA | {UNREADABLE: pl.String}
# All code that decides probabilities, below STAGES.
TAGGING_CODE = (DECODING, "tagging/wd_folder.py", *CODE[TAGS])


class Picture(NamedTuple):
    """A picture of the folder: its path in it, and what shows that it has not changed between two runs."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class TagTask:
    """Pictures of the folder `images` whose rows go into the file `output`, `batch_size` at a time."""

    model: Path
    preprocess: Revision
    device: Literal["cpu", "cuda"]
    batch_size: int
    floor: float
    images: Path
    pictures: tuple[Picture, ...]
    output: Path


def find_pictures(folder: Path, recursive: bool) -> list[Picture]:
    """The folder's pictures, of the sub-folders too where `recursive`, sorted by path. They are known by their extensions;
    hidden files and folders (a leading dot) are passed over.

    Raises:
        StageError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder; expected one of pictures")
    found = []
    for path in folder.rglob("*") if recursive else folder.iterdir():
        own = path.relative_to(folder)
        if (
            extension_of(path.name) in PICTURE_EXTENSIONS
            and not any(part.startswith(".") for part in own.parts)
            and path.is_file()
        ):
            known = path.stat()
            found.append(Picture(str(own), known.st_size, known.st_mtime_ns))
    if not found:
        raise StageError(f"{folder}: no pictures in it{'' if recursive else '; --recursive looks into its sub-folders'}")
    return sorted(found)


def caption_files(pictures: Sequence[Picture], extension: str) -> list[str]:
    """The caption's path of each picture, in the folder.

    Raises:
        StageError: the extension is none or a picture's, or two pictures would have one caption.
    """
    if not extension.startswith(".") or extension_of(extension) in PICTURE_EXTENSIONS:
        raise StageError(f"--caption_extension {extension}: expected an extension of text files, such as .txt")
    owners: dict[str, str] = {}
    for picture in pictures:
        caption = os.path.splitext(picture.path)[0] + extension
        if caption in owners:
            raise StageError(f"{owners[caption]} and {picture.path} would both have the caption {caption}; rename one of them")
        owners[caption] = picture.path
    return list(owners)


def determining_parts(model: Path, preprocess: Revision, device: dict[str, str], batch_size: int, floor: float) -> dict[str, Any]:
    """What determines the kept rows of a folder's pictures beside the pictures.

    Args:
        device: what of it decides bits.

    Raises:
        StageError: a file of the model is missing.
    """
    for name in (TAGGER_MODEL, TAGGER_TAGS):
        if not (model / name).is_file():
            raise StageError(f"{model / name}: no such file; a WD tagger's folder holds {TAGGER_MODEL} and {TAGGER_TAGS}")
    return {
        "model": {name: hash_tree(model / name) for name in (TAGGER_MODEL, TAGGER_TAGS)},
        "preprocess": preprocess,
        "device": device,
        "batch_size": batch_size,
        "floor": floor,
        "code": code_digest(*(STAGES / path for path in TAGGING_CODE)),
        "packages": package_versions(PACKAGES[TAGS]),
    }


def make_chunks(pictures: Sequence[Picture]) -> list[tuple[Picture, ...]]:
    """Divide the pictures where their own paths say: one more or less changes one chunk, or parts or joins two."""
    chunks: list[list[Picture]] = []
    for picture in pictures:
        digest = hashlib.sha256(os.fsencode(picture.path)).digest()
        if not chunks or digest[0] % CHUNK == 0 or len(chunks[-1]) == LARGEST:
            chunks.append([])
        chunks[-1].append(picture)
    return [tuple(chunk) for chunk in chunks]


def chunk_file(chunk: Sequence[Picture], kept: Path) -> Path:
    """The file in the folder `kept` that holds the rows of these pictures, as they are now."""
    known = "\n".join(repr(tuple(picture)) for picture in chunk)
    return kept / f"{hashlib.sha256(known.encode()).hexdigest()}.parquet"


def tagged(tasks: Sequence[TagTask], processes: int) -> Iterator[TagTask]:
    """The tasks as their rows are there: those that were kept first, then the others as they are done.

    Raises:
        StageError: the model cannot be opened or gives no probabilities.
    """
    kept, waiting = ([task for task in tasks if task.output.exists() == there] for there in (True, False))
    total, done = (sum(len(task.pictures) for task in some) for some in (tasks, kept))
    yield from kept
    progress = Progress("tag", total, "images", done=done)
    for task, count in zip(waiting, run_here_or_there(tag, waiting, processes), strict=True):
        progress.advance(count)
        yield task


def tag(task: TagTask) -> int:
    """Write the rows of a task's pictures; returns how many there are. Each batch is filled up to one size, so that a row
    does not depend on its neighbours. A picture that cannot be read has the reason in its row and nothing else.

    Raises:
        StageError: the model cannot be opened, or its answer to a picture, which is named, is no probabilities.
    """
    model = _model_of_this_process(task.model, task.preprocess, task.device)
    rows: dict[int, tuple] = {}
    batch: dict[int, Image.Image] = {}
    for number, picture in enumerate(task.pictures):
        opened = _opened(task.images / picture.path)
        if isinstance(opened, str):
            rows[number] = (None, None, None, opened)
            continue
        batch[number] = opened
        if len(batch) == task.batch_size:
            rows |= _rows(model, batch, task)
            batch = {}
    if batch:
        rows |= _rows(model, batch, task)
    ordered = [rows[number] for number in range(len(task.pictures))]
    with whole_file(task.output) as temporary:
        pl.DataFrame(ordered, schema=KEPT_SCHEMA, orient="row").write_parquet(temporary)
    return len(task.pictures)


def _opened(path: Path) -> Image.Image | str:
    """The picture, or the reason why it cannot be read."""
    try:
        return decode(path.read_bytes())
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _rows(model: WdModel, batch: dict[int, Image.Image], task: TagTask) -> dict[int, tuple]:
    images = list(batch.values())
    filled = images + images[-1:] * (task.batch_size - len(images))
    try:
        probabilities = model.probabilities(filled)[: len(images)]
    except UnusableAnswerError as error:
        number = list(batch)[min(error.place, len(batch) - 1)]
        raise StageError(f"{task.images / task.pictures[number].path}: {error}") from None
    return {number: (*tag_row(own, task.floor), None) for number, own in zip(batch, probabilities, strict=True)}


@functools.lru_cache(maxsize=1)
def _model_of_this_process(folder: Path, preprocess: Revision, device: Literal["cpu", "cuda"]) -> WdModel:
    if device == "cpu":
        return WdModel(folder, preprocess)
    from repro.devices import device_of_this_process  # late: it takes torch

    return WdModel(folder, preprocess, device_of_this_process(device))


def kept_probabilities(file: Path, tags: int) -> Iterator[np.ndarray | str]:
    """What `tag` wrote, picture by picture: float32 [tags], 0 where they were below the floor, or why there are none."""
    for ratings, places, probabilities, unreadable in pl.read_parquet(file).iter_rows():
        if unreadable is not None:
            yield unreadable
            continue
        dense = np.zeros(tags, dtype=np.float32)
        dense[:RATINGS], dense[places] = ratings, probabilities
        yield dense


def write_caption(path: Path, captions: TagCaptions, tags: Sequence[str], append: bool) -> str | None:
    """Write a picture's caption file; with `append` to what it says. Returns why that cannot be done, or None."""
    try:
        present = path.read_bytes() if path.exists() else None
        existing = present.decode().replace("\r\n", "\n") if append and present is not None else None
        text = captions.caption(tags, existing) + "\n"
        if text.encode() != present:
            write_text(path, text)
    except UnicodeDecodeError:
        return f"{path.name} is not UTF-8 text, so that nothing was appended"
    except OSError as error:
        return f"{path.name} cannot be read or written ({error.strerror or error})"
    return None
