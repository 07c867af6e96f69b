"""Channels padded with zeros to multiples of what the hardware computes at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from ..graphs import dims
from .base import GraphPass, Report, unheard
from .channel_layout import ChannelClasses, Layout
from .editing import DEFAULT_DOMAINS, Constants, attributes, has_subgraphs, set_attributes

# operators that work on each value alone and give a finite one for a finite one
_UNARY = (
    *("Relu", "LeakyRelu", "Clip", "Identity", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu"),
    *("Celu", "Softplus", "Softsign", "Abs", "Neg", "Erf", "Gelu", "Mish"),
)
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "PRelu")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceSum")


class PadChannels(GraphPass):
    """Adds channels of zeros wherever a number of channels is no multiple of ``multiple`` and can be.

    A padded channel comes out of a convolution with a row of zero weights and a zero bias, passes through
    operators that treat each channel by itself, and ends in a convolution with a column of zero weights, so
    whatever finite value it has there counts nothing. Split and Concat hand on parts of the channels, so
    classes are made of segments of channels: RSN's Split of 104 channels into four branches of 26 becomes
    one of 128 into four of 32, the zeros lying behind each 26.

    Left as they are: the channels of the graph's input and outputs, of grouped convolutions other than
    depthwise ones, and of every operator that mixes channels or moves them to another axis (Reshape,
    Transpose, Softmax, MatMul and all others that are not named here), with all that is united with them.
    The price is arithmetic on zeros, in narrow networks many times the original.
    """

    def __init__(self, multiple: int = 32, report: Report = unheard) -> None:
        self._multiple = multiple
        self._report = report

    def edit(self, model: ModelProto) -> ModelProto:
        if has_subgraphs(model.graph):
            self._report("no channels are padded: the graph has control flow")
            return model
        rules = _Rules(model)
        layouts, kept = rules.classes.layouts(self._multiple)
        rules.apply({tensor: layout for tensor, layout in layouts.items() if layout.is_padded})
        del model.graph.value_info[:]  # what it may say of the sizes is no longer so
        padded = sum(layout.is_padded for layout in layouts.values())
        self._report(f"{padded} of {len(layouts)} tensors padded to multiples of {self._multiple} channels")
        for reason, count in sorted(kept.items()):
            self._report(f"left alone: {count} classes of channels for {reason}")
        return model


@dataclass(frozen=True)
class _PaddedConstant:
    """Axis ``axis`` of the constant at input ``index`` of ``node`` follows the channels of ``tensor``."""

    node: NodeProto
    index: int
    axis: int
    tensor: str
    fill: float = 0.0


class _Rules:
    """What each operator does with channels: which it unites, which it fixes, which constants follow."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._constants = Constants(model.graph)
        self._shapes = _shapes(model)
        self._padded: list[_PaddedConstant] = []
        self._updates: list[Callable[[dict[str, Layout]], None]] = []
        sizes = {tensor: shape[1] for tensor, shape in self._shapes.items() if len(shape) > 1}
        self.classes = ChannelClasses(
            {
                tensor: size
                for tensor, size in sizes.items()
                if isinstance(size, int) and tensor not in self._constants
            }
        )
        for value in model.graph.input:
            self.classes.fix(value.name, "the graph's input")
        for value in model.graph.output:
            self.classes.fix(value.name, "the graph's output")
        for node in model.graph.node:
            self._rule(node)

    def apply(self, layouts: dict[str, Layout]) -> None:
        """Edit the graph; ``layouts`` has the padded tensors only."""
        for update in self._updates:
            update(layouts)
        for place in self._padded:
            value = self._constants.value(place.node.input[place.index])
            if place.tensor in layouts and value is not None:
                wider = layouts[place.tensor].expand(value, place.axis, place.fill)
                self._constants.replace(place.node, place.index, wider)

    def _rule(self, node: NodeProto) -> None:
        operator = node.op_type if node.domain in DEFAULT_DOMAINS else ""
        if operator in ("Conv", "ConvTranspose"):
            self._convolution(node)
        elif operator in _UNARY or operator in _POOLS:
            self._same_channels(node)
        elif operator in _ELEMENTWISE:
            self._elementwise(node)
        elif operator in ("Concat", "Split"):
            self._parts(node)
        elif operator == "Resize":
            self._resize(node)
        elif operator == "BatchNormalization":
            self._batch_norm(node)
        elif operator == "Slice" or operator in _REDUCTIONS:
            self._some_axes(node)
        else:
            self._fix(node, node.op_type)

    def _fix(self, node: NodeProto, reason: str) -> None:
        for tensor in [*node.input, *node.output]:
            self.classes.fix(tensor, reason)

    def _same_channels(self, node: NodeProto) -> None:
        self.classes.link(node.input[0], node.output[0])
        for extra in [*node.input[1:], *node.output[1:]]:  # bounds of a Clip; a MaxPool's indices
            if extra and extra not in self._constants:
                self._fix(node, f"{node.op_type} with a computed input or two outputs")

    def _convolution(self, node: NodeProto) -> None:
        source, result = node.input[0], node.output[0]
        groups = attributes(node).get("group", 1)
        weight = self._constants.value(node.input[1])
        has_bias = len(node.input) > 2 and bool(node.input[2])
        if weight is None or (has_bias and node.input[2] not in self._constants):
            self._fix(node, f"{node.op_type} with computed weights")
            return
        rows, columns = (result, source) if node.op_type == "Conv" else (source, result)
        if groups == 1:
            self._padded.append(_PaddedConstant(node, 1, 1, columns))
        elif groups == weight.shape[0] and weight.shape[1] == 1:  # depthwise: each channel by itself
            self.classes.link(source, result)
            self._updates.append(lambda layouts: _set_groups(node, layouts))
        else:
            self._fix(node, f"grouped {node.op_type}")
            return
        self._padded.append(_PaddedConstant(node, 1, 0, rows))
        if has_bias:
            self._padded.append(_PaddedConstant(node, 2, 0, result))

    def _elementwise(self, node: NodeProto) -> None:
        """Operands of the result's rank; those with one channel are spread over all of them."""
        result = node.output[0]
        shape = self._shapes.get(result, [])
        for index, tensor in enumerate(node.input):
            other = self._shapes.get(tensor, [])
            axis = len(other) - len(shape) + 1  # where the channels are, by ONNX's alignment at the end
            if tensor in self._constants:
                if len(shape) < 2:
                    self._fix(node, "unknown sizes")
                elif axis >= 0 and other[axis] == shape[1] != 1:
                    self._padded.append(_PaddedConstant(node, index, axis, result))
                elif axis >= 0 and other[axis] != 1:
                    self._fix(node, f"{node.op_type} with a constant that widens it")
            elif len(other) != len(shape) or len(shape) < 2:
                self._fix(node, f"{node.op_type} of tensors of different rank")
            elif other[1] != 1 or shape[1] == 1:
                self.classes.link(tensor, result)
            else:
                self.classes.fix(tensor, f"{node.op_type} that spreads one channel")

    def _parts(self, node: NodeProto) -> None:
        """Concat and Split: along the channels, parts of the one long tensor; else all alike."""
        split = node.op_type == "Split"
        whole, parts = (node.input[0], node.output) if split else (node.output[0], node.input)
        rank = len(self._shapes.get(whole, []))
        sizes = [self._shapes.get(part, []) for part in parts]
        known = rank > 1 and all(len(size) == rank for size in sizes)
        computed = split and any(name not in self._constants for name in node.input[1:])
        if not known or computed or any(part in self._constants for part in parts):
            self._fix(node, f"{node.op_type} of a constant or of unknown sizes")
        elif attributes(node).get("axis", 0) % rank != 1:
            for part in parts:
                self.classes.link(part, whole)
        else:
            start = 0
            for part, size in zip(parts, sizes, strict=True):
                length = size[1] if isinstance(size[1], int) else 0
                self.classes.link(whole, part, start, 0, length or None)
                start += length
            if split:
                self._updates.append(lambda layouts: self._set_split(node, layouts))

    def _set_split(self, node: NodeProto, layouts: dict[str, Layout]) -> None:
        if node.input[0] not in layouts:
            return
        sizes = [self._shapes[part][1] for part in node.output]
        lengths = [
            layouts[part].padded if part in layouts else size
            for part, size in zip(node.output, sizes, strict=True)
        ]
        values = np.array(lengths, np.int64)
        if len(node.input) > 1:
            self._constants.replace(node, 1, values)
        else:
            node.input.append(self._constants.add(f"{node.name or node.output[0]}.split", values))
        set_attributes(node, num_outputs=None)

    def _resize(self, node: NodeProto) -> None:
        given = attributes(node)
        scales = self._constants.value(node.input[2]) if len(node.input) > 2 else None
        rank = len(self._shapes.get(node.input[0], []))
        axes = [axis % rank for axis in given.get("axes", range(rank))] if rank else []
        by_scale = (
            scales is not None
            and len(scales) == len(axes)
            and all(scale == 1 for axis, scale in zip(axes, scales, strict=True) if axis == 1)
        )
        crops = given.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        if crops or not rank or (1 in axes and not by_scale):
            self._fix(node, "Resize to a size or of channels")
        else:
            self.classes.link(node.input[0], node.output[0])

    def _batch_norm(self, node: NodeProto) -> None:
        if len([output for output in node.output if output]) > 1 or any(
            name not in self._constants for name in node.input[1:]
        ):
            self._fix(node, "BatchNormalization in training mode")
            return
        self.classes.link(node.input[0], node.output[0])
        for index in range(1, 5):  # scale, bias, mean, variance: a variance of 0 would divide by nothing
            self._padded.append(_PaddedConstant(node, index, 0, node.input[0], float(index == 4)))

    def _some_axes(self, node: NodeProto) -> None:
        """Slice and reductions, which keep the channels when the axes they name are others."""
        place = 3 if node.op_type == "Slice" else 1
        given = attributes(node)
        axes = given.get("axes")
        if len(node.input) > place and node.input[place]:
            value = self._constants.value(node.input[place])
            axes = None if value is None else value.tolist()
        rank = len(self._shapes.get(node.input[0], []))
        if not rank or axes is None or 1 in [axis % rank for axis in axes] or not given.get("keepdims", 1):
            self._fix(node, f"{node.op_type} of channels")
        else:
            self.classes.link(node.input[0], node.output[0])


def _set_groups(node: NodeProto, layouts: dict[str, Layout]) -> None:
    if node.output[0] in layouts:
        set_attributes(node, group=layouts[node.output[0]].padded)


def _shapes(model: ModelProto) -> dict[str, list[int | str]]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: dims(value) or [] for value in [*graph.value_info, *graph.input, *graph.output]}
    constants: dict[str, list[int | str]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return shapes | constants
