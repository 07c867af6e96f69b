"""Who makes and who reads each tensor of an ONNX graph, and which tensors are constants."""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Topology:
    """An index over the top level of a graph; it goes stale when the graph is edited.

    A node is identified by the name of its first output: names of nodes are optional in ONNX, names of
    tensors are unique.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.outputs = frozenset(value.name for value in graph.output)
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        # an initializer may also be listed as an input; it is a constant to us, nobody feeds it
        self.inputs = tuple(value.name for value in graph.input if value.name not in self._initializers)
        self._producers = {output: node for node in graph.node for output in node.output if output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for tensor in dict.fromkeys(node.input):
                self._readers[tensor].append(node)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes ``tensor``; None for inputs and initializers."""
        return self._producers.get(tensor)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read ``tensor``, each once, in the order of the graph."""
        return self._readers.get(tensor, [])

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer or of a Constant node's output; None for anything computed."""
        if tensor in self._initializers:
            return numpy_helper.to_array(self._initializers[tensor])
        node = self._producers.get(tensor)
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
                if attribute.name in ("value_float", "value_floats"):
                    return np.array(onnx.helper.get_attribute_value(attribute), np.float32)
        return None

    def is_constant(self, tensor: str) -> bool:
        """Whether ``tensor`` has a value that no input changes."""
        node = self._producers.get(tensor)
        return tensor in self._initializers or (node is not None and node.op_type == "Constant")

    def names(self) -> set[str]:
        """Every tensor name in use."""
        return {*self._initializers, *self._producers, *self.inputs}


def node_id(node: onnx.NodeProto) -> str:
    """The name by which results and messages call a node: its first output."""
    return next((str(output) for output in node.output if output), "")


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of ``node`` as Python values."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the tensors of a graph as far as they can be inferred; None for an axis without a number."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(
                axis.dim_value if axis.HasField("dim_value") else None for axis in axes
            )
    shapes.update((tensor.name, tuple(tensor.dims)) for tensor in inferred.initializer)
    return shapes
