"""Mends that change nothing of what a graph computes, for the findings that say so."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ...export.passes.editing import Constants, drop_unread, replace_nodes, set_attributes
from .data_types import only_cast_to_float
from .findings import MENDABLE, Finding
from .graph_view import GraphView, axis_of, place
from .quantisation import dead_channels, is_bias, is_quantised_scalar
from .rules import lint
from .structure import weight_types


def mend(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Finding]]:
    """A copy of ``model`` without the findings that can be mended exactly, and those findings.

    Every mend is exact: the graph computes the same numbers, where it computed any. What is left is for
    ``lint`` to say of the result.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)  # which, other than serialising, has no limit of 2 GB
    mended: list[Finding] = []
    for _ in range(len(_MENDS) + 1):  # what hid behind a finding may show up once that is gone
        found = [finding for finding in lint(result) if finding.cure == MENDABLE]
        if not found:
            break
        for code in dict.fromkeys(finding.code for finding in found):
            _MENDS[code](result)
        _forget_types(result)
        left = lint(result)
        mended += [finding for finding in found if finding not in left]
    return result, mended


def _forget_types(model: onnx.ModelProto) -> None:
    """What the graph says beside of the types and shapes of constants, which may be others now."""
    constants = GraphView(model).constants
    kept = [value for value in model.graph.value_info if value.name not in constants]
    if len(kept) < len(model.graph.value_info):
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del model.graph.value_info[:]
        model.graph.value_info.extend(copies)


def _drop_nodes_without_outputs(model: onnx.ModelProto) -> None:
    """Nobody can read what they compute."""
    replace_nodes(model.graph, [node for node in model.graph.node if any(node.output)])


def _widen_half_weights(model: onnx.ModelProto) -> None:
    """Every float16 number is a float32 number."""
    graph, constants = GraphView(model), Constants(model.graph)
    broken = {finding.node for finding in weight_types(graph) if finding.cure == MENDABLE}
    for node in graph.nodes:
        if place(node) in broken:
            for index, name in enumerate(node.input[1:], 1):
                value = graph.value(name)
                if value is not None and value.dtype == np.float16:
                    _set_constant(graph, constants, node, index, value.astype(np.float32))


def _narrow_doubles(model: onnx.ModelProto) -> None:
    """A constant that is only cast to float32 is rounded at once; the Cast then does nothing."""
    graph = GraphView(model)
    for name, tensor in graph.constants.items():
        if tensor.data_type == TensorProto.DOUBLE and only_cast_to_float(graph, name):
            with np.errstate(over="ignore"):  # as the Cast has it
                value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, name))


def _make_scales_scalar(model: onnx.ModelProto) -> None:
    """A scale and zero point of one number lose their axis."""
    graph, constants = GraphView(model), Constants(model.graph)
    for node in graph.quantisers():
        scale = graph.value(node.input[1])
        if graph.is_weight(node) or scale is None or scale.size != 1:
            continue
        for index, name in enumerate(node.input[1:], 1):
            value = graph.value(name)
            if value is not None and value.ndim > 0 and value.size == 1:
                _set_constant(graph, constants, node, index, value.reshape(()))


def _fold_biases(model: onnx.ModelProto) -> None:
    """(q - zero) * scale in float32, as ONNX defines DequantizeLinear."""
    graph = GraphView(model)
    _fold(model, [node for node in graph.quantisers() if is_bias(graph, node)])


def _fold_scalars(model: onnx.ModelProto) -> None:
    """A stored number and its scale are a constant of float32."""
    graph = GraphView(model)
    _fold(model, [node for node in graph.quantisers() if is_quantised_scalar(graph, node)])


def _revive_dead_scales(model: onnx.ModelProto) -> None:
    """Weights that are all zero stay zero under any scale, so a scale of 0 becomes 1."""
    graph, constants = GraphView(model), Constants(model.graph)
    for node in graph.quantisers():
        zero = dead_channels(graph, node)
        scale = graph.value(node.input[1])
        if zero is not None and scale is not None and zero.any():
            alive = np.where(zero, np.ones_like(scale), scale).astype(scale.dtype)
            _set_constant(graph, constants, node, 1, alive)


def _set_constant(
    graph: GraphView, constants: Constants, node: onnx.NodeProto, index: int, value: NDArray[np.generic]
) -> None:
    """Give a node another constant, whether it had it from an initializer or from a Constant node."""
    name = node.input[index]
    if name in constants:
        constants.replace(node, index, value)
    elif len(graph.consumers[name]) == 1 and name not in graph.outputs:
        others = dict.fromkeys(("value_float", "value_floats", "value_int", "value_ints"))
        set_attributes(graph.producers[name], **others, value=numpy_helper.from_array(value))
    else:
        node.input[index] = constants.add(f"{name}_mended", value)


def _fold(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace DQ nodes of constants by constants, under the names of their outputs."""
    graph = GraphView(model)
    done: dict[str, NDArray[np.generic]] = {}
    for node in nodes:
        values = [graph.value(name) for name in node.input]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            done[node.output[0]] = _dequantised(known, axis_of(node))
    read = {name for node in nodes for name in node.input}
    replace_nodes(model.graph, [node for node in model.graph.node if node.output[0] not in done])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in done.items())
    drop_unread(model.graph, read)


def _dequantised(inputs: list[NDArray[np.generic]], axis: int) -> NDArray[np.generic]:
    """ONNX's DequantizeLinear: the difference in int32, the product in the type of the scale."""
    steps, scale = inputs[0].astype(np.int32), inputs[1]
    if len(inputs) > 2:
        steps = steps - _spread(inputs[2], steps.ndim, axis).astype(np.int32)
    return np.asarray(steps.astype(scale.dtype) * _spread(scale, steps.ndim, axis))


def _spread(values: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    """Numbers by channel, so shaped that they meet the axis; a single number as it is."""
    if values.size == 1 or rank == 0:
        return values.reshape(())
    return values.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


_MENDS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "node-without-outputs": _drop_nodes_without_outputs,
    "weight-type": _widen_half_weights,
    "double-tensor": _narrow_doubles,
    "activation-scale-shape": _make_scales_scalar,
    "int32-bias": _fold_biases,
    "quantised-scalar": _fold_scalars,
    "scale": _revive_dead_scales,
}
