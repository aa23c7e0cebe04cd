"""The sample's tagger as an integer ONNX model with the WD taggers' interface."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sample.integer_onnx import IntegerGraph, Quantised, folded_layers
from sample.posts import RATINGS
from sample.tagger_pictures import SEEN, Vocabulary

# Pixels are whole numbers already; the network reads the same integers as -1..1.
PIXELS = Quantised(np.float32(1), 0)
VIEWS = Quantised(np.float32(1 / 128), 128)
# Logits from -8 to 7.94, probabilities from 0.0003 to 0.9996.
LOGITS = Quantised(np.float32(1 / 16), 128)
# The categories of selected_tags.csv: danbooru's of today, which have 4 for characters, and one of its own.
GENERAL, CHARACTER, RATING = 0, 4, 9
# selected_tags.csv gives ratings the last ids that danbooru's tags could have.
FIRST_RATING_ID = 9_999_999


def export_tagger(network: nn.Sequential, names: Vocabulary, calibration: torch.Tensor, path: Path) -> None:
    """Write model.onnx: input float32 [batch, 64, 64, 3], blue, green, red 0..255 -> probabilities float32 [batch, tags].

    The sigmoid is a table over the 256 logits that there are: a float one would have other bits on other CPUs.
    `calibration` float32 [n, 3, 64, 64], views on which the activations' ranges are measured.
    """
    graph = IntegerGraph("tagger")
    graph.quantise("input", "pixels", PIXELS)
    graph.node("Transpose", ["pixels"], "view", perm=[0, 3, 1, 2])
    layers = folded_layers(network, calibration)
    layers[-1] = replace(layers[-1], output=LOGITS)
    last = graph.convolutions("view", VIEWS, layers)
    graph.node("Flatten", [last], "logits", axis=1)
    graph.node("Cast", ["logits"], "places", to=6)
    graph.node("Gather", [graph.constant("sigmoid", sigmoid_table()), "places"], "output")
    graph.save([SEEN, SEEN, 3], [len(names.names)], path)


def sigmoid_table() -> np.ndarray:
    """float32 [256]: the probability of each integer logit."""
    logits = [(place - LOGITS.zero_point) * float(LOGITS.scale) for place in range(256)]
    return np.array([1 / (1 + math.exp(-logit)) for logit in logits], dtype=np.float32)


def write_tags(names: Vocabulary, path: Path) -> None:
    """Write selected_tags.csv: tag_id, name, category (9 rating, 0 general, 4 character), count."""
    categories = [GENERAL] * len(names.general) + [CHARACTER] * len(names.characters)
    tags = zip(names.general + names.characters, categories, names.counts, strict=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tag_id", "name", "category", "count"])
        writer.writerows([FIRST_RATING_ID - number, rating, RATING, 0] for number, rating in enumerate(RATINGS))
        writer.writerows([number, *tag] for number, tag in enumerate(tags, 1))
