"""Pictures described by one model, in portions that worker processes write to files, `batch_size` pictures at a time.

A batch always has this many: the last of a portion is filled up with its last picture again, since a model's last bits hang on
how many pictures it sees at once, and with a matrix product's edges on a picture's place among them. They do not hang on what
the others show, nor on the number of processes. A picture more moves those behind it in its portion to other places, so that
their last bits may change with a batch_size above 1; all other portions stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from repro.errors import StageError
from repro.outputs import whole_file
from repro.processes import run_here_or_there
from repro.progress import Progress

import polars as pl
import polars.selectors as cs
from PIL import Image

from booru.images.archives import ImageArchives
from booru.images.decoding import UnreadableImageError, decode
from booru.images.portions import PORTION, Portion, make_portions, unfinished
from booru.shards import write_frame
from tagging.model import AskedModel, PictureModel


@dataclass(frozen=True)
class DescribeTask:
    image_root: Path
    asked: AskedModel
    portion: Portion


@lru_cache(maxsize=1)
def _model_of_this_process(asked: AskedModel) -> PictureModel:
    return asked.open()


def describe(task: DescribeTask) -> int:
    """Write the rows of a portion's pictures, in their order; returns how many there are.

    Raises:
        StageError: a picture cannot be read, or an answer has a number that is none; names the post.
    """
    model, archives = _model_of_this_process(task.asked), ImageArchives(task.image_root)
    rows, size = task.portion.rows(), task.asked.batch_size
    found: list[tuple] = []
    for start in range(0, len(rows), size):
        pictures = [_picture(archives, row) for row in rows[start : start + size]]
        filled = pictures + pictures[-1:] * (size - len(pictures))
        found += model.describe(filled)[: len(pictures)]
    frame = pl.DataFrame(found, schema=model.schema, orient="row")
    _refuse_no_numbers(frame, [row["id"] for row in rows], task.asked.kind)
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


def _refuse_no_numbers(frame: pl.DataFrame, ids: Sequence[int], kind: str) -> None:
    for column in frame.select(cs.float()):
        if not column.is_finite().all():
            post = ids[column.is_finite().not_().arg_true()[0]]
            raise StageError(
                f"post {post}: the model of annotate.{kind} gives a {column.name} that is NaN or infinite; fetch"
                " it again, or use another model"
            )


def describe_all(images: pl.DataFrame, asked: AskedModel, image_root: Path, state: Path, processes: int) -> list[Portion]:
    """Describe what `state` does not hold yet; returns all portions, in the order of the images."""
    portions = make_portions(images, state, ".parquet", ["sha256"], mean=PORTION * asked.batch_size)
    tasks = [DescribeTask(image_root, asked, portion) for portion in unfinished(portions)]
    done = images.height - sum(len(task.portion) for task in tasks)
    progress = Progress(f"annotate {asked.kind}", images.height, "images", done=done)
    for count in run_here_or_there(describe, tasks, processes):
        progress.advance(count)
    return portions
