"""Rules on Q and DQ nodes: what TensorRT refuses, and what it takes and silently runs in float or wrong.

They follow NVIDIA's guide to explicit quantisation and were checked against TensorRT-RTX 1.7.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from .findings import MENDABLE, REQUANTISE, Finding
from .graph_view import GraphView, axis_of, place, quantised_type

_REFUSED = {TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}


def quantisation(graph: GraphView) -> Iterator[Finding]:
    """The findings of every Q and DQ node, in the order of the graph."""
    for node in graph.quantisers():
        yield from _type(graph, node)
        yield from _zero_point(graph, node)
        yield from _scale(graph, node)
        yield from _weight_axis(graph, node)


def _type(graph: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    """TensorRT quantises to int8 and below."""
    kind = quantised_type(graph, node)
    if kind not in _REFUSED:
        return
    name = TensorProto.DataType.Name(kind).lower()
    if kind == TensorProto.INT32 and is_bias(graph, node):
        message = "it dequantises a bias of int32, which TensorRT refuses; a bias stays float"
        yield Finding("int32-bias", place(node), message, MENDABLE)
    elif kind == TensorProto.UINT8 and not graph.is_weight(node):
        message = "it quantises to uint8, which TensorRT takes for int8: values from 128 on come out negative"
        yield Finding("uint8-activation", place(node), message, REQUANTISE)
    else:
        message = f"it quantises to {name}; TensorRT takes int8"
        yield Finding("quantised-type", place(node), message, REQUANTISE)


def is_bias(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a DQ node works on a constant of int32, which is how other quantisers keep biases."""
    tensor = graph.constants.get(node.input[0])
    return node.op_type == "DequantizeLinear" and tensor is not None and tensor.data_type == TensorProto.INT32


def is_quantised_scalar(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a DQ node works on a stored number of rank 0; behind a Q of its own, TensorRT takes it."""
    tensor = graph.constants.get(node.input[0])
    return node.op_type == "DequantizeLinear" and tensor is not None and not tensor.dims


def _zero_point(graph: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    zero = graph.value(node.input[2]) if len(node.input) > 2 else None
    if zero is not None and np.any(zero.astype(np.float32) != 0):
        message = "its zero point is not zero; TensorRT quantises symmetrically"
        yield Finding("zero-point", place(node), message, REQUANTISE)


def _scale(graph: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    """Scales are positive constants; an activation's has rank 0, or the layer falls back to float unseen."""
    scale = graph.value(node.input[1])
    if scale is None:
        yield Finding("computed-scale", place(node), "its scale is computed and not a constant", REQUANTISE)
        return
    values = scale.astype(np.float32)
    if not (np.isfinite(values) & (values > 0)).all():
        cure = MENDABLE if dead_channels(graph, node) is not None else REQUANTISE
        yield Finding("scale", place(node), "a scale must be positive and finite", cure)
    if graph.is_weight(node):
        if is_quantised_scalar(graph, node):
            message = "it dequantises a constant of rank 0, which TensorRT refuses (it takes rank 1)"
            yield Finding("quantised-scalar", place(node), message, MENDABLE)
    elif scale.ndim != 0:
        message = (
            f"an activation's scale must have rank 0, this one has the shape {list(scale.shape)}: "
            "its layer would run in float"
        )
        yield Finding(
            "activation-scale-shape", place(node), message, MENDABLE if scale.size == 1 else REQUANTISE
        )


def dead_channels(graph: GraphView, node: onnx.NodeProto) -> NDArray[np.bool_] | None:
    """Which scales of a weight's DQ node are zero, where the weights they scale are all zero too.

    None when a scale is wrong in a way that changes results. 0 times any scale is 0, so these may have any.
    """
    scale, weight = graph.value(node.input[1]), graph.value(node.input[0])
    if node.op_type != "DequantizeLinear" or scale is None or weight is None or scale.ndim > 1:
        return None
    zero: NDArray[np.bool_] = np.asarray(scale == 0)
    axis = axis_of(node) if scale.ndim == 1 and scale.size > 1 else None
    others = tuple(index for index in range(weight.ndim) if axis is None or index != axis % weight.ndim)
    empty = np.asarray(~np.any(weight.astype(np.float32), axis=others)).reshape(zero.shape)
    sound = np.isfinite(scale.astype(np.float32)) & (scale.astype(np.float32) >= 0)
    return zero if sound.all() and not (zero & ~empty).any() else None


def _weight_axis(graph: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    """Scales of a Conv's weights go along axis 0, along another one the layer falls back to float.

    Those of a ConvTranspose are one number. Its output channels are on axis 1; TensorRT took axis 1 up to
    8.2.1, axis 0 from 8.4.1 to 10.0.1, axis 1 again from 10.2, and TensorRT-RTX takes 0 for 1.
    """
    scale = graph.value(node.input[1])
    if node.op_type != "DequantizeLinear" or scale is None or scale.size == 1:
        return
    readers = {user.op_type for user, index in graph.consumers.get(node.output[0], []) if index == 1}
    axis = axis_of(node)
    weight = graph.value(node.input[0])
    rank = 4 if weight is None else weight.ndim
    if "Conv" in readers and axis % rank != 0:
        message = f"a Conv's weights are quantised along axis {axis}: the layer would run in float"
        yield Finding("weight-axis", place(node), message, REQUANTISE)
    if "ConvTranspose" in readers:
        message = (
            f"a ConvTranspose's weights are quantised along axis {axis}, which TensorRT reads as axis 0 or "
            "1, by its version"
        )
        cure = "Give its weights a single scale, or leave it in float (posedge deploy)"
        yield Finding("transposed-weight-axis", place(node), message, cure)
