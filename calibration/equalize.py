"""Exact channel equalisation: the channels of a tensor get ranges of equal size, the graph's output stays.

INT8 has one scale for an activation tensor. Where a few channels are a hundred times larger than the
others, these are left with one or two steps out of 255, and a pose network collapses. A positive factor on a
channel passes through ReLU, additions, concatenations, shuffles and resizing. So it can be multiplied into
the filters that make the channel and divided out of those that read it: the same function, with tensors that
INT8 can represent. Nagel et al. (ICCV 2019) do so for pairs of layers, this for a whole graph at once.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..export.passes.editing import Constants, drop_unread
from .channels import PINNED, ChannelClasses, convolution_channels
from .factors import Factors
from .topology import Topology, attributes


def equalize(model: onnx.ModelProto, factors: Mapping[str, Factors]) -> onnx.ModelProto:
    """A copy of a float32 graph with its channels multiplied by factors.

    factors: tensor to the factor (C,) of each of its channels, as ``channel_factors`` gives them; channels of
        one class have the same in all tensors. Channels of tensors that are not named keep their size.

    What it computes stays the same but for rounding in float32; equal inputs give equal bytes. Raises
    CalibrationError when the factors do not fit the graph.
    """
    classes = ChannelClasses(model)
    scaler = _Scaler(model, classes, _of_classes(classes, factors))
    return scaler.scaled()


def _of_classes(classes: ChannelClasses, factors: Mapping[str, Factors]) -> Factors:
    """The factor of each class, from those of the channels."""
    result = np.ones(classes.count)
    for tensor, channels in factors.items():
        found = classes.of_channels(tensor, len(channels))
        if found is not None:
            result[found] = channels
    result[PINNED] = 1
    for tensor, channels in factors.items():
        found = classes.of_channels(tensor, len(channels))
        expected = np.ones(len(channels)) if found is None else result[found]
        if (channels <= 0).any() or not np.allclose(expected, channels, rtol=1e-6, atol=0):
            raise CalibrationError(f"the factors of {tensor!r} do not fit the graph; calibrate again")
    return result


class _Scaler:
    """Multiplies factors into the constants of one graph."""

    def __init__(self, model: onnx.ModelProto, classes: ChannelClasses, factors: Factors) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._topology = Topology(self._model)
        self._constants = Constants(self._graph)
        self._classes = classes
        self._factors = factors

    def scaled(self) -> onnx.ModelProto:
        """The scaled graph."""
        for node in self._graph.node:
            if node.op_type in ("Conv", "ConvTranspose"):
                self._scale_filters(node)
            elif node.op_type in ("Add", "Sub", "Sum"):
                self._scale_constants(node)
        drop_unread(self._graph, [tensor.name for tensor in self._graph.initializer])
        return self._model

    def _scale_filters(self, node: onnx.NodeProto) -> None:
        channels = convolution_channels(node, self._topology)
        if channels is None:
            return
        inputs = self._of_channels(node.input[0], channels[0])
        outputs = self._of_channels(node.output[0], channels[1])
        weights = self._constant(node.input[1])
        groups = int(attributes(node).get("group", 1))
        if node.op_type == "ConvTranspose":  # (in, out of a group, ...)
            grouped = weights.reshape(groups, channels[0] // groups, *weights.shape[1:])
            across = outputs.reshape(groups, 1, -1) / inputs.reshape(groups, -1, 1)
        else:  # (out, in of a group, ...)
            grouped = weights.reshape(groups, channels[1] // groups, *weights.shape[1:])
            across = outputs.reshape(groups, -1, 1) / inputs.reshape(groups, 1, -1)
        spatial = (1,) * (weights.ndim - 2)
        scaled = grouped * across.reshape(*across.shape, *spatial)
        self._replace(node, 1, scaled.reshape(weights.shape))
        if len(node.input) > 2:
            self._replace(node, 2, self._constant(node.input[2]) * outputs)

    def _scale_constants(self, node: onnx.NodeProto) -> None:
        factors = self._factors[self._classes.of(node.output[0])]
        for index, tensor in enumerate(node.input):
            if self._topology.is_constant(tensor):
                self._replace(node, index, self._constant(tensor) * factors)

    def _of_channels(self, tensor: str, count: int) -> Factors:
        found = self._classes.of_channels(tensor, count)
        assert found is not None  # the walk pins such a convolution
        return self._factors[found]

    def _constant(self, tensor: str) -> NDArray[np.float64]:
        value = self._topology.constant(tensor)
        assert value is not None  # asked for constants only
        return value.astype(np.float64)

    def _replace(self, node: onnx.NodeProto, index: int, value: NDArray[np.float64]) -> None:
        """Give ``node`` a constant of its own: another reader may need another factor."""
        if (value == self._constant(node.input[index])).all():
            return
        node.input[index] = self._constants.add(f"{node.input[index]}/equalized", value.astype(np.float32))
