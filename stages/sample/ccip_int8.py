"""The sample's CCIP encoder as integer ONNX models with the published interface."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ccip.encoder import CHANNEL_MEAN, CHANNEL_STD, SIDE, WIDTH
from sample.ccip_pictures import SEEN
from sample.integer_onnx import LARGEST_ACTIVATION, IntegerGraph, Quantised, folded_layers


def export_features(network: nn.Sequential, calibration: torch.Tensor, path: Path) -> None:
    """Write model_feat.onnx: input float32 [batch, 3, 384, 384] -> output float32 [batch, 768].

    `calibration` float32 [n, 3, 64, 64], normalised views on which the activations' ranges are measured.
    """
    graph = IntegerGraph("ccip")
    picture = _input_range()
    graph.quantise("input", "picture", picture)
    # A mean over 6x6 pixels as a convolution of ones: ONNX has no integer mean.
    step = SIDE // SEEN
    ones = np.ones((3, 1, step, step), dtype=np.int8)
    graph.convolution("picture", "seen", picture, picture, ones, np.full(3, step**-2), np.zeros(3), stride=step, groups=3)
    layers = folded_layers(network, calibration)
    last = graph.convolutions("seen", picture, layers)
    graph.dequantise(last, "values", layers[-1].output)
    graph.node("Flatten", ["values"], "output", axis=1)
    graph.save([3, SIDE, SIDE], [WIDTH], path)


def export_metrics(path: Path) -> None:
    """Write model_metrics.onnx: input float32 [batch, 768] -> output float32 [batch, batch], clip((1 - cosine) / 2, 0, 1)."""
    graph = IntegerGraph("ccip")
    for name, value in (("one", 1.0), ("two", 2.0), ("zero", 0.0)):
        graph.constant(name, np.array(value, dtype=np.float32))
    graph.node("ReduceL2", ["input"], "norm", axes=[1], keepdims=1)
    graph.node("Div", ["input", "norm"], "unit")
    graph.node("Transpose", ["unit"], "columns", perm=[1, 0])
    graph.node("MatMul", ["unit", "columns"], "cosine")
    graph.node("Sub", ["one", "cosine"], "rest")
    graph.node("Div", ["rest", "two"], "half")
    graph.node("Clip", ["half", "zero", "one"], "output")
    graph.save([WIDTH], ["batch"], path)


def _input_range() -> Quantised:
    """Covers black to white of every channel after normalisation."""
    low = float(((0 - CHANNEL_MEAN) / CHANNEL_STD).min())
    high = float(((1 - CHANNEL_MEAN) / CHANNEL_STD).max())
    scale = np.float32((high - low) / LARGEST_ACTIVATION)
    return Quantised(scale, round(-low / float(scale)))
