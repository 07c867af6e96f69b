"""Constants that are added behind a layer become its bias."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from .base import GraphPass, Report, unheard
from .editing import (
    DEFAULT_DOMAINS,
    Constants,
    attributes,
    drop_unread,
    has_subgraphs,
    replace_nodes,
    set_attributes,
)

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


class FoldBias(GraphPass):
    """Folds an Add or Sub of a constant for each channel into the bias of the layer before it.

    The layer is a Conv, ConvTranspose or Gemm whose output nobody else reads; the constant is a scalar or
    has one number for each output channel, such as (C, 1, 1) or (1, C, 1, 1). The sum is the same but for
    rounding, and it takes the name of what the Add made. Paddle's exporter, for one, writes every bias as an
    Add. Left alone: a constant minus a layer's output, weights or a bias that are computed or not float32,
    and graphs with control flow.
    """

    def __init__(self, report: Report = unheard) -> None:
        self._report = report

    def edit(self, model: ModelProto) -> ModelProto:
        graph = model.graph
        if has_subgraphs(graph):
            return model
        folded: list[str] = []
        constants = _constants(graph)
        new_names = Constants(graph)
        reads = Counter(name for node in graph.node for name in node.input)
        reads.update(value.name for value in graph.output)
        layers: dict[str, NodeProto] = {}
        nodes = []
        for node in graph.node:
            found = _addend(node, constants)
            layer = layers.get(found[0]) if found is not None and reads[found[0]] == 1 else None
            bias = None if found is None or layer is None else _bias(layer, found[1], constants)
            if layer is None or bias is None:
                nodes.append(node)
                if node.op_type in _LAYERS and node.domain in DEFAULT_DOMAINS:
                    layers[node.output[0]] = node
                continue
            folded += [*node.input, *layer.input[2:]]
            name = new_names.unused(f"{layer.input[1]}/bias")
            constants[name] = bias
            _set_bias(layer, name, bias, graph)
            del layers[layer.output[0]]
            layer.output[0] = node.output[0]
            layers[layer.output[0]] = layer
        if len(nodes) < len(graph.node):
            self._report(f"{len(graph.node) - len(nodes)} added constants are biases now")
            replace_nodes(graph, nodes)
            drop_unread(graph, set(folded))
        return model


def _constants(graph: GraphProto) -> dict[str, NDArray[np.float32]]:
    """The float32 constants by name, those of Constant nodes too."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if tensor.data_type == TensorProto.FLOAT
    }


def _addend(
    node: NodeProto, constants: dict[str, NDArray[np.float32]]
) -> tuple[str, NDArray[np.float32]] | None:
    """What an Add or Sub adds to a tensor: the tensor's name and the constant. None for any other node."""
    if node.op_type not in ("Add", "Sub") or node.domain not in DEFAULT_DOMAINS:
        return None
    first, second = node.input
    if second in constants and first not in constants:
        return first, constants[second] if node.op_type == "Add" else -constants[second]
    if node.op_type == "Add" and first in constants and second not in constants:
        return second, constants[first]
    return None


def _bias(
    layer: NodeProto, addend: NDArray[np.float32], constants: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    """The layer's bias (C,) with ``addend``; None where that is not possible."""
    values = attributes(layer)
    weights = constants.get(layer.input[1])
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    if weights is None or (has_bias and layer.input[2] not in constants):
        return None
    if layer.op_type == "Gemm":
        channels, rank, axis = weights.shape[0 if values.get("transB") else 1], 2, 1
    else:
        transposed = layer.op_type == "ConvTranspose"
        channels = weights.shape[1] * values.get("group", 1) if transposed else weights.shape[0]
        rank, axis = weights.ndim, 1
    sum_ = _by_channel(addend, channels, rank, axis)
    if has_bias:
        old = constants[layer.input[2]] * np.float32(values.get("beta", 1.0))
        before = _by_channel(old, channels, 2, 1) if layer.op_type == "Gemm" else old.astype(np.float64)
        sum_ = None if sum_ is None or before is None else sum_ + before
    return None if sum_ is None else sum_.astype(np.float32)


def _by_channel(
    value: NDArray[np.float32], channels: int, rank: int, axis: int
) -> NDArray[np.float64] | None:
    """``value`` as (channels,), where it has one number for each of them or one for all."""
    shape: Sequence[int] = (1,) * (rank - value.ndim) + value.shape
    if len(shape) != rank or any(length != 1 for index, length in enumerate(shape) if index != axis):
        return None
    if shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))


def _set_bias(layer: NodeProto, name: str, bias: NDArray[np.float32], graph: GraphProto) -> None:
    """Give the layer a bias of its own: the old one may have other readers."""
    graph.initializer.append(numpy_helper.from_array(bias, name))
    del layer.input[2:]
    layer.input.append(name)
    set_attributes(layer, beta=None)  # only a Gemm has it, and it is in the bias now
