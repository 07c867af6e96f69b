"""Exact channel equalisation: the channels of a tensor get ranges of equal size, the graph's output stays.

INT8 has one scale for an activation tensor. Where a few channels are a hundred times larger than the
others, these are left with one or two steps out of 255, and a pose network collapses. A positive factor on a
channel passes through ReLU, additions, concatenations, shuffles and resizing. So it can be multiplied into
the filters that make the channel and divided out of those that read it: the same function, with tensors that
INT8 can represent. Nagel et al. (ICCV 2019) do so for pairs of layers, this for a whole graph at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from .channels import PINNED, ChannelClasses, Classes, convolution_channels
from .topology import Topology, attributes

Factors = NDArray[np.float64]
"""Positive, one for each class of channels."""

# How large a channel is: nearly all of its values, for the last of them differ from crop to crop. On
# PP-TinyPose 99.5 to 100 per cent gave an INT8 AP of 0.645 to 0.660 and 95 per cent 0.617, with a noise of
# about 0.01.
SIZE_PERCENT = 99.9

# A channel smaller than this share of its tensor's largest is raised as if it had that size: what little was
# seen of it says little of other crops.
_SMALLEST_SHARE = 1e-4

_ROUNDS = 100
_CLOSE_ENOUGH = 1e-3  # of a factor's logarithm


@dataclass(frozen=True, eq=False)
class Equalized:
    """A graph with its channels scaled, and by how much."""

    model: onnx.ModelProto
    _classes: ChannelClasses
    _factors: Factors

    def factors(self, tensor: str, count: int) -> Factors:
        """What the ``count`` channels of ``tensor`` were multiplied by, (count,)."""
        found = self._classes.of_channels(tensor, count)
        return np.ones(count) if found is None else self._factors[found]


def equalize(model: onnx.ModelProto, sizes: Mapping[str, NDArray[np.float32]]) -> Equalized:
    """A float32 graph whose tensors have channels of about equal range.

    sizes: how large each channel (C,) of the tensors is that will be quantised, such as
        ``TensorStatistics.channel_percentile(SIZE_PERCENT)``; zeros where it is silent.

    What it computes stays the same but for rounding in float32; equal inputs give equal bytes. Channels
    that cannot be scaled, such as the graph's input and output, keep their range.
    """
    classes = ChannelClasses(model)
    factors = _solve(classes, sizes)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    scaler = _Scaler(result, classes, factors)
    for node in result.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            scaler.scale_filters(node)
        elif node.op_type in ("Add", "Sub", "Sum"):
            scaler.scale_constants(node)
    scaler.drop_unread()
    return Equalized(result, classes, factors)


def _solve(classes: ChannelClasses, sizes: Mapping[str, NDArray[np.float32]]) -> Factors:
    """The factors that bring the channels of every tensor to one size, as well as one factor can that several
    tensors share: the mean of what each of them asks for, on a logarithmic scale."""
    tensors = []
    for tensor, size in sizes.items():
        found = classes.of_channels(tensor, len(size))
        if found is not None and size.any():
            floor = np.float64(size.max()) * _SMALLEST_SHARE
            tensors.append((found, np.log(np.maximum(size.astype(np.float64), floor))))
    logarithms = np.zeros(classes.count)
    for _ in range(_ROUNDS):
        wanted, votes = np.zeros(classes.count), np.zeros(classes.count)
        for found, size in tensors:
            np.add.at(wanted, found, _level(found, size + logarithms[found]) - size)
            np.add.at(votes, found, 1)
        updated = np.divide(wanted, votes, where=votes > 0, out=np.zeros(classes.count))
        updated[PINNED] = 0.0
        change = np.abs(updated - logarithms).max()
        logarithms = updated
        if change < _CLOSE_ENOUGH:
            break
    factors: Factors = np.exp(logarithms)
    return factors


def _level(found: Classes, scaled: NDArray[np.float64]) -> float:
    """The logarithm of the size that all channels of a tensor shall have: the pinned ones decide."""
    pinned = found == PINNED
    return float(scaled[pinned].max() if pinned.any() else scaled.mean())


class _Scaler:
    """Multiplies factors into the constants of one graph."""

    def __init__(self, model: onnx.ModelProto, classes: ChannelClasses, factors: Factors) -> None:
        self._graph = model.graph
        self._topology = Topology(model)
        self._names = self._topology.names()
        self._classes = classes
        self._factors = factors

    def scale_filters(self, node: onnx.NodeProto) -> None:
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

    def scale_constants(self, node: onnx.NodeProto) -> None:
        factors = self._factors[self._classes.of(node.output[0])]
        for index, tensor in enumerate(node.input):
            if self._topology.is_constant(tensor):
                self._replace(node, index, self._constant(tensor) * factors)

    def drop_unread(self) -> None:
        """Remove constants whose last reader has a scaled copy now."""
        read = {tensor for node in self._graph.node for tensor in node.input}
        read.update(value.name for value in self._graph.output)
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del self._graph.initializer[:]
        self._graph.initializer.extend(copies)

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
        name = f"{node.input[index]}/equalized"
        while name in self._names:
            name += "_"
        self._names.add(name)
        self._graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        node.input[index] = name
