"""Which channels of a graph must be scaled together, if what it computes shall stay the same.

A positive factor on one channel of a tensor passes through everything that is linear or a ReLU. Channels that
meet in an addition need the same factor: they are of one class. The class PINNED has a factor of one: in it
are the graph's inputs and outputs and whatever reaches an operator that does not commute with factors.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray

from .topology import Topology, attributes, tensor_shapes

PINNED = 0

Classes = NDArray[np.int64]
"""Class of each element of a tensor, broadcastable to it: (1, C, 1, 1) where the channel alone decides."""

_PINNED_TENSOR: Classes = np.array(PINNED, np.int64)


class ChannelClasses:
    """The classes of all tensors of a graph, found by one walk in its order.

    An operator that the walk does not know pins what it touches: it costs quality, never correctness.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.topology = Topology(model)
        self.shapes = tensor_shapes(model)
        self._parents = [PINNED]
        self._tensors: dict[str, Classes] = {}
        for node in self.topology.nodes:
            found = _RULES.get(node.op_type, _unknown)(self, node)
            if found is None:
                for tensor in (*node.input, *node.output):
                    self._unite(self._tensors.get(tensor, _PINNED_TENSOR), _PINNED_TENSOR)
            else:
                self._tensors.update(zip(node.output, found, strict=True))
        for tensor in self.topology.outputs:
            self._unite(self.of(tensor), _PINNED_TENSOR)

    @property
    def count(self) -> int:
        """Classes are numbered from 0 to ``count`` - 1; not every number is in use."""
        return len(self._parents)

    def of(self, tensor: str) -> Classes:
        """Classes of the elements of ``tensor``; a tensor that was never seen is PINNED."""
        classes = self._tensors.get(tensor, _PINNED_TENSOR)
        roots = [self._root(int(index)) for index in classes.flat]
        return np.array(roots, np.int64).reshape(classes.shape)

    def of_channels(self, tensor: str, count: int) -> Classes | None:
        """Classes (count,) of the channels on axis 1; None where another axis decides too."""
        classes = self.of(tensor)
        if classes.size == 1:
            return np.full(count, classes.item(), np.int64)
        return classes.reshape(-1) if classes.ndim > 1 and classes.shape[1] == classes.size else None

    def fresh(self, shape: tuple[int, ...]) -> Classes:
        """A class of its own for each element of ``shape``."""
        first, size = len(self._parents), int(np.prod(shape))
        self._parents.extend(range(first, first + size))
        return np.arange(first, first + size).reshape(shape)

    def united(self, parts: Iterable[Classes]) -> Classes:
        """Give elements that meet when ``parts`` are broadcast against each other one class."""
        first, *others = np.broadcast_arrays(*parts)
        for other in others:
            self._unite(first, other)
        return first

    def _root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def _unite(self, ours: Classes, theirs: Classes) -> None:
        for a, b in np.nditer([ours, theirs]):
            low, high = sorted((self._root(int(a)), self._root(int(b))))
            self._parents[high] = low  # the lower is the root, so that PINNED stays PINNED


# Rules: the classes of a node's outputs from those of its inputs; None where the node has to be pinned.

_Found = list[Classes] | None


def _unknown(_classes: ChannelClasses, _node: onnx.NodeProto) -> _Found:
    return None


def _pass_on(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    """What is done to each channel alone and commutes with a positive factor."""
    return [classes.of(node.input[0])]


def _add(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    """All operands need one factor; a constant is scaled along."""
    rank = len(classes.shapes.get(node.output[0], ()))
    operands = [name for name in node.input if not classes.topology.is_constant(name)]
    if not operands or any(len(classes.shapes.get(name, ())) != rank for name in operands):
        return None
    return [classes.united(classes.of(name) for name in operands)]


def _multiply(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    """A factor passes through one operand if all others are constant or pinned, such as a sigmoid's gate."""
    free = [index for index, name in enumerate(node.input) if classes.of(name).any()]
    if len(free) != 1 or (node.op_type == "Div" and free != [0]):
        return None
    return [classes.of(node.input[free[0]])]


def _convolve(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    """Every output channel is free, for the filters can be multiplied; each input's factor is divided out."""
    channels = convolution_channels(node, classes.topology)
    if channels is None or classes.of_channels(node.input[0], channels[0]) is None:
        return None
    spatial = (1,) * (len(classes.shapes[node.input[1]]) - 2)
    return [classes.fresh((1, channels[1], *spatial))]


def _concatenate(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    axis, parts = int(attributes(node)["axis"]), []
    for name in node.input:
        shape = classes.shapes.get(name)
        if shape is None or shape[axis] is None:
            return None
        parts.append(_spread(classes.of(name), shape, axis))
    others = np.broadcast_shapes(*(np.take(part, [0], axis).shape for part in parts))
    lengths = [part.shape[axis] for part in parts]
    sizes = [(*others[:axis], length, *others[axis + 1 :]) for length in lengths]
    wide = [np.broadcast_to(part, size) for part, size in zip(parts, sizes, strict=True)]
    return [_narrowed(np.concatenate(wide, axis))]


def _split(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    axis, shape = int(attributes(node).get("axis", 0)), classes.shapes.get(node.input[0])
    parts = [classes.shapes.get(name) for name in node.output]
    lengths = [length for part in parts if part is not None and (length := part[axis]) is not None]
    if shape is None or shape[axis] is None or len(lengths) < len(parts):
        return None
    return np.split(_spread(classes.of(node.input[0]), shape, axis), np.cumsum(lengths[:-1]), axis)


def _reshape(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    """Any reshape that leaves the batch axis alone, a channel shuffle's and a flattening among them."""
    before, after = classes.shapes.get(node.input[0], ()), classes.shapes.get(node.output[0], ())
    inner, outer = before[1:], after[1:]
    if not inner or not outer or None in inner + outer or np.prod(inner) != np.prod(outer):  # type: ignore[arg-type]
        return None
    found = classes.of(node.input[0])
    if found.ndim == len(before) and found.shape[0] != 1:
        return None
    return [_narrowed(np.broadcast_to(found, (1, *inner)).reshape(1, *outer))]  # type: ignore[arg-type]


def _transpose(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    found, order = classes.of(node.input[0]), attributes(node).get("perm")
    if order is None:
        return None
    return [found.reshape((1,) * (len(order) - found.ndim) + found.shape).transpose(order)]


def _average(classes: ChannelClasses, node: onnx.NodeProto) -> _Found:
    """A mean over axes along which the class does not change."""
    values, found, shape = attributes(node), classes.of(node.input[0]), classes.shapes.get(node.input[0])
    axes = values.get("axes")
    if axes is None and len(node.input) > 1:
        axes = classes.topology.constant(node.input[1])
    if axes is None or shape is None:
        return None
    found = found.reshape((1,) * (len(shape) - found.ndim) + found.shape)
    reduced = tuple(int(axis) % len(shape) for axis in axes)
    if any(found.shape[axis] != 1 for axis in reduced):
        return None
    return [found if values.get("keepdims", 1) else found.squeeze(reduced)]


def convolution_channels(node: onnx.NodeProto, topology: Topology) -> tuple[int, int] | None:
    """Input and output channels of a Conv or ConvTranspose; None where its weights or bias are computed."""
    weights = topology.constant(node.input[1])
    if weights is None or not all(topology.is_constant(name) for name in node.input[1:]):
        return None
    groups = int(attributes(node).get("group", 1))
    first, second = weights.shape[:2]
    return (first, second * groups) if node.op_type == "ConvTranspose" else (second * groups, first)


def _spread(classes: Classes, shape: tuple[int | None, ...], axis: int) -> Classes:
    """``classes`` with the rank of ``shape`` and its full length along ``axis``, which is known."""
    full = classes.reshape((1,) * (len(shape) - classes.ndim) + classes.shape)
    return np.repeat(full, shape[axis] or 0, axis) if full.shape[axis] == 1 else full


def _narrowed(classes: Classes) -> Classes:
    """``classes`` with length one along every axis on which nothing changes."""
    for axis in range(classes.ndim):
        first = np.take(classes, [0], axis)
        if (classes == first).all():
            classes = first
    return classes


_RULES: dict[str, Callable[[ChannelClasses, onnx.NodeProto], _Found]] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Identity"), _pass_on),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), _pass_on),
    **dict.fromkeys(("Add", "Sub", "Sum"), _add),
    **dict.fromkeys(("Mul", "Div"), _multiply),
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolve),
    "Concat": _concatenate,
    "Split": _split,
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    "Transpose": _transpose,
    "ReduceMean": _average,
}
