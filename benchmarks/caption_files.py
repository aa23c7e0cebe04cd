"""Captions that a program wrote, read back and compared."""

import json
from pathlib import Path

import polars as pl


def read_captions(path: Path) -> dict[int, str]:
    """{post id: caption} from a JSON-lines or parquet file with columns id and caption, or a folder of such files.

    Raises:
        ValueError: a post has two captions.
    """
    files = sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".parquet")) if path.is_dir() else [path]
    captions: dict[int, str] = {}
    for file in files:
        for post, caption in _rows(file):
            if post in captions:
                raise ValueError(f"{file}: post {post} has a second caption")
            captions[post] = caption
    return captions


def _rows(file: Path) -> list[tuple[int, str]]:
    if file.suffix == ".jsonl":
        with open(file, encoding="utf-8") as lines:
            return [(row["id"], row["caption"]) for row in map(json.loads, lines)]
    schema = pl.read_parquet_schema(file)
    return pl.read_parquet(file, columns=["id", "caption"]).rows() if {"id", "caption"} <= schema.keys() else []


def require_equal(expected: dict[int, str], found: dict[int, str], who: str) -> None:
    """
    Raises:
        ValueError: other posts than expected, or another text; names the first post.
    """
    if different_ids := sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"{who}: {len(different_ids)} posts were captioned by one side only; the first is {different_ids[0]}")
    if different := [post for post in sorted(expected) if expected[post] != found[post]]:
        post = different[0]
        raise ValueError(f"{who}: {len(different)} captions differ; post {post}:\n  {expected[post]}\n  {found[post]}")
