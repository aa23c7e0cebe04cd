"""WD taggers (SmilingWolf's, v2 and v3): an ONNX model and the list of its tags.

    model.onnx         float32 [batch, side, side, 3], BGR 0..255 -> float32 [batch, tags], probabilities
    selected_tags.csv  tag_id, name, category, count: a row a tag; four ratings (9), then general (0), then characters (4)

Published ones have a side of 448 and a batch axis that is free or, of some exports, fixed. The rows' order is what
sd-scripts relies on as well (finetune/tag_images_by_wd14_tagger.py).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import StageError
from repro.onnx import open_session
from repro.params import Tagger

import numpy as np
import onnxruntime
import polars as pl
from PIL import Image

from booru.captioning.thresholds import reaches
from tagging.model_files import TAGGER_MODEL, TAGGER_TAGS, tagger_folder
from tagging.unusable import refuse_unusable
from tagging.wd_preprocess import Revision, model_input

if TYPE_CHECKING:
    import torch

RATINGS = 4
RATING, GENERAL, CHARACTER = 9, 0, 4
BLOCKS = (RATING, GENERAL, CHARACTER)
COLUMNS = ("tag_id", "name", "category")
MOST_TAGS = 2**16
TAG_SCHEMA = {"ratings": pl.List(pl.Float32), "tags": pl.List(pl.UInt16), "probabilities": pl.List(pl.Float32)}


@dataclass(frozen=True)
class Vocabulary:
    """The tags in the order of the model's outputs: names as the booru writes them, and categories 9, 0 or 4."""

    names: tuple[str, ...]
    categories: tuple[int, ...]

    def of(self, category: int) -> tuple[str, ...]:
        """The names of one category."""
        return tuple(name for name, own in zip(self.names, self.categories, strict=True) if own == category)


class WdModel:
    """The probabilities of all tags of a folder's vocabulary."""

    def __init__(self, folder: Path, preprocess: Revision, device: "str | torch.device" = "cpu"):
        """Open the folder and check its interface.

        Args:
            device: the CPU, or a GPU of ONNX Runtime's CUDA build.

        Raises:
            StageError: a file is missing, cannot be read, or has not the interface above.
        """
        path, self._preprocess = Path(folder) / TAGGER_MODEL, preprocess
        self.vocabulary = read_vocabulary(Path(folder) / TAGGER_TAGS)
        self._path, self._session = path, open_session(path, device=str(device))
        self._side, self._batch = _check_signature(self._session, path, len(self.vocabulary.names))
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name

    def probabilities(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """float32 [len(pictures), tags], of all pictures at once, or as many at once as the model takes.

        Raises:
            UnusableAnswerError: the answer to a picture is not a probability for each tag.
        """
        inputs = np.stack([model_input(picture, self._side, self._preprocess) for picture in pictures])
        if self._batch is None:
            found = self._run(inputs)
        else:
            empty = -len(inputs) % self._batch
            full = np.concatenate([inputs, np.repeat(inputs[-1:], empty, axis=0)])
            parts = [self._run(full[start : start + self._batch]) for start in range(0, len(full), self._batch)]
            found = np.concatenate(parts)[: len(inputs)]
        refuse_unusable(found, self._path, "expected a WD tagger, whose last layer is a sigmoid")
        return found

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        (found,) = self._session.run([self._output], {self._input: inputs})
        expected = (len(inputs), len(self.vocabulary.names))
        if found.shape != expected:
            raise StageError(
                f"{self._path}: its answers are {found.shape}, expected a number for each picture and tag: {expected}"
            )
        return found


class WdTagger:
    """A tagger as the parameters name it; the interface of the models that describe pictures.

    A picture's row: its ratings' probabilities, the places (rows of selected_tags.csv from 0) of the other tags that have at
    least the parameters' `floor`, ascending, and their probabilities.

    Attributes:
        schema: the row's columns. digests: {file: sha256} of the folder's files. vocabulary: the tags by place.
    """

    schema = TAG_SCHEMA

    def __init__(self, models: Path, settings: Tagger, device: "str | torch.device" = "cpu"):
        """Open the settings' folder below `models`.

        Raises:
            StageError: a file is missing, has another sha256, cannot be read, or has not the interface above.
        """
        self.digests = tagger_folder(settings).digests(models)
        self._model = WdModel(Path(models, settings.path), settings.preprocess, device)
        self._floor = settings.floor
        self.vocabulary = self._model.vocabulary

    def describe(self, pictures: Sequence[Image.Image]) -> list[tuple[list[float], list[int], list[float]]]:
        """A row a picture."""
        return [tag_row(probabilities, self._floor) for probabilities in self._model.probabilities(pictures)]


def tag_row(probabilities: np.ndarray, floor: float) -> tuple[list[float], list[int], list[float]]:
    """Columns of `TAG_SCHEMA` from float32 [tags]: the ratings', and what else has at least `floor`."""
    places = RATINGS + np.flatnonzero(reaches(probabilities[RATINGS:], floor))
    return probabilities[:RATINGS].tolist(), places.tolist(), probabilities[places].tolist()


def read_vocabulary(path: Path) -> Vocabulary:
    """The tags of a selected_tags.csv.

    Raises:
        StageError: no such file, not such a list, or its blocks are not those of four ratings, general tags, characters.
    """
    if not path.is_file():
        raise StageError(f"{path}: no such file; a WD tagger's folder holds {TAGGER_MODEL} and {TAGGER_TAGS}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
        names = tuple(row[header.index("name")] for row in rows)
        categories = tuple(int(row[header.index("category")]) for row in rows)
    except (ValueError, IndexError, csv.Error):
        raise StageError(
            f"{path}: expected a table with the columns {', '.join(COLUMNS)} and numbers for categories; fetch it again"
        ) from None
    _check_blocks(path, names, categories)
    return Vocabulary(names, categories)


def _check_blocks(path: Path, names: Sequence[str], categories: Sequence[int]) -> None:
    if strange := [row for row, category in enumerate(categories) if category not in BLOCKS]:
        row = strange[0]
        raise StageError(
            f"{path}: tag '{names[row]}' has category {categories[row]}; known: {RATING} rating, {GENERAL} general,"
            f" {CHARACTER} character"
        )
    order = [BLOCKS.index(category) for category in categories]
    if unsorted := [row + 1 for row, (one, other) in enumerate(pairwise(order)) if other < one]:
        raise StageError(
            f"{path}: tag '{names[unsorted[0]]}' is out of order; expected the ratings ({RATING}) first, then general tags"
            f" ({GENERAL}), then characters ({CHARACTER})"
        )
    if (ratings := order.count(0)) != RATINGS:
        raise StageError(f"{path}: expected {RATINGS} ratings (category {RATING}), found {ratings}")
    if len(names) > MOST_TAGS:
        raise StageError(f"{path}: {len(names)} tags, more than the {MOST_TAGS} that a tag's place can number")


def _check_signature(session: onnxruntime.InferenceSession, path: Path, tags: int) -> tuple[int, int | None]:
    """The model's side in pixels, and the batch that it takes (None: any).

    Raises:
        StageError: it is no model of one picture to one number a tag.
    """
    pictures, found = session.get_inputs(), session.get_outputs()[0]
    shape = pictures[0].shape if [value.type for value in pictures] == ["tensor(float)"] else []
    if len(shape) != 4 or not isinstance(shape[1], int) or shape[1] != shape[2] or shape[3] != 3:
        told = [(value.name, value.type, value.shape) for value in pictures]
        raise StageError(f"{path}: the input must be one float32 [batch, side, side, 3], as WD taggers have; it is {told}")
    if found.type != "tensor(float)" or len(found.shape) != 2 or (isinstance(found.shape[1], int) and found.shape[1] != tags):
        raise StageError(
            f"{path}: the first output must be float32 [batch, {tags}], one for each row of {TAGGER_TAGS}; this model has"
            f" {(found.name, found.type, found.shape)}; expected both files of one model"
        )
    return shape[1], shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
