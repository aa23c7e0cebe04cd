"""CCIP features of many pictures, in worker processes, kept on disk as they come."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.hashing import sha256_json
from repro.onnx import package_versions
from repro.outputs import whole_file
from repro.processes import run_here_or_there
from repro.progress import Progress
from repro.state import code_digest

import numpy as np

from ccip.encoder import FEATURE_MODEL, WIDTH, CcipEncoder, encoder_digests
from ccip.score import check_features
from ccip.sources import PictureSource

# Pictures of one kept file, and of one task of a worker.
CHUNK = 64
STAGES = Path(__file__).parents[1]
# All code that opens, decodes and encodes pictures, below STAGES: features made by other code are not continued.
ENCODING_CODE = (
    "booru/images", "ccip/encoder.py", "ccip/features.py", "ccip/folders.py", "ccip/score.py", "ccip/sources.py",
    "generation/picture_folder.py", "repro/onnx.py",
)  # fmt: skip


def determining_parts(encoder: CcipEncoder, sources: Sequence[PictureSource]) -> dict[str, Any]:
    """Everything that determines the features; how many processes make them is not among it."""
    return {
        "encoder": encoder.digests[FEATURE_MODEL],
        "pictures": sha256_json([source.sha256 for source in sources]),
        "code": code_digest(*(STAGES / path for path in ENCODING_CODE)),
        "packages": package_versions(("numpy", "onnxruntime", "pillow")),
    }


def encode_pictures(encoder_folder: Path, sources: Sequence[PictureSource], processes: int, what: str, kept: Path) -> np.ndarray:
    """Features, float32 [len(sources), 768]. Each picture is opened and encoded by itself, so that neither the number of
    processes nor the other pictures reach the bits.

    Args:
        what: the pictures' kind, for the progress lines; kept: folder where features stay, a file for 64 pictures, named
            by the encoder and the pictures' sha256: what is there already is not encoded again.

    Raises:
        StageError: a picture cannot be opened, or its features are unusable.
    """
    encoder = encoder_digests(encoder_folder)[FEATURE_MODEL]
    chunks = [sources[start : start + CHUNK] for start in range(0, len(sources), CHUNK)]
    files = [kept / f"{sha256_json([encoder, [source.sha256 for source in chunk]])}.npy" for chunk in chunks]
    # By file: equal pictures, of two models that are one for instance, are encoded once.
    missing = {file: chunk for file, chunk in zip(files, chunks, strict=True) if not file.exists()}
    progress = Progress("evaluate", sum(map(len, missing.values())), what)
    encode = functools.partial(_encode_chunk, encoder_folder, encoder)
    for encoded in run_here_or_there(encode, list(missing.items()), processes):
        progress.advance(encoded)
    features = np.empty((len(sources), WIDTH), dtype=np.float32)
    for start, file in zip(range(0, len(sources), CHUNK), files, strict=True):
        features[start : start + CHUNK] = np.load(file)
    return features


@functools.lru_cache(maxsize=1)
def _encoder(folder: Path, digest: str) -> CcipEncoder:
    """A process's encoder; the digest keeps apart what stood in the folder at different times."""
    return CcipEncoder(folder)


def _encode_chunk(encoder_folder: Path, digest: str, task: tuple[Path, Sequence[PictureSource]]) -> int:
    """Encode a chunk into its file; returns how many pictures it has."""
    file, chunk = task
    encoder = _encoder(encoder_folder, digest)
    features = np.stack([_features(encoder, source) for source in chunk])
    with whole_file(file) as temporary, open(temporary, "wb") as output:
        np.save(output, features)
    return len(chunk)


def _features(encoder: CcipEncoder, source: PictureSource) -> np.ndarray:
    with source.open() as image:
        features = encoder.features(image)
    check_features(features, source.name)
    return features
