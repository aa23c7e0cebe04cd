"""The threshold of a CCIP encoder: the difference below which two pictures are taken for one character.

As the published encoders' metrics.json were made: the best F1 over all pairs of pictures of characters that
the encoder has not learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccip.encoder import model_input, open_session
from sample.ccip_pictures import CharacterPictures

# Finer steps than the scores need, coarse enough that a last bit of a difference moves no threshold.
STEPS = 10_000


@dataclass(frozen=True)
class Verdict:
    """How well `difference <= threshold` tells pairs of one character from pairs of two."""

    threshold: float
    f1_score: float
    precision: float
    recall: float


def pair_differences(features: np.ndarray, characters: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(differences of the pairs of one character, of two characters), float64; features [n, width], one label each."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    differences = np.clip((1 - unit @ unit.T) / 2, 0, 1)
    labels = np.asarray(characters)
    rows, columns = np.triu_indices(len(labels), 1)
    same = labels[rows] == labels[columns]
    values = differences[rows, columns]
    return values[same], values[~same]


def best_threshold(same: np.ndarray, different: np.ndarray) -> Verdict:
    """The threshold with the best F1 among 0.0001, 0.0002 ... 0.9999; the smallest of equals."""
    candidates = np.arange(1, STEPS) / STEPS
    found = np.searchsorted(np.sort(same), candidates, side="right")
    wrong = np.searchsorted(np.sort(different), candidates, side="right")
    f1 = 2 * found / (found + wrong + len(same))
    best = int(f1.argmax())
    called_same = max(int(found[best] + wrong[best]), 1)
    return Verdict(float(candidates[best]), float(f1[best]), float(found[best] / called_same), float(found[best] / len(same)))


def judge(model: Path, held_out: Sequence[CharacterPictures]) -> Verdict:
    """Choose the threshold of a model_feat.onnx on pictures of characters that it has not learnt."""
    session = open_session(model)
    pictures = [(image, number) for number, group in enumerate(held_out) for image in group.images]
    features = np.concatenate([session.run(["output"], {"input": model_input(image)})[0] for image, _ in pictures])
    return best_threshold(*pair_differences(features, [number for _, number in pictures]))
