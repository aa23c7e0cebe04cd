"""Captions that a program wrote, read back and compared."""

import json
from pathlib import Path


def read_captions(path: Path) -> dict[int, str]:
    """{post id: caption} from JSON lines of id and caption: a file, or all *.jsonl of a folder.

    Raises:
        ValueError: no such file in the folder, or a post has two captions.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no *.jsonl with captions")
    captions: dict[int, str] = {}
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if row["id"] in captions:
                    raise ValueError(f"{file}: post {row['id']} has a second caption")
                captions[row["id"]] = row["caption"]
    return captions


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
