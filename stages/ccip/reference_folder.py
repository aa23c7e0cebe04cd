"""The folder of the references stage: which characters are evaluated, by which pictures, and these pictures' features.

references.json       the characters by tag, and those that are skipped (characters/references.py)
pictures.csv          character, post, sha256 of the picture's file, trained (1: the model has learned from it)
features.safetensors  `features`, float32 [pictures, 768], in the order of pictures.csv; metadata `encoder`: the sha256
                      of the feature model that made them
MANIFEST.json
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest, sha256_json, write_manifest
from repro.outputs import json_text, whole_folder
from repro.tensorfile import TensorSpec, stream_tensors

import numpy as np
from safetensors import SafetensorError, safe_open

from ccip.encoder import WIDTH
from ccip.sources import PictureSource
from ccip.tables import csv_text
from characters.references import ReferenceList, read_references, references_content

REFERENCES_FILE = "references.json"
PICTURES_FILE = "pictures.csv"
FEATURES_FILE = "features.safetensors"
TENSOR = "features"
ENCODER_KEY = "encoder"
PICTURE_COLUMNS = ("character", "post", "sha256", "trained")


@dataclass(frozen=True)
class ReferenceFolder:
    """features: float32 [characters * K, 768], K pictures a character, in the order of `references.characters` and of their
    posts; encoder_sha256: of the feature model that made them; pictures: sha256 of each picture's file, in the same order;
    trained: how many of the pictures the model has learned from."""

    references: ReferenceList
    features: np.ndarray
    encoder_sha256: str
    pictures: tuple[str, ...]
    trained: int


def write_reference_folder(
    folder: Path, references: ReferenceList, sources: Sequence[PictureSource], features: np.ndarray, encoder_sha256: str,
    trained: Sequence[bool],
) -> None:  # fmt: skip
    """Write the folder whole.

    Args:
        sources, features, trained: of each picture, character by character and post by post; features float32 [pictures, 768].
    """
    pictures = [
        (character, post, source.sha256, int(learned))
        for (character, post), source, learned in zip(_posts(references), sources, trained, strict=True)
    ]
    content = references_content(references.characters, references.skipped)
    data = memoryview(np.ascontiguousarray(features, dtype="<f4")).cast("B")
    spec = TensorSpec("F32", (len(pictures), WIDTH))
    with whole_folder(folder) as target:
        (target / REFERENCES_FILE).write_bytes(json_text(content).encode())
        (target / PICTURES_FILE).write_bytes(csv_text(PICTURE_COLUMNS, pictures).encode())
        stream_tensors(target / FEATURES_FILE, {TENSOR: spec}, lambda _: [data], lambda _: {ENCODER_KEY: encoder_sha256})
        parts = {"references": content, "pictures": pictures, "encoder": encoder_sha256}
        write_manifest(target, sha256_json(parts | {"features": hashlib.sha256(data).hexdigest()}))


def read_reference_folder(folder: Path) -> ReferenceFolder:
    """What `write_reference_folder` wrote.

    Raises:
        StageError: no such folder; a file of it is missing or changed; pictures or features are not those of its characters.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder; stages/choose_references.py makes it")
    check_manifest(folder)
    references = read_references(folder / REFERENCES_FILE)
    if len({len(reference.posts) for reference in references.characters}) != 1:
        raise StageError(f"{folder / REFERENCES_FILE}: its characters have not all the same number of posts; make it again")
    pictures, trained = _read_pictures(folder / PICTURES_FILE, references)
    features, encoder = _read_features(folder / FEATURES_FILE)
    shape = (sum(1 for _ in _posts(references)), WIDTH)
    if features.shape != shape or features.dtype != np.float32:
        raise StageError(
            f"{folder / FEATURES_FILE}: features are {features.dtype} {list(features.shape)}, but the characters' pictures"
            f" have float32 {list(shape)}; make the folder again"
        )
    return ReferenceFolder(references, features, encoder, pictures, trained)


def _posts(references: ReferenceList) -> Iterator[tuple[str, int]]:
    """(character, post) of every reference picture, in the files' order."""
    return ((reference.character, post) for reference in references.characters for post in reference.posts)


def _read_pictures(path: Path, references: ReferenceList) -> tuple[tuple[str, ...], int]:
    """The pictures' sha256, and how many were trained on."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if tuple(header) != PICTURE_COLUMNS:
        raise StageError(
            f"{path}: its columns are {', '.join(header)}, expected {', '.join(PICTURE_COLUMNS)}; make the folder again"
        )
    if [tuple(row[:2]) for row in rows] != [(character, str(post)) for character, post in _posts(references)]:
        raise StageError(f"{path}: its pictures are not the posts of {REFERENCES_FILE} in their order; make the folder again")
    if any(len(row) != len(PICTURE_COLUMNS) or row[3] not in ("0", "1") for row in rows):
        raise StageError(f"{path}: 'trained' must be 0 or 1 in every row; make the folder again")
    return tuple(row[2] for row in rows), sum(row[3] == "1" for row in rows)


def _read_features(path: Path) -> tuple[np.ndarray, str]:
    """The features and the encoder that made them."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(TENSOR), file.metadata()[ENCODER_KEY]
    except (SafetensorError, KeyError, TypeError):
        raise StageError(
            f"{path}: expected a safetensors file with the tensor '{TENSOR}' and the metadata '{ENCODER_KEY}'; make it again"
        ) from None
