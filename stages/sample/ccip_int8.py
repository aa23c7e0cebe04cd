"""Integer ONNX models with the published CCIP interface.

Everything between the first quantisation and the last dequantisation is integer arithmetic (QLinearConv: int32 sums of
uint8 x int8), so that the features are the same bits on every CPU, for every batch size and at every level of ONNX
Runtime's graph optimisation; float convolutions are none of that. Weights keep to 7 bits ("reduce_range"): AVX2's
pairwise uint8 x int8 products are added in int16 and would saturate with 8.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ccip.encoder import CHANNEL_MEAN, CHANNEL_STD, SIDE, WIDTH
from sample.ccip_pictures import SEEN

OPSET = 14
IR_VERSION = 8
LARGEST_WEIGHT = 63
LARGEST_ACTIVATION = 255
# Activations above this quantile are clipped: a few outliers would coarsen all others.
ACTIVATION_QUANTILE = 0.9999


@dataclass(frozen=True)
class Quantised:
    """uint8 activations: value = (integer - zero_point) * scale."""

    scale: np.float32
    zero_point: int


@dataclass(frozen=True)
class Convolution:
    """A convolution with its BatchNorm folded in; weight float64 [out, in, kernel, kernel], bias float64 [out]."""

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    padding: int
    output: Quantised


def export_features(network: nn.Sequential, calibration: torch.Tensor, path: Path) -> None:
    """Write model_feat.onnx: input float32 [batch, 3, 384, 384] -> output float32 [batch, 768].

    `calibration` float32 [n, 3, 64, 64], normalised views on which the activations' ranges are measured.
    """
    graph = _Graph()
    picture = _input_range()
    graph.quantise("input", "picture", picture)
    # A mean over 6x6 pixels as a convolution of ones: ONNX has no integer mean.
    step = SIDE // SEEN
    ones = np.ones((3, 1, step, step), dtype=np.int8)
    graph.convolution("picture", "seen", picture, picture, ones, np.full(3, step**-2), np.zeros(3), stride=step, groups=3)
    source, seen = "seen", picture
    for number, layer in enumerate(folded_layers(network, calibration)):
        target = f"layer{number}"
        weight, scales = quantised_weights(layer.weight)
        graph.convolution(source, target, seen, layer.output, weight, scales, layer.bias, layer.stride, layer.padding)
        source, seen = target, layer.output
    graph.dequantise(source, "values", seen)
    graph.nodes.append(helper.make_node("Flatten", ["values"], ["output"], axis=1))
    _save(graph.model([3, SIDE, SIDE], [WIDTH]), path)


def export_metrics(path: Path) -> None:
    """Write model_metrics.onnx: input float32 [batch, 768] -> output float32 [batch, batch], clip((1 - cosine) / 2, 0, 1)."""
    graph = _Graph()
    for name, value in (("one", 1.0), ("two", 2.0), ("zero", 0.0)):
        graph.constant(name, np.array(value, dtype=np.float32))
    graph.nodes += [
        helper.make_node("ReduceL2", ["input"], ["norm"], axes=[1], keepdims=1),
        helper.make_node("Div", ["input", "norm"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["unit", "columns"], ["cosine"]),
        helper.make_node("Sub", ["one", "cosine"], ["rest"]),
        helper.make_node("Div", ["rest", "two"], ["half"]),
        helper.make_node("Clip", ["half", "zero", "one"], ["output"]),
    ]
    _save(graph.model([WIDTH], ["batch"]), path)


def folded_layers(network: nn.Sequential, calibration: torch.Tensor) -> list[Convolution]:
    """The network's convolutions, BatchNorm folded in, with the ranges that the calibration views' activations take."""
    modules = list(network)
    layers, activations = [], calibration
    for number, module in enumerate(modules):
        with torch.no_grad():
            activations = torch.cat([module(part) for part in activations.split(64)])
        if not isinstance(module, nn.Conv2d):
            continue
        norm = modules[number + 1] if number + 1 < len(modules) else None
        if norm is not None:
            with torch.no_grad():
                outputs = torch.relu(torch.cat([norm(part) for part in activations.split(64)]))
        else:
            outputs = activations
        weight, bias = _folded(module, norm)
        (stride, _), (padding, _) = module.stride, module.padding
        layers.append(Convolution(weight, bias, stride, padding, activation_range(outputs, relu=norm is not None)))
    return layers


def _folded(convolution: nn.Conv2d, norm: nn.Module | None) -> tuple[np.ndarray, np.ndarray]:
    weight = convolution.weight.detach().double().numpy()
    if not isinstance(norm, nn.BatchNorm2d):
        return weight, np.zeros(len(weight))
    gain, shift, mean, variance = (
        values.detach().double().numpy() for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    factor = gain / np.sqrt(variance + norm.eps)
    return weight * factor[:, None, None, None], shift - mean * factor


def activation_range(values: torch.Tensor, relu: bool) -> Quantised:
    """uint8 scale for values: from zero after a ReLU (which the clipping at zero then is), else evenly around zero."""
    magnitudes = np.abs(values.numpy()).ravel()
    place = int(ACTIVATION_QUANTILE * (len(magnitudes) - 1))
    largest = float(np.partition(magnitudes, place)[place])
    if relu:
        return Quantised(np.float32(largest / LARGEST_ACTIVATION), 0)
    return Quantised(np.float32(largest / (LARGEST_ACTIVATION // 2)), LARGEST_ACTIVATION // 2 + 1)


def quantised_weights(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 weights within +-63, float64 scale of each output channel)."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.where(largest > 0, largest, 1.0) / LARGEST_WEIGHT
    return np.rint(weight / scales[:, None, None, None]).astype(np.int8), scales


def _input_range() -> Quantised:
    """Covers black to white of every channel after normalisation."""
    low = float(((0 - CHANNEL_MEAN) / CHANNEL_STD).min())
    high = float(((1 - CHANNEL_MEAN) / CHANNEL_STD).max())
    scale = np.float32((high - low) / LARGEST_ACTIVATION)
    return Quantised(scale, round(-low / float(scale)))


class _Graph:
    """Nodes and constants of a model that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = value
        return name

    def _quantisation(self, name: str, quantised: Quantised) -> list[str]:
        scale = self.constant(f"{name}.scale", np.array(quantised.scale, dtype=np.float32))
        return [scale, self.constant(f"{name}.zero_point", np.array(quantised.zero_point, dtype=np.uint8))]

    def quantise(self, source: str, target: str, quantised: Quantised) -> None:
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *self._quantisation(target, quantised)], [target]))

    def dequantise(self, source: str, target: str, quantised: Quantised) -> None:
        self.nodes.append(helper.make_node("DequantizeLinear", [source, *self._quantisation(source, quantised)], [target]))

    def convolution(
        self, source: str, target: str, read: Quantised, written: Quantised, weight: np.ndarray, scales: np.ndarray,
        bias: np.ndarray, stride: int = 1, padding: int = 0, groups: int = 1,
    ) -> None:  # fmt: skip
        """int8 `weight` [out, in, k, k] with a scale for each output channel; `bias` in real values."""
        scales = scales.astype(np.float32)
        whole_bias = np.rint(bias / (float(read.scale) * scales.astype(np.float64))).astype(np.int32)
        inputs = [
            source,
            *self._quantisation(source, read),
            self.constant(f"{target}.weight", weight),
            self.constant(f"{target}.weight_scale", scales),
            self.constant(f"{target}.weight_zero_point", np.zeros(len(weight), dtype=np.int8)),
            *self._quantisation(target, written),
            self.constant(f"{target}.bias", whole_bias),
        ]
        self.nodes.append(
            helper.make_node(
                "QLinearConv", inputs, [target],
                strides=[stride] * 2, pads=[padding] * 4, kernel_shape=list(weight.shape[2:]), group=groups,
            )
        )  # fmt: skip

    def model(self, input_shape: list[int], output_shape: list[int | str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "ccip",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *input_shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", *output_shape])],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
