"""Convolution nets as integer ONNX models, whose outputs are the same bits on every CPU.

Everything between the first quantisation and the last dequantisation is integer arithmetic (QLinearConv: int32 sums of
uint8 x int8), so that the results are the same bits on every CPU, for every batch size and at every level of ONNX
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
    """(weight, bias). A convolution has a BatchNorm, whose shift is its bias, or a bias of its own, or none."""
    weight = convolution.weight.detach().double().numpy()
    if not isinstance(norm, nn.BatchNorm2d):
        own = convolution.bias
        return weight, np.zeros(len(weight)) if own is None else own.detach().double().numpy()
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


class IntegerGraph:
    """Nodes and constants of a model that is being written; its input is named `input`, its output `output`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = value
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def _quantisation(self, name: str, quantised: Quantised) -> list[str]:
        scale = self.constant(f"{name}.scale", np.array(quantised.scale, dtype=np.float32))
        return [scale, self.constant(f"{name}.zero_point", np.array(quantised.zero_point, dtype=np.uint8))]

    def quantise(self, source: str, target: str, quantised: Quantised) -> None:
        self.node("QuantizeLinear", [source, *self._quantisation(target, quantised)], target)

    def dequantise(self, source: str, target: str, quantised: Quantised) -> None:
        self.node("DequantizeLinear", [source, *self._quantisation(source, quantised)], target)

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
        self.node(
            "QLinearConv", inputs, target,
            strides=[stride] * 2, pads=[padding] * 4, kernel_shape=list(weight.shape[2:]), group=groups,
        )  # fmt: skip

    def convolutions(self, source: str, read: Quantised, layers: list[Convolution]) -> str:
        """The layers one after the other, from `source`; the name of the last one's output."""
        for number, layer in enumerate(layers):
            target = f"layer{number}"
            weight, scales = quantised_weights(layer.weight)
            self.convolution(source, target, read, layer.output, weight, scales, layer.bias, layer.stride, layer.padding)
            source, read = target, layer.output
        return source

    def save(self, input_shape: list[int], output_shape: list[int | str], path: Path) -> None:
        """Write the model: input float32 [batch, *input_shape] -> output float32 [batch, *output_shape]."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *input_shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", *output_shape])],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
