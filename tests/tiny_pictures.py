"""Small pictures for tests of scoring: files, folders with a sub-folder a character, features."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from repro.randomness import Stream

import numpy as np
from PIL import Image

MODEL = "evaluate/ccip/hub/deepghs/ccip_onnx/ccip-caformer-24-randaug-pruned"


def tiny_picture(*key: int | str) -> bytes:
    """A PNG of coarse coloured squares, another for each key."""
    stream = Stream(2, "tiny picture", *key)
    small = Image.frombytes("RGB", (6, 5), bytes(stream.below(256) for _ in range(90)))
    buffer = BytesIO()
    small.resize((48, 40), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()


def write_character_folders(folder: Path, characters: Mapping[str, Sequence[bytes]]) -> Path:
    """`<folder>/<character>/<number>.png`; returns the folder."""
    for name, pictures in characters.items():
        (folder / name).mkdir(parents=True)
        for number, data in enumerate(pictures):
            (folder / name / f"{number:02d}.png").write_bytes(data)
    return folder


def random_features(purpose: str, rows: int, dims: int = 768) -> np.ndarray:
    """Features float32 [rows, dims] in -1..1."""
    stream = Stream(1, purpose)
    return np.array([[stream.uniform() * 2 - 1 for _ in range(dims)] for _ in range(rows)], dtype=np.float32)
