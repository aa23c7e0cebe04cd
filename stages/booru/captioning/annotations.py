"""data/annotations: what models say of the kept posts' pictures, as the annotate stage hands it on.

A sub-folder a model that was asked (`tags`, `aesthetic`, `quality`, `text`), with id-sorted shards `<model>-<number>.parquet`
that have the numbers of the posts' shards. Beside the tags stands `vocabulary.parquet` (name, category), the rows of the
tagger's selected_tags.csv. MODELS_FILE tells of each model what it is and how it was asked, PICTURES_FILE by the number of a
posts' shard which pictures it has; MANIFEST.json is the folder's.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import polars as pl

from booru.ratings import RATINGS
from booru.shards import shard_name, shard_number, values_digest

TAGS, AESTHETIC, QUALITY, TEXT = KINDS = ("tags", "aesthetic", "quality", "text")
MODELS_FILE, PICTURES_FILE = "models.json", "pictures.json"
VOCABULARY_FILE = "vocabulary.parquet"
# Columns of the shards beside id: probabilities of the four ratings; places in the vocabulary (from 0) of the other tags that
# are not all too unlikely, ascending, and their probabilities; scores 0..1; the reader's whole answer, prompt included.
SCHEMAS = {
    TAGS: {"ratings": pl.List(pl.Float32), "tags": pl.List(pl.UInt16), "probabilities": pl.List(pl.Float32)},
    AESTHETIC: {"score": pl.Float32},
    QUALITY: {"score": pl.Float32},
    TEXT: {"answer": pl.String},
}
VOCABULARY_SCHEMA = {"name": pl.String, "category": pl.UInt8}
# Categories of selected_tags.csv; its ratings come first.
GENERAL_CATEGORY, CHARACTER_CATEGORY, RATING_CATEGORY = 0, 4, 9
# The wildcard of a picture in LLaVA's prompt, which its decoded answers do not repeat.
PICTURE_TOKEN = "<image>"


def annotated_kinds(folder: Path) -> list[str]:
    """Which models were asked, after a check of the whole folder.

    Raises:
        StageError: no such folder, or a file is missing or changed.
    """
    if not Path(folder).is_dir():
        raise StageError(f"{folder}: no such folder of annotations; the annotate stage writes it")
    check_manifest(folder)
    return list(_models(folder))


def _models(folder: Path) -> dict[str, dict]:
    return json.loads((Path(folder) / MODELS_FILE).read_text(encoding="utf-8"))


def pictures_digest(posts: pl.DataFrame) -> str:
    """Digest of which pictures (column sha256, hexadecimal) these posts (id) have."""
    return values_digest(posts.select(pl.col("id").cast(pl.Int64), "sha256"))


def refuse_other_pictures(folder: Path, posts: Sequence[Path]) -> None:
    """Raises:
    StageError: the annotations are not of the pictures of these shards of posts."""
    told = json.loads((Path(folder) / PICTURES_FILE).read_text(encoding="utf-8"))
    for file in posts:
        if "sha256" not in pl.read_parquet_schema(file):
            raise StageError(f"{file}: these posts have no column sha256; annotations are of the posts of the filter stage")
        if told.get(str(shard_number(file))) != pictures_digest(pl.read_parquet(file, columns=["id", "sha256"])):
            raise StageError(f"{folder}: these annotations are not of the pictures that {file} names; annotate again from there")


def answer_prefix(folder: Path) -> str:
    """What the reader's answers begin with: its prompt, as it comes back decoded."""
    return _models(folder)[TEXT]["prompt"].replace(PICTURE_TOKEN, "")


def read_vocabulary(folder: Path) -> pl.DataFrame:
    """The tagger's names and their categories; places of `tags` are its rows.

    Raises:
        StageError: the ratings are not Danbooru's four.
    """
    path = Path(folder) / TAGS / VOCABULARY_FILE
    vocabulary = pl.read_parquet(path)
    ratings = vocabulary.filter(pl.col("category") == RATING_CATEGORY)["name"].to_list()
    if ratings != list(RATINGS):
        raise StageError(f"{path}: the tagger's ratings are {', '.join(ratings) or 'none'}; expected {', '.join(RATINGS)}")
    return vocabulary


def read_annotations(folder: Path, kind: str, number: int, ids: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """These columns of a model's annotations of the posts of one shard, in the order of `ids`; null where the reader was
    not asked.

    Raises:
        StageError: a post that is not there; names it.
    """
    file = Path(folder) / kind / shard_name(kind, number)
    if not file.is_file():
        raise StageError(f"{file}: no annotations of these posts; annotate again from this folder of kept posts")
    found = pl.read_parquet(file, columns=["id", *columns])
    if kind != TEXT:
        missing = ids.filter(~ids.is_in(found["id"].implode()))
        if len(missing):
            raise StageError(f"{file}: post {missing[0]} is not there; annotate again from this folder of kept posts")
    return ids.to_frame("id").join(found, on="id", how="left", maintain_order="left", validate="1:1").select(columns)


def read_answers(folder: Path) -> Iterator[tuple[Path, pl.Series]]:
    """(file, the reader's answers in it, each once) of each shard."""
    for file in sorted((Path(folder) / TEXT).glob(f"{TEXT}-*.parquet")):
        yield file, pl.read_parquet(file, columns=["answer"])["answer"].unique().sort()
