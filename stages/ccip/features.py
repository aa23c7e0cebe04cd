"""CCIP features of many pictures, in worker processes."""

import functools
from collections.abc import Sequence
from pathlib import Path

from repro.processes import run_workers
from repro.progress import Progress

import numpy as np

from ccip.encoder import CcipEncoder
from ccip.score import check_features
from ccip.sources import PictureSource


def encode_pictures(encoder_folder: Path, sources: Sequence[PictureSource], processes: int, what: str) -> np.ndarray:
    """Features, float32 [len(sources), 768]. Each picture is opened (made, where it is to be made) and
    encoded by itself, so that neither the number of processes nor the other pictures reach the bits.

    Args:
        what: the pictures' kind, for the progress lines.

    Raises:
        StageError: a picture cannot be opened or made, or its features are unusable.
    """
    progress = Progress("evaluate", len(sources), what)
    features = []
    for one in run_workers(functools.partial(_encode, encoder_folder), sources, processes):
        features.append(one)
        progress.advance()
    return np.stack(features)


@functools.lru_cache(maxsize=1)
def _encoder(folder: Path) -> CcipEncoder:
    return CcipEncoder(folder)


def _encode(encoder_folder: Path, source: PictureSource) -> np.ndarray:
    features = _encoder(encoder_folder).features(source.open())
    check_features(features, source.name)
    return features
