"""Rules on values and types: NaN, empty and double tensors, and int64 where images flow."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .findings import EXPORT, MENDABLE, Finding
from .graph_view import GraphView, place

_MULTIPLIED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"}
_SCALED = {*_MULTIPLIED, "Mul", "PRelu", "InstanceNormalization", "LayerNormalization"}
_CARRIED_BY = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_FINITE = "Check the checkpoint; in a float16 graph, keep the layers that overflow in float32"
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def non_finite_weights(graph: GraphView) -> Iterator[Finding]:
    """NaN anywhere, and infinities in what is multiplied (an infinite bound of a Clip is legitimate)."""
    for name, tensor in graph.own_constants.items():
        if tensor.data_type not in _FLOATS:
            continue
        values = numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            continue
        readers = graph.readers_through(name, *_CARRIED_BY)
        multiplied = any(node.op_type in _SCALED for node, _ in readers)
        bad = int((~np.isfinite(values)).sum())
        if multiplied or np.isnan(values).any():
            yield Finding(
                "non-finite-weights",
                name,
                f"{bad} of {values.size} values are NaN or infinite",
                _FINITE,
            )
    for node in graph.nodes:
        for attribute in node.attribute:
            if node.op_type != "Constant" and _holds_nan(attribute):
                yield Finding(
                    "non-finite-weights", place(node), f"its attribute {attribute.name!r} is NaN", _FINITE
                )


def empty_tensors(graph: GraphView) -> Iterator[Finding]:
    """Inputs and weights without a single value, and outputs that no image changes; TensorRT builds both."""
    whole = graph.outer is None
    for value in graph.graph.input if whole else ():
        axes = value.type.tensor_type.shape.dim
        if any(axis.HasField("dim_value") and axis.dim_value == 0 for axis in axes):
            yield Finding("empty-tensor", value.name, "an input with an axis of 0 holds nothing", EXPORT)
    for name, tensor in graph.own_constants.items():
        multiplied = any(node.op_type in _MULTIPLIED for node, _ in graph.consumers.get(name, []))
        if multiplied and 0 in tensor.dims:
            yield Finding(
                "empty-tensor", name, f"a weight of shape {list(tensor.dims)} holds nothing", EXPORT
            )
    for name in sorted(graph.outputs - graph.data_path()) if whole else ():
        yield Finding("constant-output", name, "this output does not depend on the input", EXPORT)


def wide_tensors(graph: GraphView) -> Iterator[Finding]:
    """Doubles anywhere, and int64 computed from the images.

    TensorRT takes doubles and computes them as float32, so results differ from the model's own. Shapes and
    indices are int64 by ONNX's rules, and stay so; int64 that depends on pixels is narrowed to int32 by
    versions before 10; TensorRT-RTX 1.7 does so with an ArgMax. A double is a float in its engines.
    """
    for name, tensor in graph.own_constants.items():
        if tensor.data_type == TensorProto.DOUBLE:
            message = "it is double; TensorRT would read it as float32"
            cure = MENDABLE if only_cast_to_float(graph, name) else EXPORT
            yield Finding("double-tensor", name, message, cure)
    path = graph.data_path()
    inputs = {value.name for value in graph.graph.input}
    for name in sorted(inputs & path):
        yield from _computed(graph, name, name)
    for node in graph.nodes:
        for output in node.output:
            used = output in graph.outputs or output in graph.consumers
            if output in path and used:
                yield from _computed(graph, output, place(node))


def only_cast_to_float(graph: GraphView, name: str) -> bool:
    """Whether all that happens to a constant is a Cast to float32, so that it may as well be one."""
    readers = graph.consumers.get(name, [])
    return name not in graph.outputs and bool(readers) and all(_casts_to_float(node) for node, _ in readers)


def _computed(graph: GraphView, name: str, where: str) -> Iterator[Finding]:
    kind = graph.type_of(name)
    if kind == TensorProto.DOUBLE:
        message = f"the tensor {name!r} is double; TensorRT would compute it as float32"
        yield Finding("double-tensor", where, message, "Export the model in float32")
    elif kind == TensorProto.INT64:
        message = f"the tensor {name!r} is int64 and depends on the images"
        yield Finding("int64-tensor", where, message, "End the graph before it, or compute it in float")


def _holds_nan(attribute: onnx.AttributeProto) -> bool:
    """Whether a number, a list of numbers or a tensor has a NaN; a Clip of opset 6 may be infinite."""
    numbers = [attribute.f, *attribute.floats]
    tensor = attribute.t if attribute.t.data_type in _FLOATS else None
    return bool(
        np.isnan(numbers).any() or (tensor is not None and np.isnan(numpy_helper.to_array(tensor)).any())
    )


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == TensorProto.FLOAT for attribute in node.attribute
    )
