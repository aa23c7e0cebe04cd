"""Pictures described by one model, in portions that worker processes write to files, `batch_size` pictures at a time.

With a batch_size of 1 an answer hangs on its picture alone. So answers are looked up picture by picture in the files that are
there, and only pictures without one are asked of, equal ones once.

A larger batch always has that many: the last of a portion is filled up with its last picture again, since a model's last bits
hang on how many pictures it sees at once, and with a matrix product's edges on a picture's place among them. They do not hang
on what the others show, nor on the number of processes. A picture more or less moves those behind it in its portion to other
places; such a portion, of PORTION batches on the average, is asked of again as a whole. All other portions stay as they are.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from repro.errors import StageError
from repro.outputs import whole_file
from repro.processes import run_here_or_there
from repro.progress import Progress

import numpy as np
import polars as pl
from PIL import Image

from booru.images.archives import ImageArchives
from booru.images.decoding import UnreadableImageError, decode
from booru.images.portions import PORTION, Portion, make_portions, unfinished
from booru.shards import write_frame
from tagging.answers import DIGEST, Answers, digests_of, in_order, index_of
from tagging.model import AskedModel, PictureModel
from tagging.unusable import UnusableAnswerError


@dataclass(frozen=True)
class DescribeTask:
    image_root: Path
    asked: AskedModel
    portion: Portion


@lru_cache(maxsize=1)
def _model_of_this_process(asked: AskedModel) -> PictureModel:
    return asked.open()


def describe(task: DescribeTask) -> int:
    """Write the answers to a portion's pictures and the pictures' sha256, in their order; returns how many there are.

    Raises:
        StageError: a picture cannot be read, or the answer to it is unusable; names the post.
    """
    model, archives = _model_of_this_process(task.asked), ImageArchives(task.image_root)
    rows, size = task.portion.rows(), task.asked.batch_size
    found: list[tuple] = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        pictures = [_picture(archives, row) for row in batch]
        filled = pictures + pictures[-1:] * (size - len(pictures))
        try:
            found += model.describe(filled)[: len(pictures)]
        except UnusableAnswerError as error:
            raise StageError(f"post {batch[min(error.place, len(batch) - 1)]['id']}: {error}") from None
    frame = pl.DataFrame(found, schema=model.schema, orient="row")
    frame = frame.with_columns(pl.Series(DIGEST, [row["sha256"] for row in rows]))
    with whole_file(task.portion.output) as temporary:
        write_frame(temporary, frame)
    return len(rows)


def _picture(archives: ImageArchives, row: dict) -> Image.Image:
    try:
        return decode(archives.read(row))
    except UnreadableImageError as error:
        raise StageError(
            f"post {row['id']}: its picture in {row['archive']} cannot be read ({error}), though the filter stage kept it;"
            " index the images again with stages/index_images.py, then filter anew"
        ) from None


def describe_all(images: pl.DataFrame, asked: AskedModel, image_root: Path, state: Path, processes: int) -> Answers:
    """Ask what `state` does not hold yet; returns the answers to all images (IMAGE_COLUMNS), in their order."""
    if asked.batch_size > 1:
        portions = _in_portions(images, state, asked)
        _work_off(portions, images.height, asked, image_root, processes)
        return in_order([portion.output for portion in portions], [len(portion) for portion in portions])
    digests, kept = digests_of(images["sha256"]), index_of(sorted(state.glob("??/*.parquet")))
    wanted = np.zeros(len(digests), dtype=bool)
    wanted[np.unique(digests, return_index=True)[1]] = True
    portions = _in_portions(images.filter(pl.Series(wanted & ~kept.known(digests))), state, asked)
    _work_off(portions, images.height, asked, image_root, processes)
    return index_of([*kept.files, *(portion.output for portion in portions)]).answers(digests)


def _in_portions(images: pl.DataFrame, state: Path, asked: AskedModel) -> list[Portion]:
    return make_portions(images, state, ".parquet", ["sha256"], mean=PORTION * asked.batch_size)


def _work_off(portions: list[Portion], total: int, asked: AskedModel, image_root: Path, processes: int) -> None:
    tasks = [DescribeTask(image_root, asked, portion) for portion in unfinished(portions)]
    done = total - sum(len(task.portion) for task in tasks)
    progress = Progress(f"annotate {asked.kind}", total, "images", done=done)
    for count in run_here_or_there(describe, tasks, processes):
        progress.advance(count)
