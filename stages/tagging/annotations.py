"""data/annotations put together: the kept posts' pictures, which of them the reader is asked of, and the shards that are written.

The form of the folder is told in booru.captioning.annotations, where captions are made of it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_json, write_manifest
from repro.outputs import json_text, whole_folder
from repro.params import USUAL_THRESHOLD, TextReader

import numpy as np
import polars as pl

from booru.captioning.annotations import (
    MODELS_FILE,
    PICTURES_FILE,
    SCHEMAS,
    TAGS,
    VOCABULARY_FILE,
    VOCABULARY_SCHEMA,
    pictures_digest,
)
from booru.captioning.thresholds import reaches
from booru.shards import ShardWriter, numbered_frames, read_tags, shard_files
from tagging.answers import Answers
from tagging.model import AskedModel

IMAGE_COLUMNS = ["id", "archive", "offset", "size", "sha256"]


@dataclass(frozen=True)
class KeptImages:
    """The image index's rows of the posts, ascending by id, and of each shard its number and how many of them it has."""

    rows: pl.DataFrame
    shards: tuple[tuple[int, int], ...]

    def only(self, chosen: np.ndarray) -> "KeptImages":
        """Those for which `chosen` (bool) is true; all shards stay, perhaps without any."""
        ends = np.cumsum([count for _, count in self.shards])
        starts = ends - [count for _, count in self.shards]
        counts = [int(chosen[start:end].sum()) for start, end in zip(starts, ends, strict=True)]
        numbers = [number for number, _ in self.shards]
        return KeptImages(self.rows.filter(pl.Series(chosen)), tuple(zip(numbers, counts, strict=True)))

    def digests(self) -> dict[str, str]:
        """{shard's number: digest of its pictures}, by which captions know for which posts annotations were made."""
        ends = np.cumsum([count for _, count in self.shards])
        return {
            str(number): pictures_digest(self.rows.slice(end - count, count))
            for (number, count), end in zip(self.shards, ends, strict=True)
        }


def kept_images(posts: Path) -> KeptImages:
    """The pictures of the filter stage's posts.

    Raises:
        StageError: no such folder, a file is missing or changed, or the posts come of an earlier stage.
    """
    files = shard_files(posts, "posts")
    if missing := [name for name in IMAGE_COLUMNS if name not in pl.read_parquet_schema(files[0])]:
        raise StageError(f"{posts}: these posts have no column {missing[0]}; name the folder of the filter stage")
    frames = list(numbered_frames(files, IMAGE_COLUMNS))
    rows = pl.concat([frame.select(IMAGE_COLUMNS) for _, frame in frames])
    return KeptImages(rows, tuple((number, frame.height) for number, frame in frames))


def shard_frames(kind: str, images: KeptImages, answers: Answers) -> Iterator[tuple[int, pl.DataFrame]]:
    """(number, frame) of each shard, with the columns id and those of the model's answers."""
    start = 0
    for number, count in images.shards:
        found = answers.rows(start, start + count) if count else pl.DataFrame(schema=SCHEMAS[kind])
        yield number, images.rows["id"].slice(start, count).to_frame().hstack(found)
        start += count


def refuse_unknown_tags(posts: Path, settings: TextReader, vocabulary: pl.DataFrame | None) -> None:
    """Raises:
    StageError: one of `only_tags` is known neither to the posts' metadata nor to the tagger (None: there is none)."""
    known = [read_tags(posts)["name"], *([] if vocabulary is None else [vocabulary["name"]])]
    if unknown := [name for name in settings.only_tags if not any(name in names for names in known)]:
        raise StageError(f"annotate.text.only_tags: neither the metadata in {posts} nor the tagger has a tag '{unknown[0]}'")


def asked_of_the_reader(
    posts: Path, settings: TextReader, vocabulary: pl.DataFrame | None, tagged: Iterable[tuple[int, pl.DataFrame]]
) -> np.ndarray:
    """By kept post whether the metadata or the tagger gives it one of `only_tags`: bool.

    Args:
        vocabulary, tagged: the tagger's, and its frames shard by shard; None and nothing where there is none.
    """
    tags = read_tags(posts)
    ids = tags.filter(pl.col("name").is_in(settings.only_tags))["id"].cast(pl.Int32)
    has_id = pl.element().is_in(ids.implode())
    chosen = [
        frame.select(pl.col("tags").list.eval(has_id).list.any().fill_null(False))["tags"].to_numpy()
        for _, frame in numbered_frames(shard_files(posts, "posts"), ["tags"])
    ]
    by_metadata = np.concatenate(chosen)
    if vocabulary is None:
        return by_metadata
    places = vocabulary["name"].is_in(settings.only_tags).to_numpy()
    return by_metadata | np.concatenate([_has_tag(frame, places) for _, frame in tagged])


def _has_tag(frame: pl.DataFrame, wanted: np.ndarray) -> np.ndarray:
    """By row whether the tagger gives it one of the wanted places of its vocabulary (bool)."""
    row = np.repeat(np.arange(frame.height), frame["tags"].list.len().to_numpy())
    place = frame["tags"].explode(empty_as_null=False).to_numpy()
    probability = frame["probabilities"].explode(empty_as_null=False).to_numpy()
    return np.isin(np.arange(frame.height), row[wanted[place] & reaches(probability, USUAL_THRESHOLD)])


def tagger_vocabulary(asked: AskedModel) -> pl.DataFrame:
    """The tagger's names and their categories, in the order of its outputs."""
    from tagging.model_files import TAGGER_TAGS
    from tagging.wd_tagger import read_vocabulary

    vocabulary = read_vocabulary(asked.models / asked.settings.path / TAGGER_TAGS)
    return pl.DataFrame({"name": vocabulary.names, "category": vocabulary.categories}, schema=VOCABULARY_SCHEMA)


def write_annotations(
    folder: Path,
    images: KeptImages,
    found: Sequence[tuple[AskedModel, Iterable[tuple[int, pl.DataFrame]]]],
    revision: str | None,
) -> None:
    """Write the folder: of each model its shards; the tagger's vocabulary; what the models are and of which pictures they were
    asked; the manifest."""
    with whole_folder(folder) as target:
        contents, models = {}, {}
        for asked, frames in found:
            (target / asked.kind).mkdir()
            shards = ShardWriter(target / asked.kind, asked.kind)
            for number, frame in frames:
                shards.write(number, frame)
            if asked.kind == TAGS:
                shards.write_table(VOCABULARY_FILE, tagger_vocabulary(asked))
            contents[asked.kind] = shards.content_digest()
            models[asked.kind] = json.loads(asked.section) | {"files": asked.digests()}
        if found:
            contents[PICTURES_FILE] = images.digests()
            (target / PICTURES_FILE).write_bytes(json_text(contents[PICTURES_FILE]).encode())
        (target / MODELS_FILE).write_bytes(json_text(models).encode())
        write_manifest(target, sha256_json(contents), revision)
